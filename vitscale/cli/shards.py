"""`vitscale shards`: pack images into shards, index those of others, verify and describe them."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

_SOURCES = ("folder", "digits", "fashion-mnist", "icons")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the four commands below `vitscale shards`."""
    commands = parser.add_subparsers(dest="shards_command", required=True, metavar="COMMAND")
    _add_pack(commands.add_parser("pack", help="images to shards, index and manifest"))
    index = commands.add_parser("index", help="index the WebDataset tars in a folder")
    index.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of *.tar; they are only read"
    )
    index.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line")
    index.add_argument("--label-key", metavar="K", help="field of KEY.json that holds the label")
    verify = commands.add_parser("verify", help="read every byte again and report what is wrong")
    verify.add_argument("folder", type=Path, metavar="DIR")
    info = commands.add_parser("info", help="samples, classes, size and fingerprint")
    info.add_argument("folder", type=Path, metavar="DIR")
    for command in (index, verify, info):
        command.add_argument("--json", action="store_true", help="machine-readable output")


def _add_pack(pack: argparse.ArgumentParser) -> None:
    pack.add_argument(
        "--from", dest="source", required=True, choices=_SOURCES, help="where the images come from"
    )
    pack.add_argument(
        "path", type=Path, nargs="?", metavar="PATH", help="the image folder; else optional"
    )
    pack.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="gets DIR/train and DIR/held-out"
    )
    pack.add_argument(
        "--held-out-share", type=float, metavar="F", help="share of each class to hold out"
    )
    pack.add_argument(
        "--seed", type=int, default=0, help="of the shuffle and the split (default 0)"
    )
    pack.add_argument(
        "--shard-size", type=float, default=128, metavar="MIB", help="size of a shard (default 128)"
    )
    pack.add_argument(
        "--classes-subset", metavar="LABELS", help="only these classes, such as 0-4, relabelled"
    )
    pack.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="keeps what is fetched (default data/cache)",
    )
    pack.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    commands = {"pack": _pack, "index": _index, "verify": _verify, "info": _info}
    return commands[arguments.shards_command](arguments)


def _pack(arguments: argparse.Namespace) -> int:
    from vitscale.data.sources.choose import Choice, splits_of
    from vitscale.data.write import pack_splits
    from vitscale.errors import ConfigError

    if arguments.shard_size <= 0:
        raise ConfigError("must be above 0", where="--shard-size", given=arguments.shard_size)
    choice = Choice(
        source=arguments.source,
        path=arguments.path,
        held_out_share=arguments.held_out_share,
        classes_subset=arguments.classes_subset,
        seed=arguments.seed,
        cache=arguments.cache,
    )
    shard_bytes = math.ceil(arguments.shard_size * 2**20)
    packed = pack_splits(
        splits_of(choice), arguments.to, seed=arguments.seed, shard_bytes=shard_bytes
    )
    records = [_record(arguments.to / name, manifest.facts) for name, manifest in packed.items()]
    return _print(records, arguments.json)


def _index(arguments: argparse.Namespace) -> int:
    from vitscale.data.tar_index import LabelRule, index_folder, read_class_names

    classes = read_class_names(arguments.classes) if arguments.classes else None
    manifest = index_folder(
        arguments.folder, classes=classes, labels=LabelRule(arguments.label_key)
    )
    return _print([_record(arguments.folder, manifest.facts)], arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from vitscale.data.verify import verify
    from vitscale.errors import DataError

    problems = verify(arguments.folder)
    if arguments.json:
        print(
            json.dumps({"folder": str(arguments.folder), "ok": not problems, "problems": problems})
        )
    else:
        print("\n".join(problems) or f"{arguments.folder}: every byte is as it was packed")
    return DataError.exit_code if problems else 0


def _info(arguments: argparse.Namespace) -> int:
    from vitscale.config.dataset import dataset_facts

    return _print([_record(arguments.folder, dataset_facts(arguments.folder))], arguments.json)


def _record(folder: Path, facts: Any) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "samples": facts.samples,
        "shards": facts.shards,
        "bytes": facts.bytes,
        "fingerprint": facts.fingerprint,
        "classes": list(facts.classes),
    }


def _print(records: list[dict[str, Any]], as_json: bool) -> int:
    from vitscale.units import human_bytes

    if as_json:
        print(json.dumps(records))
        return 0
    for record in records:
        names = record["classes"]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        print(f"{record['folder']}")
        print(f"  samples      {record['samples']:,}")
        print(f"  classes      {len(names):,}: {shown}")
        print(f"  shards       {record['shards']:,}, {human_bytes(record['bytes'])}")
        print(f"  fingerprint  {record['fingerprint']}")
    return 0

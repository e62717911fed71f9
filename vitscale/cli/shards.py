"""`vitscale shards`: pack images into shards, index those of others, verify them and look inside."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vitscale.cli import audit, shards_look, shards_pack, shards_vtab
from vitscale.cli.shard_pieces import add_pieces, pieces_of, progress_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `vitscale shards`."""
    commands = parser.add_subparsers(dest="shards_command", required=True, metavar="COMMAND")
    shards_pack.add_pack(commands.add_parser("pack", help="images to shards, index and manifest"))
    _add_index(commands.add_parser("index", help="index the WebDataset tars in a folder"))
    verify = commands.add_parser("verify", help="read every byte again and report what is wrong")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.add_argument(
        "--decode",
        action="store_true",
        help="also decode every image and name those that cannot be",
    )
    add_pieces(verify)
    info = commands.add_parser("info", help="samples, classes, size and fingerprint")
    info.add_argument("folder", type=Path, metavar="DIR")
    for command in (verify, info):
        command.add_argument("--json", action="store_true", help="machine-readable output")
    shards_look.add_commands(commands)
    shards_vtab.add_command(commands)
    audit.add_arguments(
        commands.add_parser("audit", help="prove that a run saw each sample exactly once an epoch")
    )


def _add_index(index: argparse.ArgumentParser) -> None:
    index.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of *.tar; they are only read"
    )
    index.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names, one a line (default: those of a manifest that is there)",
    )
    index.add_argument("--label-key", metavar="K", help="field of KEY.json that holds the labels")
    reuse = index.add_mutually_exclusive_group()
    reuse.add_argument(
        "--fresh", action="store_true", help="make every sidecar anew, also those that still fit"
    )
    reuse.add_argument(
        "--trust-size",
        action="store_true",
        help="keep a sidecar whose tar has the right size, without hashing the tar",
    )
    add_pieces(index)
    index.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    commands = {
        "pack": _pack,
        "index": _index,
        "verify": _verify,
        "info": _info,
        **shards_look.COMMANDS,
        "import-vtab": shards_vtab.run,
        "audit": audit.run,
    }
    return commands[arguments.shards_command](arguments)


def _pack(arguments: argparse.Namespace) -> int:
    packed = shards_pack.pack(arguments)
    records = []
    for name, one in packed.items():
        record = _record(arguments.to / name, one.manifest)
        records.append(record | {"reencoded": one.changed, "skipped": len(one.skipped)})
    return _print(records, arguments.json)


def _index(arguments: argparse.Namespace) -> int:
    from vitscale.data.class_names import read_class_names
    from vitscale.data.labels import LabelRule
    from vitscale.data.tar_index import Reuse, index_folder

    manifest = index_folder(
        arguments.folder,
        classes=read_class_names(arguments.classes) if arguments.classes else None,
        labels=LabelRule(arguments.label_key),
        reuse=Reuse(allowed=not arguments.fresh, hashing=not arguments.trust_size),
        pieces=pieces_of(arguments),
        progress=progress_of("indexing"),
    )
    return _print([_record(arguments.folder, manifest)], arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from vitscale.data.verify import verify
    from vitscale.errors import DataError

    problems = verify(
        arguments.folder,
        decoding=arguments.decode,
        pieces=pieces_of(arguments),
        progress=progress_of("verifying"),
    )
    if arguments.json:
        record = {"folder": str(arguments.folder), "ok": not problems, "problems": problems}
        print(json.dumps(record))
    else:
        print("\n".join(problems) or f"{arguments.folder}: every byte is as it was packed")
    return DataError.exit_code if problems else 0


def _info(arguments: argparse.Namespace) -> int:
    from vitscale.config.dataset import read_manifest

    return _print([_record(arguments.folder, read_manifest(arguments.folder))], arguments.json)


def _record(folder: Path, manifest: Any) -> dict[str, Any]:
    facts = manifest.facts
    return {
        "folder": str(folder),
        "samples": facts.samples,
        "shards": facts.shards,
        "bytes": facts.bytes,
        "fingerprint": facts.fingerprint,
        "most_labels": manifest.most_labels,
        "unlabelled": manifest.unlabelled,
        "classes": list(facts.classes),
    }


def _print(records: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(records))
        return 0
    for record in records:
        sys.stdout.write(_in_words(record))
    return 0


def _in_words(record: dict[str, Any]) -> str:
    from vitscale.units import human_bytes

    names = record["classes"]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    lines = [
        record["folder"],
        f"  samples      {record['samples']:,}",
        f"  classes      {len(names):,}: {shown}",
        f"  shards       {record['shards']:,}, {human_bytes(record['bytes'])}",
        f"  fingerprint  {record['fingerprint']}",
    ]
    if record["most_labels"] > 1 or record["unlabelled"]:
        about = f"up to {record['most_labels']} a sample, {record['unlabelled']:,} without any"
        lines.append(f"  labels       {about}")
    if record.get("reencoded"):
        lines.append(f"  re-encoded   {record['reencoded']:,}")
    if record.get("skipped"):
        lines.append(f"  skipped      {record['skipped']:,}, listed in skipped.csv")
    return "\n".join(lines) + "\n"

"""`vitscale shards stats | peek | show | dedup`: what is inside a data set."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitscale.cli.shard_pieces import add_pieces, pieces_of, progress_of


def add_commands(commands: Any) -> None:
    """Add the four commands."""
    _add_stats(commands.add_parser("stats", help="classes, sizes, kinds and labels in figures"))
    _add_peek(commands.add_parser("peek", help="a contact sheet: some images with their labels"))
    _add_show(commands.add_parser("show", help="one sample: where it is, and its image as a file"))
    _add_dedup(commands.add_parser("dedup", help="images that are also in another data set"))


def _add_stats(stats: argparse.ArgumentParser) -> None:
    stats.add_argument("folder", type=Path, metavar="DIR")
    stats.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the distributions")
    stats.add_argument("--json", action="store_true", help="machine-readable output")


def _add_peek(peek: argparse.ArgumentParser) -> None:
    peek.add_argument("folder", type=Path, metavar="DIR")
    peek.add_argument("--to", type=Path, required=True, metavar="FILE.png", help="the picture")
    peek.add_argument("--count", type=int, default=24, help="images at most (default 24)")
    peek.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="only these classes: names or numbers",
    )
    peek.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("folder", type=Path, metavar="DIR")
    which = show.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", type=int, metavar="N", help="number of the sample")
    which.add_argument("--key", help="key of the sample")
    show.add_argument("--to", type=Path, metavar="FILE", help="write the image file here")
    show.add_argument("--json", action="store_true", help="machine-readable output")


def _add_dedup(dedup: argparse.ArgumentParser) -> None:
    dedup.add_argument("folder", type=Path, metavar="A", help="such as pretraining images")
    dedup.add_argument(
        "--against", type=Path, required=True, metavar="B", help="such as a test set of transfer"
    )
    dedup.add_argument("--report", type=Path, metavar="FILE.csv", help="every pair")
    dedup.add_argument(
        "--keys-to", type=Path, metavar="FILE", help="the keys of A that are in B, one a line"
    )
    dedup.add_argument(
        "--distance",
        type=int,
        metavar="N",
        help="differing bits of 64 up to which images are alike (default 8)",
    )
    add_pieces(dedup)
    dedup.add_argument("--json", action="store_true", help="machine-readable output")


def _stats(arguments: argparse.Namespace) -> int:
    from vitscale.data.stats import in_words, plot, stats_of

    stats = stats_of(arguments.folder)
    if arguments.plot is not None:
        _check_picture(arguments.plot, "--plot")
        with _writing(arguments.plot, "--plot"):
            plot(stats, arguments.plot)
    print(json.dumps(stats.to_json()) if arguments.json else in_words(stats))
    return 0


def _peek(arguments: argparse.Namespace) -> int:
    from vitscale.data.contact_sheet import sheet_of

    _check_picture(arguments.to, "--to")
    sheet = sheet_of(
        arguments.folder, count=arguments.count, labels=arguments.labels, seed=arguments.seed
    )
    with _writing(arguments.to, "--to"):
        sheet.save(arguments.to, "PNG")
    print(f"{arguments.to}: {sheet.width} x {sheet.height} px")
    return 0


def _check_picture(path: Path, where: str) -> None:
    from vitscale.errors import ConfigError

    if path.suffix.lower() != ".png":
        raise ConfigError("the picture is a PNG", where=where, given=path, do="End it in .png.")
    _check_folder(path, where)


def _check_folder(path: Path, where: str) -> None:
    from vitscale.errors import ConfigError

    if not path.absolute().parent.is_dir():
        raise ConfigError("its folder does not exist", where=where, given=path, do="Make it first.")


@contextmanager
def _writing(path: Path, where: str) -> Iterator[None]:
    """Turn what the disk says into an error that names the option."""
    from vitscale.errors import ResourceError

    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise ResourceError(what, where=where, given=path, do="Choose another file.") from error


def _write_report(path: Path, matches: Sequence[Sequence[object]]) -> None:
    """A CSV with every pair."""
    with (
        _writing(path, "--report"),
        open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("a_shard", "a_key", "b_shard", "b_key", "distance"))
        table.writerows(matches)


def _show(arguments: argparse.Namespace) -> int:
    from vitscale.data.one_sample import describe

    if arguments.to is not None:
        _check_folder(arguments.to, "--to")
    found = describe(arguments.folder, sample=arguments.id, key=arguments.key)
    if arguments.to is not None:
        with _writing(arguments.to, "--to"):
            arguments.to.write_bytes(found.data)
    record = found.to_json()
    if arguments.json:
        print(json.dumps(record))
    else:
        record["labels"] = ", ".join(record["labels"]) or "none"
        print("\n".join(f"{name:<8} {value}" for name, value in record.items()))
    return 0


def _dedup(arguments: argparse.Namespace) -> int:
    from vitscale.data.duplicates import DISTANCE, find_duplicates

    for path, where in ((arguments.report, "--report"), (arguments.keys_to, "--keys-to")):
        if path is not None:
            _check_folder(path, where)
    found = find_duplicates(
        arguments.folder,
        arguments.against,
        distance=DISTANCE if arguments.distance is None else arguments.distance,
        pieces=pieces_of(arguments),
        progress=progress_of("hashing"),
    )
    keys = list(dict.fromkeys(match.key for match in found.matches))
    if arguments.report is not None:
        _write_report(arguments.report, found.matches)
    if arguments.keys_to is not None:
        head = f"# images of {arguments.folder} that are also in {arguments.against}\n"
        text = head + "".join(f"{key}\n" for key in keys)
        with _writing(arguments.keys_to, "--keys-to"):
            arguments.keys_to.write_text(text, encoding="utf-8", errors="surrogateescape")
    record = {
        "images": len(keys),
        "pairs": len(found.matches),
        "compared": list(found.compared),
        "without_detail": found.plain,
        "undecodable": found.undecodable,
    }
    if arguments.json:
        print(json.dumps(record))
        return 0
    ours, theirs = found.compared
    print(
        f"{len(keys):,} of {ours:,} images are like one of {theirs:,}; {len(found.matches):,} pairs"
    )
    if found.plain or found.undecodable:
        print(f"not compared: {found.plain:,} without detail, {found.undecodable:,} undecodable")
    return 0


COMMANDS = {"stats": _stats, "peek": _peek, "show": _show, "dedup": _dedup}

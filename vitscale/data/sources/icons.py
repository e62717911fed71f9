"""Icons as a small stand-in for a large, noisy web corpus: the npm package `@iconify/json`, 238 sets by many artists.

The label is the icon's name where at least `min_sets` sets draw it: "home", "trash", "wifi". Held
out are whole sets, and all sets of an author together, since sets of one author share drawings.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vitscale.data.random_keys import generator
from vitscale.data.samples import Sample, Split, Splits
from vitscale.data.sources.fetch import npm_package
from vitscale.errors import DataError, ResourceError

PACKAGE, VERSION = "@iconify/json", "2.2.535"
HELD_OUT_SETS = 24
MIN_SETS = 20
SIDE_PX = 28
_REFUSED_LICENCES = ("-NC", "GPL")
"""Not for commercial use, and the GPL family (LGPL and AGPL by the same letters)."""
_SMALLEST_HELD_OUT_SET = 30
_RENDERED_AT_A_TIME = 64


@dataclass(frozen=True)
class IconPlan:
    """What is packed: label by name, licence facts by set, and the sets held out."""

    labels: dict[str, int]
    collections: dict[str, Any]
    held_out: frozenset[str]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels)


def icons_splits(
    *,
    cache: Path,
    min_sets: int = MIN_SETS,
    held_out_sets: int = HELD_OUT_SETS,
    seed: int = 0,
    side_px: int = SIDE_PX,
    executor: Executor | None = None,
    tarball: Path | None = None,
) -> Splits:
    """Fetch, choose and render; rendering happens while the samples are iterated.

    Args:
        cache: folder that keeps the package.
        min_sets: sets that must draw a name before it is a class.
        held_out_sets: whole sets in the "held-out" split.
        seed: draws the authors that are held out.
        side_px: height and width.
        executor: renders; two processes by default.
        tarball: the package, if it is at hand.

    Raises:
        ResourceError: the package cannot be fetched, or resvg-py is not installed.
    """
    path = package(cache, tarball)
    plan = make_plan(path, min_sets, held_out_sets, seed)
    return splits_of(path, plan, side_px, executor)


def package(cache: Path, tarball: Path | None = None) -> Path:
    """The package, fetched into `cache` unless it is at hand.

    Raises:
        ResourceError: it cannot be fetched, or resvg-py is not installed.
    """
    _check_renderer()
    return tarball or npm_package(PACKAGE, VERSION, cache)


def splits_of(path: Path, plan: IconPlan, side_px: int, executor: Executor | None = None) -> Splits:
    """The icons of a plan, rendered while they are iterated, the held-out sets apart."""
    notes = {"LICENCES.txt": licence_text(plan.collections)}
    return {
        name: Split(plan.classes, _samples(path, plan, held_out, side_px, executor), notes)
        for name, held_out in (("train", False), ("held-out", True))
    }


def _check_renderer() -> None:
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "resvg-py is not installed", do="pip install 'vitscale[demo]'"
        ) from error


def names_by_set(tarball: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Facts of the sets whose licence allows this use, and the names of their icons, sorted, by set.

    Raises:
        DataError: the package is damaged.
    """
    collections = _allowed_collections(tarball)
    names = {prefix: sorted(icons["icons"]) for prefix, icons in _sets(tarball, collections)}
    if lost := sorted(collections.keys() - names.keys()):
        raise _damaged(tarball, f"it lists sets that it does not hold: {', '.join(lost[:5])}")
    return collections, names


def make_plan(tarball: Path, min_sets: int, held_out_sets: int, seed: int) -> IconPlan:
    """Choose classes and held-out sets; classes without a training icon are dropped."""
    collections, names = names_by_set(tarball)
    drawn = Counter(name for in_set in names.values() for name in in_set)
    frequent = {name for name, count in drawn.items() if count >= min_sets}
    sizes = {prefix: len(frequent.intersection(in_set)) for prefix, in_set in names.items()}
    held_out = _choose_held_out(collections, sizes, held_out_sets, seed)
    trained = {name for prefix in names if prefix not in held_out for name in names[prefix]}
    classes = sorted(frequent & trained)
    if not classes or len(held_out) < held_out_sets:
        raise DataError(
            f"{len(classes)} classes and {len(held_out)} sets to hold out are left",
            where=str(tarball),
            given=f"{min_sets} sets a class, {held_out_sets} sets held out",
            do="Ask for fewer.",
        )
    return IconPlan({name: number for number, name in enumerate(classes)}, collections, held_out)


def _allowed_collections(tarball: Path) -> dict[str, Any]:
    """`collections.json` without the sets whose licence forbids this use; sets it does not list are out."""
    listed = next(_members(tarball, "package/collections.json"), None)
    if listed is None:
        raise _damaged(tarball, "it has no collections.json")
    return {prefix: facts for prefix, facts in listed.items() if _is_allowed(facts)}


def _licence(facts: dict[str, Any]) -> str:
    licence = facts.get("license", {})
    return licence.get("spdx") or licence.get("title") or ""


def _is_allowed(facts: dict[str, Any]) -> bool:
    licence = _licence(facts)
    return bool(licence) and not any(part in licence for part in _REFUSED_LICENCES)


def _choose_held_out(
    collections: dict[str, Any], sizes: dict[str, int], wanted: int, seed: int
) -> frozenset[str]:
    """Whole authors in random order while their sets still fit into `wanted`; sets too small to score stay."""
    by_author: dict[str, list[str]] = defaultdict(list)
    for prefix in sorted(sizes):
        by_author[collections[prefix].get("author", {}).get("name", prefix)].append(prefix)
    authors = [author for author, sets in sorted(by_author.items()) if _scores(sets, sizes)]
    chosen: list[str] = []
    for number in generator("held-out icon sets", seed).permutation(len(authors)):
        sets = by_author[authors[number]]
        if len(chosen) + len(sets) <= wanted:
            chosen += sets
    return frozenset(chosen)


def _scores(sets: list[str], sizes: dict[str, int]) -> bool:
    return all(sizes[prefix] >= _SMALLEST_HELD_OUT_SET for prefix in sets)


def _members(tarball: Path, start: str) -> Iterator[dict[str, Any]]:
    """The JSON files whose path begins with `start`, in one pass, nothing unpacked to disk."""
    try:
        with tarfile.open(tarball, "r|gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.startswith(start) else None
                if file is not None:
                    yield json.load(file)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _damaged(tarball, str(error)) from error


def _damaged(tarball: Path, why: str) -> DataError:
    what = f"the package is damaged: {why}"
    return DataError(what, where=str(tarball), do="Remove it and run again.")


def _sets(tarball: Path, allowed: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for icons in _members(tarball, "package/json/"):
        if icons["prefix"] in allowed:
            yield icons["prefix"], icons


def _samples(
    tarball: Path, plan: IconPlan, held_out: bool, side_px: int, executor: Executor | None
) -> Iterator[Sample]:
    """Rendered icons, a set at a time."""
    own = ProcessPoolExecutor(2) if executor is None else None
    try:
        for prefix, icons in _sets(tarball, plan.collections):
            if (prefix in plan.held_out) != held_out:
                continue
            names = [name for name in sorted(icons["icons"]) if name in plan.labels]
            drawings = [svg_of(icons, name) for name in names]
            sides = [side_px] * len(names)
            pool = own or executor
            assert pool is not None
            pngs = pool.map(render, drawings, sides, chunksize=_RENDERED_AT_A_TIME)
            for name, png in zip(names, pngs, strict=True):
                yield Sample(f"{prefix}/{name}", "png", png, plan.labels[name])
    finally:
        if own is not None:
            own.shutdown(cancel_futures=True)


def svg_of(icons: dict[str, Any], name: str) -> str:
    """The whole SVG of an icon; sizes and origin not given with it are those of its set, then 16 and 0."""
    icon = icons["icons"][name]

    def value(key: str, default: float) -> float:
        return icon.get(key, icons.get(key, default))

    box = f"{value('left', 0)} {value('top', 0)} {value('width', 16)} {value('height', 16)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}"'
    return f'{head} color="#000">{icon["body"]}</svg>'


def render(svg: str, side_px: int) -> bytes:
    """A PNG of `side_px` x `side_px` on white: grey where the icon has no colour, otherwise RGB.

    Icons that are not square are centred.
    """
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=svg, width=side_px, height=side_px)
    with Image.open(io.BytesIO(bytes(data)), formats=("PNG",)) as drawn:
        canvas = Image.new("RGBA", (side_px, side_px), "white")
        left, upper = (side_px - drawn.width) // 2, (side_px - drawn.height) // 2
        canvas.alpha_composite(drawn.convert("RGBA"), (left, upper))
    image = canvas.convert("RGB")
    red, green, blue = (channel.tobytes() for channel in image.split())
    buffer = io.BytesIO()
    (image.convert("L") if red == green == blue else image).save(buffer, "PNG")
    return buffer.getvalue()


def licence_text(collections: dict[str, Any]) -> str:
    """Sets by licence with their authors."""
    by_licence: dict[str, list[str]] = defaultdict(list)
    for prefix, facts in sorted(collections.items()):
        author = facts.get("author", {}).get("name", "unknown author")
        by_licence[_licence(facts)].append(f"  {prefix}: {facts.get('name', prefix)}, {author}")
    parts = [
        f"{licence} ({len(sets)} sets)\n" + "\n".join(sets)
        for licence, sets in sorted(by_licence.items())
    ]
    head = f"Icons rendered from the npm package {PACKAGE} {VERSION}. Each set has its own licence:\n\n"
    return head + "\n\n".join(parts) + "\n"

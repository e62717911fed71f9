"""Class names from a file: the names in order, or a map from old names to new ones that renames and merges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitscale.data.samples import Sample, Split
from vitscale.errors import DataError

_LISTED = 20


@dataclass(frozen=True)
class ClassMap:
    """`names` by new label; `renamed` from old name to new, empty when the file was a plain list of names."""

    names: tuple[str, ...]
    renamed: dict[str, str]
    where: str

    def apply(self, split: Split) -> Split:
        """The split with these classes; every class of the split has to have its place.

        Classes that a source only numbers take their names from a plain list.

        Raises:
            DataError: classes that the file does not name, or old names that the split does not have; all are listed.
        """
        if not self.renamed and not split.named:
            self._check_enough(split)
            return Split(self.names, split.samples, split.notes)
        if not self.renamed and len(set(self.names)) < len(self.names):
            what = "a class name comes twice, so classes cannot be told apart by their names"
            raise DataError(what, where=self.where, do="Make the names different.")
        old_to_new = self.renamed or {name: name for name in self.names}
        self._refuse("classes of the source are not in the file", split.classes, old_to_new)
        if self.renamed:
            self._refuse("old names are no class of the source", old_to_new, split.classes)
        label_of = {name: label for label, name in enumerate(self.names)}
        new = [label_of[old_to_new[name]] for name in split.classes]
        samples = (_relabelled(sample, new) for sample in split.samples)
        return Split(self.names, samples, split.notes)

    def _check_enough(self, split: Split) -> None:
        if len(self.names) < len(split.classes):
            raise DataError(
                f"label {len(split.classes) - 1} has no class name",
                where=self.where,
                given=f"{len(self.names)} names",
                do="Give one name a line, in the order of the labels.",
            )

    def _refuse(self, what: str, wanted: Iterable[str], known: Iterable[str]) -> None:
        found = set(known)
        missing = [name for name in wanted if name not in found]
        if missing:
            shown = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
            what = f"{len(missing)} {what}: {shown}"
            raise DataError(what, where=self.where, do="Add or correct them.")


def _relabelled(sample: Sample, new: list[int]) -> Sample:
    return sample._replace(label=tuple(sorted({new[label] for label in sample.labels})))


def read_class_map(path: Path) -> ClassMap:
    """Read names, one a line in the order of the labels, or lines `old<TAB>new`.

    Raises:
        DataError: it cannot be read, is empty, mixes both forms, or names something twice.
    """
    lines = _lines(path)
    if "\t" not in lines[0]:
        return ClassMap(read_class_names(path), {}, str(path))
    renamed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        old, _, new = (part.strip() for part in line.partition("\t"))
        if not (old and new and line.count("\t") == 1):
            raise _bad_line("is not `old<TAB>new`", path, number)
        if old in renamed:
            raise _bad_line(f"names {old!r} a second time", path, number)
        renamed[old] = new
    return ClassMap(tuple(dict.fromkeys(renamed.values())), renamed, str(path))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the labels.

    Raises:
        DataError: it cannot be read, or a name is empty.
    """
    names = tuple(name.strip() for name in _lines(path))
    for number, name in enumerate(names, 1):
        if not name:
            raise _bad_line("is empty", path, number)
        if "\t" in name:
            raise _bad_line("holds a tab, which is for maps `old<TAB>new`", path, number)
    return names


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names cannot be read: {error}", where=str(path)) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError("a class name is empty", where=str(path), do="Write one name a line.")
    return lines


def _bad_line(why: str, path: Path, number: int) -> DataError:
    return DataError(f"line {number} {why}", where=str(path), do="Write one class name a line.")

"""Walks the members of a tar in one pass: USTAR, GNU and PAX, long names, base-256 sizes.

Unlike `tarfile`, which takes a damaged header in the middle for the end of the archive, every byte
has to make sense: a tar ends with its end mark or it is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import xxhash

from vitscale.errors import DataError

BLOCK = 512
_CHUNK = 1 << 20
_LONGEST_NAME = 1 << 20
_KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hard link", b"2": "symbolic link",
    b"3": "device", b"4": "device", b"5": "folder", b"6": "pipe", b"S": "sparse file",
}  # fmt: skip
_PACKERS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar; `header` and `data` are byte offsets."""

    name: str
    kind: str
    header: int
    data: int
    size: int


class TarReader:
    """Reads a tar front to back; `hashing` sees every byte, otherwise unread data is skipped by seeking."""

    def __init__(self, file: BinaryIO, where: str, *, hashing: bool = False) -> None:
        self._file, self.where = file, where
        self.at = 0
        self.hasher = xxhash.xxh3_128() if hashing else None

    def read(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            DataError: the tar ends before.
        """
        data = self._file.read(size)
        if self.hasher is not None:
            self.hasher.update(data)
        self.at += len(data)
        if len(data) < size:
            raise self.damaged(f"the tar is cut short: it ends at byte {self.at}", self.at)
        return data

    def skip_to(self, offset: int) -> None:
        """Go on at `offset`, reading what lies between if it is to be hashed.

        Raises:
            DataError: the tar ends before.
        """
        if self.hasher is None:
            end = self._file.seek(0, os.SEEK_END)
            self.at = self._file.seek(min(offset, end))
        while self.at < offset:
            self.read(min(_CHUNK, offset - self.at))

    def chunks(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes in pieces of bounded size."""
        while size:
            piece = self.read(min(_CHUNK, size))
            size -= len(piece)
            yield piece

    def expect_end(self, mark: int) -> None:
        """Nothing but zeros may follow the end mark at `mark`; tars that were joined hide samples there."""
        while piece := self._file.read(_CHUNK):
            if self.hasher is not None:
                self.hasher.update(piece)
            if piece.strip(b"\0"):
                what = (
                    f"data follows the end mark at byte {mark}, which other readers would not see"
                )
                raise self.damaged(what, self.at)
            self.at += len(piece)

    def damaged(self, why: str, offset: int) -> DataError:
        return DataError(
            why, where=f"{self.where}, byte {offset}", do="Copy or make this shard again."
        )


def members(tar: TarReader) -> Iterator[Member]:
    """Each member in order; between two the caller may read the data of the first.

    Raises:
        DataError: the tar is cut short, damaged, packed, or has no end mark.
    """
    extra: dict[str, str] = {}
    while True:
        header_at = tar.at
        block = tar.read(BLOCK)
        if not block.strip(b"\0"):
            tar.expect_end(header_at)
            return
        _check_header(block, tar, header_at)
        kind, size = block[156:157], _number(block[124:136], tar, header_at)
        if kind in b"LKxg":
            extra |= _extension(kind, _text_of(tar, size, header_at), tar, header_at)
            tar.skip_to(_after(header_at + BLOCK, size))
            continue
        member = _member(block, size, extra, header_at)
        extra = {}
        yield member
        tar.skip_to(_after(member.data, member.size))


def _after(data: int, size: int) -> int:
    return data + -(-size // BLOCK) * BLOCK


def _check_header(block: bytes, tar: TarReader, at: int) -> None:
    """The sum of the bytes, the checksum itself counted as spaces; old writers summed signed bytes."""
    summed = block[:148] + b" " * 8 + block[156:]
    for magic, name in _PACKERS:
        if at == 0 and block.startswith(magic):
            what = f"the tar is packed with {name}, so its images cannot be reached one by one"
            raise DataError(what, where=tar.where, do="Unpack it to a plain .tar.")
    difference = sum(summed) - _number(block[148:156], tar, at)
    if difference and difference != 256 * sum(byte > 127 for byte in summed):
        raise tar.damaged("damaged tar header", at)


def _number(field: bytes, tar: TarReader, at: int) -> int:
    """Octal text, or GNU's base-256 for what does not fit."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError as error:
        raise tar.damaged("damaged tar header", at) from error


def _text_of(tar: TarReader, size: int, at: int) -> bytes:
    if size > _LONGEST_NAME:
        raise tar.damaged(f"damaged tar header: a name of {size} bytes", at)
    return tar.read(size)


def _extension(kind: bytes, data: bytes, tar: TarReader, at: int) -> dict[str, str]:
    """What a GNU long name or a PAX header says about the member that follows."""
    if kind == b"K":
        return {}
    if kind == b"L":
        return {"path": _decoded(data.split(b"\0")[0])}
    records = _pax_records(data, tar, at)
    if kind == b"g" and not {"path", "size"}.isdisjoint(records):
        raise tar.damaged("a global PAX header renames or resizes all members", at)
    return records if kind == b"x" else {}


def _pax_records(data: bytes, tar: TarReader, at: int) -> dict[str, str]:
    """Records `LENGTH key=value` and a line feed, where LENGTH counts all of that."""
    records = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or data[length - 1 : length] != b"\n":
            raise tar.damaged("damaged PAX header", at)
        records[_decoded(key)] = _decoded(value)
        data = data[length:]
    return records


def _member(block: bytes, size: int, extra: dict[str, str], at: int) -> Member:
    name = extra.get("path") or _name(block)
    kind = _KINDS.get(block[156:157], "unknown entry")
    if any(key.startswith("GNU.sparse.") for key in extra):
        kind = "sparse file"
    if kind == "file" and name.endswith("/"):
        kind = "folder"  # tars from before POSIX have no type for it
    if re.fullmatch("[0-9]{1,19}", extra.get("size", "")):
        size = int(extra["size"])
    has_data = kind in ("file", "sparse file", "unknown entry")
    return Member(name, kind, at, at + BLOCK, size if has_data else 0)


def _name(block: bytes) -> str:
    name = _decoded(block[:100].split(b"\0")[0])
    prefix = _decoded(block[345:500].split(b"\0")[0]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")

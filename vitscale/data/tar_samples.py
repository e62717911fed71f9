"""Groups the members of anybody's WebDataset tar into samples: files that share a key and stand together.

Keys and extensions follow webdataset's own rule (`base_plus_ext`): the key ends at the first dot of
the file name, extensions are compared in lower case, and members that the rule skips are skipped
here too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import crc32c

from vitscale.data.image_headers import OTHER, Header, read_header
from vitscale.data.index import LONGEST, hash_of_key
from vitscale.data.labels import LabelRule
from vitscale.data.samples import IMAGE_EXTENSIONS
from vitscale.data.tar_headers import Member, TarReader, members
from vitscale.errors import DataError

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_LONGEST_LABEL_FILE = 16 << 20
_HEAD = 4 << 20
"""Bytes from the front of an image in which its size is looked for; JPEGs have it behind profiles and previews."""


_NO_HEADER = Header(OTHER, 0, 0)


@dataclass
class TarSample:
    """One sample; `labels` are the label files by extension, `header` what the image itself says."""

    key: str
    key_hash: int
    offset: int
    extensions: set[str] = field(default_factory=set)
    labels: dict[str, bytes] = field(default_factory=dict)
    image: Member | None = None
    crc: int = 0
    header: Header = _NO_HEADER


def samples_of(tar: TarReader, labels: LabelRule) -> Iterator[TarSample]:
    """The samples of a tar in order, each complete.

    Raises:
        DataError: a damaged tar; a link or sparse file; a key met twice; two images; no image at all.
    """
    current: TarSample | None = None
    seen: set[int] = set()
    for member in members(tar):
        key, extension = _split(member, tar)
        if key is None or extension is None:
            continue
        if current is None or key != current.key:
            if current is not None:
                yield _complete(current, tar)
            current = _begin(key, member, seen, tar)
        _take(member, extension, current, labels, tar)
    if current is not None:
        yield _complete(current, tar)


def _complete(sample: TarSample, tar: TarReader) -> TarSample:
    if sample.image is None:
        found = ", ".join(f".{extension}" for extension in sorted(sample.extensions))
        kinds = ", .".join(IMAGE_EXTENSIONS)
        raise _refused(f"no image (.{kinds}), only {found}", sample.key, sample.offset, tar)
    return sample


def labels_of(sample: TarSample, rule: LabelRule, tar: TarReader) -> tuple[int, ...]:
    """The labels of a sample by `rule`.

    Raises:
        DataError: a label file that cannot be read, named by shard, key and byte.
    """
    try:
        return rule.read(sample.labels)
    except ValueError as error:
        raise _refused(str(error), sample.key, sample.offset, tar) from error


def _split(member: Member, tar: TarReader) -> tuple[str | None, str | None]:
    """Key and lower-case extension of a member, None where it belongs to no sample."""
    name = member.name
    if member.kind == "folder" or (name.startswith("__") and _META.match(name)):
        return None, None
    key, extension = split_name(name)
    if member.kind != "file" and key is not None:
        raise _refused(f"{name} is a {member.kind}", key, member.header, tar)
    return key, extension.lower() if extension is not None else None


def split_name(name: str) -> tuple[str | None, str | None]:
    """Key and extension by webdataset's rule `base_plus_ext`; None where a name has none.

    The rule stands here again because webdataset imports torch, which takes longer to start than most
    tars take to index; a test holds the two together.
    """
    found = _NAME.match(name)
    return (found[1], found[2]) if found else (None, None)


def _begin(key: str, member: Member, seen: set[int], tar: TarReader) -> TarSample:
    hashed = hash_of_key(key)
    if hashed in seen:
        raise _refused("the key comes twice, with other samples between", key, member.header, tar)
    seen.add(hashed)
    return TarSample(key, hashed, member.header)


def _take(
    member: Member, extension: str, sample: TarSample, labels: LabelRule, tar: TarReader
) -> None:
    """Note one file of the sample: the image's place, checksum and size, a label's bytes."""
    if extension in sample.extensions:
        raise _refused(f"two files with extension .{extension}", sample.key, member.header, tar)
    sample.extensions.add(extension)
    if extension in IMAGE_EXTENSIONS:
        if sample.image is not None:
            what = f"two images, {sample.image.name} and {member.name}"
            raise _refused(what, sample.key, member.header, tar)
        _take_image(member, sample, tar)
    elif extension in labels.extensions:
        if member.size > _LONGEST_LABEL_FILE:
            what = f"a label file of {member.size} bytes, {member.name}"
            raise _refused(what, sample.key, member.header, tar)
        sample.labels[extension] = tar.read(member.size)


def _take_image(member: Member, sample: TarSample, tar: TarReader) -> None:
    if member.size > LONGEST:
        raise _refused(f"{member.name} has {member.size} bytes", sample.key, member.header, tar)
    sample.image = member
    head = b""
    for piece in tar.chunks(member.size):
        sample.crc = crc32c.crc32c(piece, sample.crc)
        if len(head) < _HEAD:
            head = head + piece if head else piece
    sample.header = read_header(head)


def _refused(why: str, key: str, offset: int, tar: TarReader) -> DataError:
    return DataError(
        why,
        where=f"{tar.where}, key {key!r}, byte {offset}",
        do="Make this shard again with the files of a sample side by side: one image and its labels.",
    )

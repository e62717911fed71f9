"""Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28 x 28, ten classes (MIT licence).

Taken from a folder of IDX files, the Debian package where it is installed, the same package
unpacked into the cache, or the official addresses: the first that works.
"""

from __future__ import annotations

from pathlib import Path

from vitscale.data.samples import Split, Splits
from vitscale.data.sources.fetch import FetchFailed, debian_package, url
from vitscale.data.sources.idx import idx_split
from vitscale.errors import DataError, ResourceError

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
OFFICIAL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_NOTE = "Fashion-MNIST, (c) 2017 Zalando SE, MIT licence (H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747).\n"


def fashion_mnist_splits(folder: Path | None = None, *, cache: Path) -> Splits:
    """The official split: "train" and, from the files named t10k, "held-out".

    Raises:
        ResourceError: the files are nowhere to be had; says what was tried.
        DataError: a file is damaged.
    """
    files = find_files(folder, cache)
    return {"train": _split(files, "train"), "held-out": _split(files, "t10k")}


def find_files(folder: Path | None, cache: Path) -> Path:
    """A folder that holds the four IDX files."""
    if folder is not None:
        if not _holds_all(folder):
            names = ", ".join(MD5)
            raise DataError(
                "the folder lacks some of the four files", where=str(folder), do=f"Needed: {names}."
            )
        return folder
    downloaded = cache / "fashion-mnist"
    for known in (INSTALLED, downloaded):
        if _holds_all(known):
            return known
    tried = [f"{INSTALLED}: not there"]
    try:
        return debian_package(PACKAGE, cache) / INSTALLED.relative_to("/")
    except FetchFailed as error:
        tried.append(str(error))
    try:
        downloaded.mkdir(parents=True, exist_ok=True)
        for name, md5 in MD5.items():
            url(OFFICIAL + name, md5, downloaded / name)
        return downloaded
    except FetchFailed as error:
        tried.append(str(error))
    raise ResourceError(
        "Fashion-MNIST could not be found or fetched; tried:\n  " + "\n  ".join(tried) + "\n",
        do=f"apt-get install {PACKAGE}, or name a folder with the four files.",
    )


def _holds_all(folder: Path) -> bool:
    return all((folder / name).is_file() for name in MD5)


def _split(files: Path, part: str) -> Split:
    split = idx_split(
        files / f"{part}-images-idx3-ubyte.gz", files / f"{part}-labels-idx1-ubyte.gz", part
    )
    if len(split.classes) > len(CLASSES):
        what = f"labels up to {len(split.classes) - 1}; there are {len(CLASSES)} classes"
        raise DataError(what, where=f"{files}, {part}", do="Fetch the files again.")
    return Split(CLASSES, split.samples, {"LICENCES.txt": _NOTE})

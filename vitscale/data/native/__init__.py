"""The image decoder in C: a box of a JPEG, resized, in one call without the interpreter.

It is optional. Whether it was built is known on import; why not, only when somebody insists on it.
"""

from __future__ import annotations

from types import ModuleType

from vitscale.errors import ResourceError

try:
    from vitscale.data.native import _pixels
except ImportError as error:
    _built: ModuleType | None = None
    _why = str(error)
else:
    _built, _why = _pixels, ""


def is_built() -> bool:
    """Whether the extension can be used here."""
    return _built is not None


def extension() -> ModuleType:
    """The extension module `_pixels`; its stub says what is in it.

    Raises:
        ResourceError: it was not built or cannot be loaded.
    """
    if _built is None:
        raise ResourceError(
            f"the image decoder in C cannot be loaded: {_why}",
            where="data.decode",
            do="Install a C compiler and the headers of libjpeg-turbo (Debian: gcc libjpeg62-turbo-dev) and install "
            "vitscale anew, or choose decode = 'pillow'.",
        )
    return _built


def plain_decode(data: bytes) -> tuple[bytes, int, int]:
    """All of a JPEG by libjpeg-turbo and nothing else: RGB bytes, width, height. The yardstick of benches and tests.

    Raises:
        ResourceError: the extension was not built.
        ValueError: it is no JPEG, or damaged.
    """
    return extension().plain_decode(data)

"""The one part that pyproject.toml cannot say: a C extension that may be missing.

Without a compiler or the headers of libjpeg-turbo the installation succeeds and says so; images are then decoded by
Pillow, which takes more processor time.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("vitscale/data/native")
NOTICE = (
    "vitscale: the fast image decoder was not built, Pillow will be used. "
    "It needs a C compiler and the headers of libjpeg-turbo (Debian: gcc libjpeg62-turbo-dev)."
)


class BuildIfPossible(build_ext):
    """Says in one line what a failed build means."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (
            Exception
        ) as error:  # compilers fail in many ways, none of which may stop the installation
            self.warn(f"{NOTICE} ({type(error).__name__}; what the compiler said stands above.)")


setup(
    ext_modules=[
        Extension(
            "vitscale.data.native._pixels",
            sources=sorted(str(path) for path in FOLDER.glob("*.c")),
            depends=sorted(str(path) for path in FOLDER.glob("*.h")),
            libraries=["jpeg"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE"],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildIfPossible},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

"""Tell NVIDIA apex from PyPI's unrelated package of the same name, without importing either.

PyPI's `apex` is a Pyramid toolkit of 2013; importing it raises an ImportError, so code that merely tries the
import takes it for "no apex" and runs slow kernels without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from vitscale.errors import ResourceError

_EXTENSIONS = ("amp_C", "fused_layer_norm_cuda", "fused_dense_cuda", "xentropy_cuda")
_NVIDIA_FILES = ("normalization/fused_layer_norm.py", "optimizers/fused_adam.py")
_BUILD = (
    "Build NVIDIA apex from source as docker/Dockerfile does "
    "(APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --no-build-isolation .)"
)


@dataclass(frozen=True)
class ApexState:
    """What `import apex` would find: absent, nvidia, nvidia-python-only or wrong-package."""

    state: str
    message: str
    extensions: tuple[str, ...] = ()

    def has(self, extension: str) -> bool:
        return self.state == "nvidia" and extension in self.extensions

    def lacks(self, extension: str) -> str:
        """Why the kernels of an extension cannot run, and the remedy; nothing where they can."""
        if self.has(extension):
            return ""
        if self.state != "nvidia":
            return self.message
        return f"NVIDIA apex was built without {extension}. {_BUILD}"


def find_apex(path: list[str] | None = None) -> ApexState:
    """Look for apex on `path` (default: `sys.path`) by its files; nothing is imported."""
    spec = PathFinder.find_spec("apex", path)
    if spec is None:
        return ApexState("absent", "NVIDIA apex is not installed; torch's own kernels are used")
    if not _is_nvidia(spec):
        return ApexState(
            "wrong-package",
            "the installed `apex` is PyPI's Pyramid toolkit, not NVIDIA apex. "
            f"Run `pip uninstall apex`. {_BUILD}, if you want its kernels",
        )
    built = tuple(name for name in _EXTENSIONS if PathFinder.find_spec(name, path) is not None)
    if not built:
        return ApexState(
            "nvidia-python-only",
            f"NVIDIA apex is installed without its CUDA extensions and cannot run. {_BUILD}",
        )
    return ApexState("nvidia", f"NVIDIA apex with {', '.join(built)}", built)


def refuse_wrong_apex(apex: ApexState) -> None:
    """Stop before a run whose kernels would silently be others than the user believes.

    Raises:
        ResourceError: PyPI's unrelated `apex` is installed.
    """
    if apex.state == "wrong-package":
        raise ResourceError(apex.message, where="apex")


def _is_nvidia(spec: ModuleSpec) -> bool:
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    return any((root / name).is_file() for root in roots for name in _NVIDIA_FILES)

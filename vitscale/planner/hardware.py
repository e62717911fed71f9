"""Accelerators and the networks between them, as their makers state them, and what training reaches of that."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitscale.config.cluster import ClusterProfile
from vitscale.errors import ConfigError

GB = 10**9
HOST_BYTES_S = 20e9
"""Between an accelerator and its host's memory, in each direction: four fifths of a PCIe 4 x16 slot's 25 GB/s."""
DISK_BYTES_S = 3e9
"""Of the disk that the ranks of a machine share, reading or writing: a guess at one NVMe drive."""
USABLE = 0.92
"""Of an accelerator's memory; the rest is the driver's, the libraries' and lost between allocations."""


@dataclass(frozen=True)
class Accelerator:
    """One GPU in the machine it is commonly sold in."""

    memory: float
    """Bytes."""
    matmul: float
    """Dense FLOP/s in bf16, and in fp16 with float32 sums."""
    bandwidth: float
    """Bytes/s of its memory."""
    link: float
    """Bytes/s to the others of its machine, in each direction."""
    network: float
    """Bytes/s of its share of the machine's network, in each direction."""
    capability: tuple[int, int]
    """CUDA's compute capability."""
    per_node: int = 8
    """GPUs of a machine."""
    reached: float = 0.65
    """Share of the roofline (planner/speed.py) that a published training of a ViT came to; see `ACCELERATORS`."""


ACCELERATORS = {
    # NVIDIA's data sheets; DGX machines with one port of the network for each GPU. `reached`: NeMo's ViT-g/14 on one
    # machine of 8 (docs.nvidia.com, NeMo framework, ViT performance): 693 images/s on A100, 1428 on H100; timm's eight
    # models on an RTX 3090 (results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv). Elsewhere it is a
    # guess: what its generation came to, or 0.65.
    "A100-40G": Accelerator(40 * GB, 312e12, 1555e9, 300e9, 25e9, (8, 0), reached=0.59),
    "A100-80G": Accelerator(80 * GB, 312e12, 2039e9, 300e9, 25e9, (8, 0), reached=0.59),
    "H100": Accelerator(80 * GB, 989e12, 3350e9, 450e9, 50e9, (9, 0), reached=0.46),
    "H200": Accelerator(141 * GB, 989e12, 4800e9, 450e9, 50e9, (9, 0), reached=0.46),
    "B200": Accelerator(180 * GB, 2250e12, 8000e9, 900e9, 50e9, (10, 0), reached=0.46),
    "L40S": Accelerator(48 * GB, 362e12, 864e9, 32e9, 25e9, (8, 9)),
    "L4": Accelerator(24 * GB, 121e12, 300e9, 32e9, 12.5e9, (8, 9)),
    "A10G": Accelerator(24 * GB, 70e12, 600e9, 16e9, 12.5e9, (8, 6), per_node=4),
    "RTX3090": Accelerator(24 * GB, 71e12, 936e9, 16e9, 1.25e9, (8, 6), per_node=4, reached=1.0),
    "RTX4090": Accelerator(24 * GB, 165e12, 1008e9, 16e9, 1.25e9, (8, 9), per_node=4),
}
"""By the names that Ray gives them, where it has one."""

_OF_ONE_NAME = {"A100": ("A100-80G", "A100-40G")}
"""Kinds that Ray finds out only the common name of; the largest first, since nothing that runs may be refused."""
_WITHOUT_BF16 = ("V100", "P100", "T4", "P4", "K80")


def kinds_of(name: str) -> tuple[str, ...]:
    """What in `ACCELERATORS` may be called so, the one it is taken for first; nothing where none is known.

    Ray's names ("A100-80G"), its constants (NVIDIA_A100_80G) and Slurm's spellings ("a100_80gb") are told alike.
    """
    for common, kinds in _OF_ONE_NAME.items():
        if _folded(name) == common:
            return kinds
    return tuple(kind for kind in ACCELERATORS if _folded(kind) == _folded(name))


def _folded(name: str) -> str:
    """In capitals, without maker, family and signs."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    return re.sub(r"^NVIDIA|TESLA|GEFORCE|(?<=\dG)B$", "", plain)


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name`, or the first of those called so.

    Raises:
        ConfigError: nothing is known of one of that name.
    """
    if kinds := kinds_of(name):
        return ACCELERATORS[kinds[0]]
    old = _folded(name) in _WITHOUT_BF16
    raise ConfigError(
        "this accelerator has no bf16, in which the planner reckons"
        if old
        else "the planner knows nothing of this accelerator",
        where="cluster.accelerator",
        given=name,
        do=f"It knows {', '.join(ACCELERATORS)}: name the nearest.",
    )


@dataclass(frozen=True)
class Cluster:
    """So many GPUs, so many of them in a machine."""

    gpu: Accelerator
    world: int
    per_node: int

    @property
    def nodes(self) -> int:
        return -(-self.world // self.per_node)

    @property
    def bus(self) -> float:
        """Bytes/s a GPU moves in a ring over all of them, in each direction.

        Rings go through every port of a machine side by side, so several machines are as fast as one as long as the
        ports together carry what a link does.
        """
        if self.nodes == 1:
            return self.gpu.link
        return min(self.gpu.link, self.gpu.network * min(self.per_node, self.world))


def cluster_of(profile: ClusterProfile) -> Cluster | None:
    """What the ranks of a profile run on; None where it names no accelerator.

    Raises:
        ConfigError: nothing is known of the accelerator.
    """
    if profile.accelerator is None:
        return None
    gpu = accelerator(profile.accelerator)
    return Cluster(gpu, profile.workers, profile.workers_per_node or gpu.per_node)

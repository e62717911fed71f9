"""Our kernels compiled for GPUs that are not here: what the assembler says of registers, stack and loads."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vitscale.ops.kernels import add_norm, bias_gelu, sparse_sigmoid
from vitscale.ops.kernels.shapes import block_of, rows_of, warps_of

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INTEGERS = ("rows", "images_tokens", "classes", "most")
FLOATS = {"statistics", "parts", "losses", "shares", "spread", "given"}
"""Pointers to float32 whatever the tokens are in."""


class Case(NamedTuple):
    """A kernel, its constants (None for a pointer that is left out), and its warps."""

    kernel: object
    constants: dict
    warps: int


def cases():
    """Every kernel as the launchers call it, for narrow and wide models."""
    for name, width, rms in (("layer", 384, False), ("layer", 1664, False), ("rms", 1024, True)):
        shape = {"WIDTH": width, "ROWS": rows_of(width), "BLOCK": block_of(width), "RMS": rms}
        forward = shape | {"bias": None} if rms else shape
        warps = warps_of(width)
        yield f"add_norm forward {name} {width}", Case(add_norm.add_norm_forward, forward, warps)
        yield f"add_norm backward {name} {width}", Case(add_norm.add_norm_backward, shape, warps)
    for name, tanh in (("erf", False), ("tanh", True)):
        constants = {"WIDTH": 1536, "TANH": tanh, "ROWS": bias_gelu.ROWS, "BLOCK": bias_gelu.BLOCK}
        warps = bias_gelu.WARPS
        yield f"gelu forward {name}", Case(bias_gelu.bias_gelu_forward, constants, warps)
        yield f"gelu backward {name}", Case(bias_gelu.bias_gelu_backward, constants, warps)
    constants, warps = {"BLOCK": sparse_sigmoid.BLOCK}, sparse_sigmoid.WARPS
    yield "sigmoid forward", Case(sparse_sigmoid.sparse_sigmoid_forward, constants, warps)
    yield "sigmoid backward", Case(sparse_sigmoid.sparse_sigmoid_backward, constants, warps)


class Build(NamedTuple):
    """What cuobjdump says of one binary."""

    registers: int
    stack: int
    wide_loads: int
    wide_stores: int


def build(case, capability, folder):
    """Compile for compute capability 8.0, 9.0 or 10.0 (80, 90, 100), for tokens in bf16."""
    signature, attributes = {}, {}
    for index, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name] = "constexpr"
        elif name in INTEGERS:
            signature[name] = "i32"
        elif name == "eps":
            signature[name] = "fp32"
        else:
            signature[name] = (
                f"*{'i64' if name == 'labels' else 'fp32' if name in FLOATS else 'bf16'}"
            )
            attributes[(index,)] = [["tt.divisibility", 16]]
    constants = {(case.kernel.arg_names.index(n),): v for n, v in case.constants.items()}
    source = ASTSource(case.kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"num_warps": case.warps})
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    command = [CUOBJDUMP, "-res-usage", "-sass", path]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{n}:(\d+)", code)[1]) for n in ("REG", "STACK"))
    return Build(
        registers,
        stack,
        len(re.findall(r"LDG\S*\.128", code)),
        len(re.findall(r"STG\S*\.128", code)),
    )

"""What a process keeps of the memory that it frees: counted by the system, as pages that had to be found anew."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from vitscale.engine.allocator import keep_freed_memory

def step():
    parts = [torch.ones(1 << 20) for _ in range(20)]
    whole = torch.cat(parts)
    del parts
    return float((whole * 2).sum())

done = keep_freed_memory(torch.device(sys.argv[1]))
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(done, found)
"""
PAGES = 80 * (1 << 20) // 4096
"""Of the largest tensor of a step, which is allotted twice."""


def faults(device: str, **environment: str) -> tuple[bool, int]:
    """Whether anything was done, and the pages that a sixth step, as large as those before, found anew."""
    command = [sys.executable, "-c", COUNT, device]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    done, found = answer.stdout.split()
    return done == "True", int(found)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_on_a_cpu_finds_its_memory_where_the_steps_before_left_it():
    done, found = faults("cpu")
    assert done
    assert found < PAGES / 20


@pytest.mark.parametrize(
    ("device", "environment"),
    [("cuda", {}), ("cpu", {"MALLOC_ARENA_MAX": "4"}), ("cpu", {"LD_PRELOAD": ""})],
)
def test_a_gpu_and_an_allocator_that_somebody_has_set_are_left_alone(device, environment):
    done, found = faults(device, **environment)
    assert not done
    assert found > PAGES

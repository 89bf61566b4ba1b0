"""That freed memory is kept: counted by the system, in page faults."""

import platform
import statistics
import subprocess
import sys

import pytest

STEPS, BYTES = 20, 2**26

SCRIPT = f"""
import resource
import torch
from adar_ray.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    before = faults()
    torch.ones({BYTES} // 4).sum()
    return faults() - before

keep_freed_memory()
for _ in range(10):  # until there is room for all that a step needs
    step()
for _ in range({STEPS}):
    print(step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc for it")
def test_tensors_of_later_steps_lie_where_earlier_ones_did():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    largest_page = 2**16  # bytes, on machines that have pages of 64 KiB
    # The median: where something small has taken a place in what a tensor freed, the next one does not fit.
    assert statistics.median(map(int, done.stdout.split())) < BYTES / largest_page / 10

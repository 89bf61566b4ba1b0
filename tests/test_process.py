"""What SIGTERM does while something runs that can save where it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from adar_ray.process import sigterm_noticed, usable_memory

SCRIPT = """
import os, signal, sys, time
from adar_ray.process import sigterm_noticed

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
with sigterm_noticed(float(sys.argv[1])) as is_noticed:
    print("ready", flush=True)
    while not is_noticed():
        time.sleep(0.01)
    print("noticed", flush=True)
    time.sleep(float(sys.argv[2]))
print("ended", flush=True)
time.sleep(60)
"""


def run(grace: float, work: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(grace), str(work)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noticed\n"
    return process


def test_the_first_is_noticed_and_the_handler_comes_back():
    handler = signal.getsignal(signal.SIGTERM)
    with sigterm_noticed() as is_noticed:
        assert not is_noticed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_noticed()
        os.kill(os.getpid(), signal.SIGTERM)  # at once: one signal that came on two ways
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_second_one_ends_it_at_once():
    process = run(grace=60, work=60)
    time.sleep(1.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7


def test_the_end_of_the_grace_period_ends_it():
    began = time.monotonic()
    assert run(grace=0.5, work=60).wait(10) == 7
    assert 0.5 <= time.monotonic() - began < 5


def test_after_the_block_nothing_comes_of_the_first():
    process = run(grace=0.5, work=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "ended\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7


def test_another_thread_changes_nothing():
    found = []

    def look() -> None:
        with sigterm_noticed() as is_noticed:
            found.append((is_noticed(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


@pytest.mark.parametrize(
    ("groups", "files", "gib"),
    [
        ("0::/pod/job", {"/sys/fs/cgroup/pod/memory.max": 4, "/sys/fs/cgroup/pod/memory.swap.max": 0}, 4),
        ("0::/pod", {"/sys/fs/cgroup/pod/memory.max": 4, "/sys/fs/cgroup/pod/memory.swap.max": 2}, 6),
        ("0::/pod", {"/sys/fs/cgroup/pod/memory.max": 4}, 4 + 64),
        (
            "9:memory:/pod",
            {
                "/sys/fs/cgroup/memory/pod/memory.limit_in_bytes": 4,
                "/sys/fs/cgroup/memory/pod/memory.memsw.limit_in_bytes": 5,
            },
            5,
        ),
        ("0::/", {}, 16 + 64),
    ],
)
def test_swap_counts_as_far_as_the_control_group_may_use_it(
    monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, int], gib: int
) -> None:
    texts = {path: str(limit << 30) for path, limit in files.items()}
    texts["/proc/meminfo"] = f"MemTotal: {16 << 20} kB\nSwapTotal: {64 << 20} kB"
    texts["/proc/self/cgroup"] = groups

    def read_text(path: Path) -> str:
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert usable_memory() == gib << 30

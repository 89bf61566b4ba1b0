"""Processes that talk to each other through gloo, as the workers of a training do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.multiprocessing import get_context, start_processes


def run_in_processes(work: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Runs `work(rank, *arguments)` in each and waits for all.

    They are forked from one process that has loaded `tests.preloaded`, so that none loads it again.
    """
    get_context("forkserver").set_forkserver_preload(["tests.preloaded"])
    start_processes(work, arguments, processes, start_method="forkserver")

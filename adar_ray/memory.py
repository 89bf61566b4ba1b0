"""Memory for tensors on the CPU."""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30  # bytes


def keep_freed_memory() -> None:
    """Makes this process keep the memory that tensors free, for the next step's tensors of the same sizes.

    By default, glibc returns large blocks to the system at once, and the next step gets them back page by
    page, zeroed. The peak memory does not change. Other C libraries are left alone. glibc has no way to read
    these settings back, so only entry points call this: commands that train or rank, and worker processes.
    Preparing data needs tables of ever other sizes, which would not fit into what is kept.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _KEPT)

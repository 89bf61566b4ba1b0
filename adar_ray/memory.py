"""Memory of tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30  # bytes


def keep_freed_memory() -> None:
    """Lets this process keep what its tensors free, for the next step's tensors of the same sizes.

    glibc gives large blocks back to the system at once, and the next step gets them page by page and zeroed.
    The peak of the process stays what it is. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _KEPT)

"""Compiled loops, for tensors on a CPU.

The first use of one loads them and Numba: half a second and 65 MB, which commands that only rank do without.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch


def runs_compiled(*tensors: torch.Tensor) -> bool:
    """Whether the tensors are where compiled loops can reach them, in single precision if not integers."""
    return all(
        tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.int64) for tensor in tensors
    )


def __getattr__(name: str) -> Any:
    loop = globals()[name] = getattr(importlib.import_module("adar_ray.kernels.loops"), name)
    return loop

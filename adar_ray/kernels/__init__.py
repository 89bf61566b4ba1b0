"""Compiled loops, for tensors on a CPU.

The first use of one loads them and Numba: half a second and 65 MB, which commands that only rank do without.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def runs_compiled(*tensors: torch.Tensor) -> bool:
    """Whether the tensors are where compiled loops can reach them, in single precision if not integers."""
    return all(
        tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.int64) for tensor in tensors
    )


def untraced(function: _Function) -> _Function:
    """The function, which `torch.compile` calls as it is: it cannot trace what leads to compiled loops."""
    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:  # to load it takes seconds; left to whoever compiles something
            return function(*arguments, **named)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*arguments, **named)

    return call  # type: ignore[return-value]


def __getattr__(name: str) -> Any:
    loop = globals()[name] = getattr(importlib.import_module("adar_ray.kernels.loops"), name)
    return loop

"""What a figure depends on, to be written beside it."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch


def environment() -> dict[str, str]:
    """The machine and the versions."""
    versions = {name: metadata.version(name) for name in ("adar-ray", "torch", "numpy", "ray")}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {gpu}",
        "python": platform.python_version(),
        **versions,
    }

"""What runs the steps of `prepare` and `synthesize`: this process, unless a Ray cluster is named."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adar_ray.data.driver import Driver
from adar_ray.data.local_driver import LocalDriver
from adar_ray.ray_address import ray_address
from adar_ray.storage import Folder


@contextlib.contextmanager
def driver_for(folder: Folder) -> Iterator[Driver]:
    """The Ray cluster that `RAY_ADDRESS` names; without it, this process.

    Args:
        folder: the dataset that is being written; what does not fit into memory goes there for a while.
    """
    if ray_address():
        # Here, because importing Ray takes a second.
        from adar_ray.data.ray_driver import RayDriver
        from adar_ray.ray_session import ray_session

        with ray_session():
            yield RayDriver()
    else:
        with tempfile.TemporaryDirectory(dir=folder.path if folder.is_local else None) as scratch:
            yield LocalDriver(Path(scratch))

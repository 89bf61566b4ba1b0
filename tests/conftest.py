"""One Ray session for all tests, and small data that several of them read."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adar_ray.data.dataset import Dataset

torch.set_num_threads(1)

HAND_MADE = """user,item,timestamp,rating
ann,a,10,5
ann,b,20,3
9,a,1,5
9,b,2,5
ann,c,30,4
9,Ä,3,2
10,b,7,4
10,c,7,4
Ω,a,100,5
10,d,9,4
ann,a,5,1
10,a,8,4
日本,c,1,5
Ω,10,50,5
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the shared Ray session, so that no one has to remember to.

    Files that take long come first, so that no process is left alone with one at the end.
    """
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
    long = {item.path for item in items if item.get_closest_marker("ray") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Ray session of all tests; `ray_session()` leaves one that is there already as it is.

    Ray's workers have the environment that Ray was started in, hence the object store's address here.
    """
    import ray
    from ray._raylet import AuthenticationTokenLoader

    from adar_ray.ray_session import fewer_processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        s3_port = free.getsockname()[1]
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # as `ray_session` starts it
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("RAY_ADDRESS", raising=False)
        # Ray keeps the first token that it reads in a process, and an earlier test may have made it read one.
        AuthenticationTokenLoader.instance().reset_cache()
        with fewer_processes():
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of a few lines: keys of several alphabets, a pair twice, times that tie."""
    path = tmp_path_factory.mktemp("source") / "hand-made.csv"
    path.write_text(HAND_MADE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A synthetic dataset whose training interactions lie in several shards of odd sizes."""
    from adar_ray.data.synthetic import synthesize

    out = tmp_path_factory.mktemp("synthetic") / "data"
    made = synthesize(300, 400, 6000, 1, out, rows_per_shard=1300)
    sizes = [shard.rows for shard in made.shards("train")]
    assert len(sizes) == 5
    assert any(size % 2 for size in sizes)
    return made


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk, and only on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="session")
def ranx_metrics() -> Callable[..., dict[str, Any]]:
    """Metrics by the library ranx, as plain Python: compiling it takes longer than all rankings here.

    Numba is told so for ranx alone. Our own loops, if one was first called meanwhile, could not be compiled.
    """
    import numba

    def metrics(relevant: Scores, scores: Scores, names: Sequence[str], **options: Any) -> dict[str, Any]:
        disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
        try:
            import ranx

            return ranx.evaluate(ranx.Qrels(relevant), ranx.Run(scores), names, **options)
        finally:
            numba.config.DISABLE_JIT = disabled

    return metrics

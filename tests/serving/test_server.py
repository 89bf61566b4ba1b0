"""`adar-ray serve` with Ray Serve."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

import adar_ray
from adar_ray.cli.main import cli
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.serving.server import served
from tests.inference.saving import save_untrained


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.mark.slow
def test_a_model_is_served_and_swapped_until_the_end(
    ray_cluster: None, dataset: Dataset, tmp_path: Path
) -> None:
    run, port = tmp_path / "run", free_port()
    first = save_untrained(run / "model", dataset, ["model.name=mf", "model.embedding_dim=4"])
    second = save_untrained(tmp_path / "second", dataset, ["model.name=mf", "model.embedding_dim=8"])
    with served(str(run), "127.0.0.1", port) as url, requests.Session() as session:

        def ask() -> dict[str, float]:
            answer = session.post(f"{url}/recommend", json={"user": "5", "k": 3}, timeout=10)
            assert answer.status_code == 200
            return {item["id"]: item["score"] for item in answer.json()["answers"][0]["items"]}

        old, new = (dict(adar_ray.load(model).recommend("5", 3)) for model in (first, second))
        assert ask() == pytest.approx(old, rel=1e-5)
        shutil.rmtree(first)
        shutil.copytree(second, first)
        deadline = time.monotonic() + 30
        while (answer := ask()) == pytest.approx(old, rel=1e-5):  # every request is answered meanwhile
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer == pytest.approx(new, rel=1e-5)
        with pytest.raises(AdarError, match=f"--port {port}: cannot listen there .*; give another"):
            served(str(run), "127.0.0.1", port).__enter__()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=10)


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "adar_ray.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(cli, ["serve", str(tmp_path)])
    assert (result.exit_code, result.stderr.strip()) == (
        1,
        "adar-ray: fastapi: is not installed; pip install 'adar-ray[serve]'",
    )

"""`adar-ray serve`, in its own process and with Ray Serve."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

import adar_ray
from adar_ray.cli.main import cli
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.serving import app, served_model
from adar_ray.serving.listener import listen
from adar_ray.serving.server import served
from tests.inference.saving import save_untrained


@pytest.mark.parametrize("replicas", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_model_is_served_and_swapped_until_the_end(
    replicas: int,
    dataset: Dataset,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if replicas:
        request.getfixturevalue("ray_cluster")
    monkeypatch.setattr(served_model, "LOOK_SECONDS", 0.05)
    run = tmp_path / "run"
    first = save_untrained(run / "model", dataset, ["model.name=mf", "model.embedding_dim=4"])
    second = save_untrained(tmp_path / "second", dataset, ["model.name=mf", "model.embedding_dim=8"])
    with served(str(run), "127.0.0.1", 0, replicas) as url, requests.Session() as session:

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
        port = url.rpartition(":")[2]
        with pytest.raises(
            AdarError, match=rf"--port {port}: cannot listen there \([^(]*in use\); give another"
        ):
            served(str(run), "127.0.0.1", int(port), replicas).__enter__()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=10)


def test_only_requests_that_wait_count_as_such(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_untrained(tmp_path / "model", dataset, ["model.name=mf", "model.embedding_dim=4"])
    with served(str(model), "127.0.0.1", 0) as url, contextlib.ExitStack() as stack:
        where = "127.0.0.1", int(url.rpartition(":")[2])

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(where))

        def health() -> requests.Response:
            return requests.get(f"{url}/health", timeout=10)

        for _ in range(app.MOST_WAITING // 100):  # as many as the listener keeps until they are accepted
            _ = [connect() for _ in range(100)]
            assert health().status_code == 200
        monkeypatch.setattr(app, "MOST_WAITING", 2)
        begun = [connect() for _ in range(2)]
        for connection in begun:  # without the body
            connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n")
        deadline = time.monotonic() + 10
        while (refused := health()).status_code == 200:
            assert time.monotonic() < deadline
        assert refused.status_code == 503
        assert refused.json() == {"detail": "2 requests are waiting; try again later"}
        begun[0].sendall(b"{}")
        assert begun[0].recv(100).startswith(b"HTTP/1.1 422 ")
        assert health().status_code == 200


def test_a_host_is_a_name_or_an_address_of_this_machine() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("localhost", None), ("::1", socket.AF_INET6)):
        if host == "::1" and not socket.has_dualstack_ipv6():
            continue
        with listen(host, 0) as listener:
            assert listener.family == (family or listener.family)
            assert listener.getsockname()[1]
    for host in ("256.1.1.1", "host.invalid", "192.0.2.1", "x" * 300, ""):
        with pytest.raises(AdarError, match=rf"--host {host} --port 0: cannot listen there .*; give another"):
            listen(host, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_requests_are_answered(
    number: signal.Signals, dataset: Dataset, tmp_path: Path
) -> None:
    model = save_untrained(tmp_path / "model", dataset, ["model.name=mf"])
    command = [sys.executable, "-m", "adar_ray.cli.main", "serve", str(model), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = json.loads(process.stdout.readline())["url"]
        codes: list[int] = []

        def ask() -> None:
            question = {"users": [str(user) for user in range(300)], "k": 10}
            codes.append(requests.post(f"{url}/recommend", json=question, timeout=20).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        requests.get(f"{url}/health", timeout=20)  # it was accepted before this one
        started = time.monotonic()
        process.send_signal(number)
        asking.join()
        assert (process.wait(), codes) == (0, [200])
        assert time.monotonic() - started < 5
        assert process.stderr.read() == "Ctrl-C ends it\n"
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=10)


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("server", "local_server", "app"):
        monkeypatch.delitem(sys.modules, f"adar_ray.serving.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(cli, ["serve", str(tmp_path)])
    assert (result.exit_code, result.stderr.strip()) == (
        1,
        "adar-ray: fastapi: is not installed; pip install 'adar-ray[serve]'",
    )

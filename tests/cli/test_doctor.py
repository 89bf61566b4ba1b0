"""`doctor`, on what is broken by hand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch

from adar_ray import process
from adar_ray.cli import checks
from tests.calling import Adar

TOKEN = "a-token-that-nobody-may-see"
RAY_VARIABLES = (
    *("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"),
    *("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"),
)
CHECKS = (
    *("python", "packages", "kernels", "cores", "memory", "shared memory", "gpu"),
    *("disk", "temporary folder", "storage", "dashboard", "ray"),
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def serve() -> Iterator[Callable[[str | None], str]]:
    """A head that knows only its version, and wants a token or none."""
    servers = []

    def start(token: str | None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_known = token is None or self.headers["Authorization"] == f"Bearer {token}"
                version = {"version": "4", "ray_version": metadata.version("ray"), "ray_commit": ""}
                answer = json.dumps(version) if is_known else "Unauthorized: a valid token is required"
                self.send_response(200 if is_known else 401)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_line_for_each_check(adar: Adar, tmp_path: Path) -> None:
    ended = adar("doctor", "--storage", tmp_path)
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert [line[9:27].strip() for line in lines] == list(CHECKS)
    assert all(line[:9].strip() in ("ok", "warning", "failed") for line in lines)
    assert "no cluster is named" in ended.out
    assert ended.status == int(any(line.startswith("failed") for line in lines))
    assert not list(tmp_path.iterdir())


def test_a_failed_check_is_exit_status_1(adar: Adar, closed: int) -> None:
    ended = adar("doctor", "--address", f"http://127.0.0.1:{closed}", "--json")
    assert ended.status == 1
    found = {row["check"]: row for row in json.loads(ended.out)}
    assert tuple(found) == CHECKS
    assert found["dashboard"]["status"] == "failed"
    assert "connection refused" in found["dashboard"]["message"]
    assert found["python"] == {"check": "python", "status": "ok", "message": sys.version.split()[0]}


def test_a_version_that_is_too_old_is_named_with_the_one_to_install() -> None:
    finding = checks.packages(["pyarrow>=999", "numpy>=1", "click>=8; extra == 'other'"])
    assert finding.status == "failed"
    assert finding.message == (
        f"pyarrow is {metadata.version('pyarrow')}, but adar-ray needs >=999; run pip install 'pyarrow>=999'"
    )
    finding = checks.packages(["nobody-has-this[extra]==1.*", "pyarrow>=999"])
    assert "nobody-has-this is not installed" in finding.message
    assert finding.message.endswith("run pip install 'nobody-has-this[extra]==1.*' 'pyarrow>=999'")


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    finding = checks.python()
    assert finding.status == "failed"
    assert finding.message.startswith("3.9.1, but adar-ray needs ")


def test_this_environment_has_what_is_required() -> None:
    assert checks.packages().status == "ok"
    assert f"torch {metadata.version('torch')}" in checks.packages().message


def test_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.kernels().status in ("ok", "warning")  # where the package cannot be written
    monkeypatch.setattr("adar_ray.kernels.contains", lambda *arrays: None, raising=False)
    assert checks.kernels().status == "failed"
    monkeypatch.setitem(sys.modules, "adar_ray.kernels", None)
    assert checks.kernels().status == "failed"
    assert "adar_ray.kernels" in checks.kernels().message


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, status in ((None, "ok"), (1 << 30, "warning"), (8 << 30, "ok")):
        monkeypatch.setattr(process, "usable_memory", lambda available=available: available)
        assert checks.memory().status == status


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "usable_memory", lambda: 8 << 30)
    for free, status in ((64 << 20, "warning"), (3 << 30, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", _disk(free, 3 << 30))
        assert checks.shared_memory(str(tmp_path)).status == status
    assert checks.shared_memory(str(tmp_path / "none")).status == "ok"


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["A", "B", "A"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device])
    assert checks.gpu().message == "2 × A, 1 × B"


def test_a_disk_that_is_almost_full_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, status in ((1 << 20, "failed"), (9 << 30, "warning"), (11 << 30, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", _disk(free, 100 << 30))
        assert checks.disk(str(tmp_path / "yet" / "to come")).status == status
        assert checks.temporary_folder().status == status


def _disk(free: int, total: int) -> Callable[[object], object]:
    return lambda path: SimpleNamespace(free=free, total=total)


def test_a_temporary_folder_that_ray_cannot_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'long' * 10}")
    assert "too long a path for Ray's sockets; set RAY_TMPDIR" in checks.temporary_folder().message
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc")  # root may write anywhere
    assert checks.temporary_folder().status == "failed"


def test_storage_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    for address in (tmp_path, tmp_path / "new" / "and" / "deep"):
        assert checks.storage(str(address)).status == "ok"
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert checks.storage(None).status == "ok"


@pytest.mark.parametrize("name", ["/proc/adar", "file/storage", "file"])
def test_storage_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    finding = checks.storage(str(tmp_path / name))
    assert finding.status == "failed"
    assert finding.message.startswith(f"{tmp_path / name}: ")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_secret_in_an_address_is_not_shown() -> None:
    for finding in (
        checks.storage("s3://key:hush-hush@bucket/runs"),
        checks.disk("s3://bucket/runs?secret_key=hush-hush"),
        checks.dashboard("ftp://me:hush-hush@head"),
        checks.dashboard("http://me:hush-hush@127.0.0.1:9"),
    ):
        assert finding.status == "failed"
        assert "hush" not in finding.message


def test_a_dashboard_with_a_token(
    serve: Callable[[str | None], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = serve(TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for a token
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    finding = checks.dashboard(None)
    assert finding.status == "failed"
    assert "; set RAY_AUTH_TOKEN to the cluster's token" in finding.message
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    finding = checks.dashboard(None)
    assert (finding.status, finding.message) == ("ok", f"{address} takes jobs with this token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{TOKEN}\nand another line")
    finding = checks.dashboard(None)
    assert finding.status == "failed"
    assert TOKEN not in finding.message


def test_a_dashboard_without_a_token_is_a_warning(
    serve: Callable[[str | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", serve(None))
    finding = checks.dashboard(None)
    assert finding.status == "warning"
    assert "takes jobs without a token" in finding.message


def test_a_silent_dashboard_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adar_ray.cluster.client.ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        finding = checks.dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert finding.status == "failed"
    assert "no answer in time" in finding.message


def test_the_cluster_that_commands_would_join(closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.ray().status == "ok"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert "for `adar-ray job`" in checks.ray().message
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    finding = checks.ray()
    assert finding.status == "failed"
    assert f"RAY_ADDRESS 127.0.0.1:{closed}: no Ray cluster answers" in finding.message

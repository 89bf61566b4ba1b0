"""Connecting to a cluster: whatever is wrong with the address or the token is one line, and soon."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from adar_ray import ray_session
from adar_ray.errors import AdarError, may_pass
from adar_ray.ray_session import Need, check_answers, check_room

TOKEN = "the-token-of-the-cluster"


def refusal(address: str) -> AdarError:
    with pytest.raises(AdarError) as caught:
        check_answers(address)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"RAY_ADDRESS {address}: ")
    return caught.value


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("foo", "is not the address of a cluster; give HOST:PORT"),
        ("::1", "is not the address of a cluster; give HOST:PORT"),
        ("http://head:8265", "is a dashboard"),
        ("ray://head:10001", "Ray Client cannot run Ray Data"),
    ],
)
def test_what_is_not_the_address_of_a_cluster(address: str, says: str) -> None:
    error = refusal(address)
    assert says in str(error)
    assert not may_pass(error)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(ray_session, "ANSWER_SECONDS", 0.3)
        error = refusal(f"127.0.0.1:{port}")
    assert "no answer within 0.3 s" in str(error)
    assert may_pass(error)
    monkeypatch.undo()
    with socket.socket() as held:  # so that nothing else listens there
        held.bind(("127.0.0.1", 0))
        error = refusal(f"127.0.0.1:{held.getsockname()[1]}")
    assert "no Ray cluster answers (Connection refused)" in str(error)
    assert may_pass(error)


@contextlib.contextmanager
def guarded_head() -> Iterator[str]:
    """A server that tells those who have the token that it is alive, as a cluster's head does."""

    class Head(grpc.GenericRpcHandler):
        def service(self, call):
            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                if ("authorization", f"Bearer {TOKEN}") not in call.invocation_metadata:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "missing or incorrect")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    head = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Head()])
    port = head.add_insecure_port("0.0.0.0:0")
    head.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.stop(None)


# In processes of their own, because Ray reads these variables once.
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "requires a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": TOKEN}, "requires a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token"}, "couldn't find an authentication token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "rejects the token in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/file"}, "/no/file"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, None),
    ],
    ids=str,
)
def test_a_cluster_with_a_token(variables: dict[str, str], says: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path)} | variables
    script = "import sys; from adar_ray.ray_session import check_answers; check_answers(sys.argv[1])"
    with guarded_head() as address:
        done = subprocess.run(
            [sys.executable, "-c", script, address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode == 0) == (says is None), done.stderr
    if says is not None:
        assert says in done.stderr.splitlines()[-1]


def test_room_that_a_cluster_never_has(ray_cluster: None) -> None:
    cpu, cpus = Need("CPU", 1, "train.threads=1"), Need("CPU", 5, "train.threads=5")
    check_room([cpu], 4, "--workers")
    with pytest.raises(AdarError, match=r"^train.threads=5: no machine of .* has more than 4 CPUs"):
        check_room([cpus], 1, "--workers")
    with pytest.raises(AdarError, match=r"^--workers 5: needs 5 CPUs, but the Ray cluster has 4"):
        check_room([cpu], 5, "--workers")


LISTEN = """
import subprocess

import ray

from adar_ray.ray_session import ray_session

start = ray.init


def slow(**options):  # what Ray says if the machine is too busy; it starts at the second try
    ray.init = start
    raise Exception("The current node timed out during startup.")


if __name__ == "__main__":
    ray.init = slow
    with ray_session(1):
        import psutil  # found once Ray, which brings it, is imported

        ray.get(ray.remote(lambda: 0).remote())  # so that there is a worker
        here = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [socket for process in here for socket in process.net_connections("inet")]
        print(*{socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN})
        # As an agent of Ray's whose raylet has died: nobody's child.
        orphan = subprocess.check_output(["sh", "-c", "sleep 300 >&- & echo $!"])
        here.append(psutil.Process(int(orphan)))
    left = [process.as_dict(["name", "status"]) for process in here if process.is_running()]
    print(*[process["name"] for process in left if process["status"] != psutil.STATUS_ZOMBIE])
"""


@pytest.mark.slow
def test_ray_on_this_machine_listens_on_this_machine_only_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "listen.py").write_text(LISTEN)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(tmp_path / "listen.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    listens, left = done.stdout.splitlines()
    assert {address.removeprefix("::ffff:") for address in listens.split()} == {"127.0.0.1"}, done
    assert len(left.split()) == 1, done  # itself

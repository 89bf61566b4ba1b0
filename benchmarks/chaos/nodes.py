"""A Ray cluster of three nodes on this machine, each in a network of its own where root allows that."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.chaos.processes import MARK, Seen, kill_marked, marked, wait_until

NODES = 3
CPUS = 3
_OBJECT_STORE = 80_000_000  # bytes
_START_SECONDS = 60.0
_TRIES = 3
_RAY = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH")


class Cables:
    """A network in a namespace for each node, and a bridge that a cable leads to from each."""

    def __init__(self) -> None:
        self._id = f"{os.getpid() % 0xFFFF:x}"
        self._bridge, net = f"chaos{self._id}", f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        self.host, self.ips = f"{net}.254", [f"{net}.{number + 1}" for number in range(NODES)]
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, ip in enumerate(self.ips):
            namespace, cable = self._namespace(number), self._cable(number)
            _ip("netns", "add", namespace)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", namespace, "addr", "add", f"{ip}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", namespace, "link", "set", device, "up")

    def prefix(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(number)]

    def switch(self, number: int, *, on: bool) -> None:
        """Cuts or restores the cable of a node."""
        _ip("link", "set", self._cable(number), "up" if on else "down")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)
        for number in range(NODES):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._namespace(number))

    def _namespace(self, number: int) -> str:
        return f"chaos{self._id}-{number}"

    def _cable(self, number: int) -> str:
        return f"chaos{self._id}-{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cluster:
    """The nodes. The first is the head, with the dashboard that takes jobs.

    Attributes:
        cables: None where networks cannot be made; the nodes then share this machine's.
        ips: of the nodes.
        environment, prefix: of a command that runs on the head.
    """

    def __init__(self) -> None:
        self.cables: Cables | None = None
        with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
            self.cables = Cables()
        self._temp = tempfile.mkdtemp(prefix="ray-")  # short, because Ray puts sockets there
        self.mark = Path(self._temp).name
        self.ips = self.cables.ips if self.cables else ["127.0.0.1"] * NODES
        ip = self.ips[0]
        self._gcs, dashboard, self._client = _free_ports(3)
        self.address, self.dashboard = f"{ip}:{self._gcs}", f"http://{ip}:{dashboard}"
        self._dashboard_port = dashboard
        self.environment = {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.prefix: Sequence[str] = self.cables.prefix(0) if self.cables else []
        self.repair()

    def node_mark(self, number: int) -> str:
        return f"{self.mark}-{number}"

    def processes(self, title: str = "", numbers: Iterable[int] = range(NODES)) -> list[Seen]:
        """Processes of some nodes whose titles match a pattern."""
        return [seen for number in numbers for seen in marked(self.node_mark(number), title)]

    def kill(self, numbers: Iterable[int]) -> None:
        """Kills all processes of nodes, as if the machines lost power."""
        for number in numbers:
            kill_marked(self.node_mark(number))

    def repair(self) -> None:
        """Starts the nodes that are not there any more, or that the head has given up.

        Raises:
            RuntimeError: not all of them come up.
        """
        if not self._alive():
            self.kill(range(NODES))
            self._start(0)
            if not wait_until(self._alive, _START_SECONDS, 0.5):
                raise RuntimeError("the head does not answer")
        for _ in range(_TRIES):
            alive = self._alive()
            for number in range(1, NODES):
                if self.ips[number] not in alive or not self.processes("/raylet/raylet ", [number]):
                    self.kill([number])
                    self._start(number)
            if wait_until(lambda: {*self.ips} <= {*self._alive()}, _START_SECONDS, 0.5):
                return
        raise RuntimeError("a node does not join the cluster")

    def _start(self, number: int) -> None:
        words = ["start", "--block", f"--num-cpus={CPUS}", f"--node-ip-address={self.ips[number]}"]
        words += [f"--object-store-memory={_OBJECT_STORE}", "--disable-usage-stats"]
        words += ["--min-worker-port=0", "--max-worker-port=0"]
        if number == 0:
            words += ["--head", f"--port={self._gcs}", f"--dashboard-port={self._dashboard_port}"]
            words += ["--dashboard-host=0.0.0.0", f"--ray-client-server-port={self._client}"]
            words += [f"--temp-dir={self._temp}"]
        else:
            words += [f"--address={self.address}"]
        prefix = self.cables.prefix(number) if self.cables else []
        environment = {name: value for name, value in os.environ.items() if name not in _RAY}
        environment |= self.environment | {MARK: self.node_mark(number), "OMP_NUM_THREADS": "1"}
        del environment["RAY_ADDRESS"]
        with open(Path(self._temp, f"{number}.log"), "ab") as log:
            command = [*prefix, str(Path(sys.executable).parent / "ray"), *words]
            subprocess.Popen(
                command,
                env=environment,
                cwd=self._temp,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _alive(self) -> list[str]:
        """The addresses of the nodes that the head counts; none if it does not answer."""
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes?limit=1000")
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except (OSError, http.client.HTTPException, TypeError, KeyError):
            return []
        return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]

    def close(self) -> None:
        self.kill(range(NODES))
        if self.cables is not None:
            self.cables.close()
        shutil.rmtree(self._temp, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

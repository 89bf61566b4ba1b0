"""The image, containers, and hosts to run them on, for the tests of `make test-cluster`.

They need no daemon: buildah builds and runs with chroot isolation, and a host is a network namespace.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = 1000  # of the image


def need(*programs: str) -> None:
    """Skip a test that cannot run here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install buildah podman debootstrap iproute2")


def run(*command: str | Path, timeout: float = 600, **options) -> subprocess.CompletedProcess[str]:
    """Run a command; if it fails, show its output."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, (
        f"{shlex.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done


@dataclass(frozen=True)
class Image:
    name: str
    build_secret: str | None
    """A mark in the secret of its build; None if the image existed before."""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of the Dockerfile, on Debian with Python as a substitute for its base image.

    Building takes minutes. Set `ADAR_RAY_TEST_IMAGE` to the name of an existing image to skip it.
    """
    need("buildah", "podman")
    if os.environ.get("ADAR_RAY_TEST_IMAGE"):
        yield Image(os.environ["ADAR_RAY_TEST_IMAGE"], None)
        return
    need("debootstrap")
    work = tmp_path_factory.mktemp("image")
    mark = secrets.token_hex(16)
    base, name = f"localhost/adar-ray-test-base:{mark[:8]}", f"localhost/adar-ray-test:{mark[:8]}"
    try:
        packages = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", packages, "bookworm", work / "base")
        run("tar", "-C", work / "base", "-cf", work / "base.tar", ".")
        run("podman", "import", work / "base.tar", base)
        shutil.rmtree(work / "base")
        (work / "base.tar").unlink()
        settings, mounts = package_index()
        secret = work / "pip.conf"
        secret.write_text(f"# {mark}\n[global]\n{settings}", encoding="utf-8")
        run(
            *("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--build-arg", f"BASE={base}"),
            *("--secret", f"id=pip,src={secret}"),
            *(word for mount in mounts for word in ("-v", f"{mount}:{mount}:ro")),
            *("-f", ROOT / "docker" / "Dockerfile", "-t", name, ROOT),
            timeout=3000,
        )
        yield Image(name, mark)
    finally:
        for made in (name, base):
            subprocess.run(["buildah", "rmi", made], capture_output=True, check=False)


def package_index() -> tuple[str, list[Path]]:
    """The pip configuration of this machine: lines of a pip.conf, and the files and folders they name."""
    listed = run(sys.executable, "-m", "pip", "config", "list").stdout
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        if key in ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy"):
            found.setdefault(key, []).extend(value.replace("\\n", " ").split())
    mounts = []
    for place in (place for places in found.values() for place in places):
        # An index in a folder links to files next to the folder.
        path = Path(place[7:]).parent if place.startswith("file://") else Path(place)
        if path.is_absolute() and path.exists():
            mounts.append(path)
    return "".join(f"{key} = {' '.join(dict.fromkeys(found[key]))}\n" for key in found), mounts


@dataclass(frozen=True)
class Host:
    """A network namespace with an address."""

    name: str
    address: str
    names: Path
    """The hosts file, with the addresses of all hosts."""


@dataclass
class Container:
    """A container: its own file system and processes, and the network of a host if one is given."""

    image: str
    volumes: dict[Path, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    host: Host | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = run("buildah", "from", self.image).stdout.strip()
        if self.host:
            # Container engines do this too: torch workers find each other by resolving the host name.
            run("buildah", "copy", self.name, self.host.names, "/etc/hosts")

    def command(self, *command: str) -> list[str]:
        # All processes end when the first one ends.
        inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        options = ["--isolation", "chroot"]
        if self.host:
            inside = ["ip", "netns", "exec", self.host.name, *inside]
            options += ["--hostname", self.host.name, "--no-hosts"]
        options += [f"--volume={place}:{path}" for place, path in self.volumes.items()]
        options += [f"--env={key}={value}" for key, value in self.environment.items()]
        return [*inside, "buildah", "run", *options, self.name, "--", *command]

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return run(*self.command(*command), timeout=timeout)

    def fails(self, *command: str, timeout: float = 120) -> str:
        """Run a command that must fail, and return its output."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def start(self, log: Path, *command: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as stream:
            process = subprocess.Popen(self.command(*command), stdout=stream, stderr=stream)
        self.started.append(process)
        return process

    def remove(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(["buildah", "rm", self.name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Callable[..., Container]]:
    """Create containers, and remove them afterwards."""
    made: list[Container] = []

    def make(**options) -> Container:
        made.append(Container(image.name, **options))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Four hosts on one switch."""
    need("ip")
    prefix = f"adar{secrets.token_hex(2)}"
    switch = f"{prefix}-switch"
    names = tmp_path_factory.mktemp("network") / "hosts"
    made = [Host(f"{prefix}-{n}", f"10.77.0.{n}", names) for n in range(1, 5)]
    lines = [f"{host.address} {host.name}" for host in made]
    names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), encoding="utf-8")
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in made:
            port = f"port{host.address[-1]}"
            run("ip", "netns", "add", host.name)
            run("ip", "-n", host.name, *f"link add eth0 type veth peer {port} netns {switch}".split())
            run("ip", "-n", switch, *f"link set {port} master bridge up".split())
            run("ip", "-n", host.name, *f"address add {host.address}/24 dev eth0".split())
            for device in ("eth0", "lo"):
                run("ip", "-n", host.name, "link", "set", device, "up")
        yield made
    finally:
        for name in (*(host.name for host in made), switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

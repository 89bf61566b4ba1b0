"""Other libraries, each in a process that stays alive so that both sides take turns while they are warm.

    python -m benchmarks.speed.peers --work scratch/

Makes the environment that they share, with pinned versions. A benchmark that needs it does the same. A peer
that cannot be installed or fails is named in one line and left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_work, argument_parser

PINS: dict[str, tuple[str, ...]] = {
    "torch": ("torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1", "pandas==2.3.3", "pyarrow==26.0.1"),
    "kernel": ("numba==0.68.1",),
    "implicit": ("implicit==0.7.3",),
    "lenskit": ("lenskit==2025.8.1",),
    "cornac": ("cornac==3.0.1",),
    "duckdb": ("duckdb==2.0.1",),
    "polars": ("polars==2.1.0",),
    # RecBole asks for a Ray of 2023, hence --no-deps, and for what it imports.
    "recbole": (
        "colorama==0.4.4",
        "colorlog==4.7.2",
        "plotly==7.1.0",
        "scikit-learn==1.9.1",
        "tabulate==0.10.0",
        "tensorboard==2.21.0",
        "texttable==1.7.2",
        "thop==0.1.1.post2209072238",
        "tqdm==4.70.1",
        "PyYAML==6.0.4",
    ),
    "recbole itself": ("--no-deps", "recbole==1.2.1"),
}
"""What pip installs, step by step. torch comes first, so that no other package brings another build of it."""

_ROOT = Path(__file__).parents[2]
_LONGEST = 600.0
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LK_NUM_PROCS",
    "LK_NUM_THREADS",
    "LK_NUM_BACKEND_THREADS",
)


class PeerError(Exception):
    """A peer that cannot be started, or whose answer is an error."""


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    print(environment(parser.parse_args().work))


def environment(work: Path) -> Path:
    """The Python of the peers' environment in `work/peers`, which is made unless it is there."""
    folder = work.resolve() / "peers"
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    pins = hashlib.sha256(json.dumps(PINS).encode()).hexdigest()
    if mark.exists() and mark.read_text() == pins:
        return python
    print(f"peers: installing {', '.join(PINS)}; this takes some minutes", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    for name, packages in PINS.items():
        pip = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
            capture_output=True,
            text=True,
        )
        if pip.returncode:
            reason = (pip.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"peers: {name} cannot be installed ({reason}); its rows are left out", flush=True)
    mark.write_text(pins)
    return python


def versions(*packages: str) -> dict[str, str]:
    """The pinned versions of some packages."""
    pins = dict(pin.split("==") for group in PINS.values() for pin in group if "==" in pin)
    return {package: pins[package] for package in packages}


class Peer:
    """A peer's process, which answers one command after the other.

    Args:
        name: of its module, `benchmarks.speed.peer_NAME`.
        log: what the peer prints goes there.

    Attributes:
        about: its answer to `start`.
    """

    def __init__(self, name: str, python: Path, log: Path) -> None:
        self.name, self.log = name, log
        self.about: dict[str, Any] = {}
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", f"benchmarks.speed.peer_{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            cwd=log.parent,
            env=variables,
            text=True,
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            PeerError: the peer answers with an error, ends, or takes more than ten minutes.
        """
        timer = threading.Timer(_LONGEST, self._process.kill)
        timer.start()
        try:
            print(json.dumps({"command": command, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise PeerError(f"{self.name}: {command} failed ({answer['error']})")
        return answer

    def seconds(self, command: str, **arguments: Any) -> float:
        return float(self.ask(command, **arguments)["seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        return (self.log.read_text().strip().splitlines() or ["it ended without a word"])[-1][:300]


@contextmanager
def started(
    work: Path, wanted: Mapping[str, Mapping[str, Any]], missing: dict[str, str]
) -> Iterator[dict[str, Peer]]:
    """Peers that have carried out their command `start`, by name.

    Args:
        wanted: the arguments of `start`, by name.
        missing: gets the reason for each peer that is left out.
    """
    python = environment(work)
    peers: dict[str, Peer] = {}
    try:
        for name, arguments in wanted.items():
            peer = Peer(name, python, work.resolve() / "logs" / f"{name}.log")
            try:
                peer.about = peer.ask("start", **arguments)
                peers[name] = peer
            except PeerError as error:
                peer.close()
                leave_out(name, error, missing)
        yield peers
    finally:
        for peer in peers.values():
            peer.close()


def leave_out(name: str, error: PeerError, missing: dict[str, str]) -> None:
    """Say and note that a peer is left out."""
    missing[name] = str(error)
    print(f"left out: {error}", flush=True)


if __name__ == "__main__":
    main()

"""An epoch of MF with BPR, one uniform negative, d = 64, against other libraries and a compiled kernel.

    python -m benchmarks.speed.step_mf --sources path/to/data --work scratch/

All sides train on the same interactions on one core and take turns, epoch by epoch. RecBole, LensKit and the
kernel update after each batch, with Adam. implicit and cornac update after each pair, with plain gradient
descent: for information. LensKit runs in the fastest of its modes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from adar_ray.data.dataset import Dataset
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours, peers
from benchmarks.speed.measure import add, ceiling, compare, one_core

CASES = (("ml-1m", 2_048), ("ml-1m", 8_192), ("gowalla", 2_048))
PEERS = ("recbole", "lenskit", "kernel", "implicit", "cornac")
_PACKAGES = ("torch", "recbole", "lenskit", "numba", "implicit", "cornac")


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each side")
    arguments = parser.parse_args()
    one_core()
    figures: dict[str, Any] = {"ceiling": ceiling(), "missing": {}, "peers": peers.versions(*_PACKAGES)}
    for data, batch_size in CASES:
        dataset = prepared(data, arguments.sources, arguments.work, DATA[data])
        case = f"{data}-{batch_size}"
        seconds = _alternate(dataset, arguments.work, case, batch_size, arguments.rounds, figures["missing"])
        add(figures, compare(seconds, f"{case}."))
        print(
            case, {name: row for name, row in figures["ratios"].items() if name.startswith(case)}, flush=True
        )
    record.write(
        "speed_step_mf",
        figures,
        description="Training seconds of an epoch of MF with BPR and one uniform negative, d = 64, one core; "
        "ratios to ours, above 1 where ours is faster.",
        seeds=[0],
    )


def _alternate(
    dataset: Dataset, work: Path, case: str, batch_size: int, rounds: int, missing: dict[str, str]
) -> dict[str, list[float]]:
    arrays = ours.write_arrays(dataset, work / "arrays" / dataset.name)
    wanted = {name: {"arrays": str(arrays), "batch_size": batch_size} for name in PEERS}
    with peers.started(work, wanted, missing) as running:
        for name in list(running):
            _turn(running, name, missing)  # to warm up
        if "lenskit" in running:
            print(case, running["lenskit"].about, flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in running}

        def others() -> None:
            for name in list(running):
                taken = _turn(running, name, missing)
                if taken is not None:
                    seconds[name].append(taken)

        started = time.perf_counter()
        settings = [*ours.MF, *ours.UNIFORM, f"train.batch_size={batch_size}"]
        own = ours.epochs(dataset, work / "runs" / case, settings, rounds, others)
        print(f"{case}: {time.perf_counter() - started:.0f} s", flush=True)
    return {"ours": own[1:]} | seconds


def _turn(running: dict[str, peers.Peer], name: str, missing: dict[str, str]) -> float | None:
    """A peer's epoch; None, and it is out, if it fails."""
    try:
        return running[name].seconds("epoch")
    except peers.PeerError as error:
        running.pop(name).close()
        peers.leave_out(name, error, missing)
        return None


if __name__ == "__main__":
    main()

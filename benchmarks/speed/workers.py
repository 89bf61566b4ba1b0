"""Two workers against one, each on a core of its own: MF on Gowalla and on 1M x 1M tables, and LightGCN.

    python -m benchmarks.speed.workers --sources path/to/data --work scratch/

Needs two cores that do nothing else, and gives a run one for each worker. Runs with one and two workers take
turns; start-up does not count, but saving an epoch while the next one trains does.
LightGCN trains on Amazon phone, where an epoch is short.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from adar_ray.data.dataset import Dataset
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours, synthetic
from benchmarks.speed.measure import add, ceiling, compare, one_thread

MILLION = (1_000_000, 1_000_000, 10_000_000)
"""Users, items and interactions."""
CASES = ("mf-gowalla", "mf-1m", "lightgcn-phone")
EPOCHS = 3  # timed epochs of a run, after one to warm up
_LIGHTGCN = ("model.name=lightgcn", "model.embedding_dim=64", "loss.name=bpr")


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    arguments = parser.parse_args()
    one_thread()
    mf = [*ours.MF, *ours.UNIFORM, "train.batch_size=8192"]
    lightgcn = [*_LIGHTGCN, *ours.UNIFORM, "train.batch_size=2048"]
    given = functools.partial(prepared, sources=arguments.sources, work=arguments.work)
    cases: dict[str, tuple[list[str], Callable[[], Dataset]]] = {
        "mf-gowalla": (mf, lambda: given("gowalla", options=DATA["gowalla"])),
        "mf-1m": (mf, lambda: synthetic.dataset(arguments.work, *MILLION)),
        "lightgcn-phone": (lightgcn, lambda: given("phone", options=DATA["phone"])),
    }
    cores = sorted(os.sched_getaffinity(0))
    figures = record.read_figures("speed_workers") | {"ceiling": ceiling()}
    for case in arguments.cases:
        settings, open_dataset = cases[case]
        dataset = open_dataset()
        seconds: dict[str, list[float]] = {"two": [], "one": []}
        for _ in range(arguments.rounds):
            for name, workers in (("two", 2), ("one", 1)):
                os.sched_setaffinity(0, cores[-workers:])
                run = arguments.work / "runs" / "workers"
                seconds[name] += ours.epochs(dataset, run, settings, EPOCHS, workers=workers)[1:]
        add(figures, compare(seconds, f"{case}.", ours="two"))
        print(case, seconds, flush=True)
    record.write(
        "speed_workers",
        figures,
        description="Training seconds of an epoch with one and with two workers, one thread each; ratios of "
        "one worker's to two workers'.",
        seeds=[0],
    )


if __name__ == "__main__":
    main()

"""A thousand trials on a small synthetic dataset: the driver's memory, and how long a trial takes.

    python -m benchmarks.tuning.thousand

The space is tune_spaces/smoke.yaml, with random search over the points of its grid.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from adar_ray.data.synthetic import synthesize
from adar_ray.tuning.folder import Search
from adar_ray.tuning.progress import Progress
from adar_ray.tuning.search import tune
from adar_ray.tuning.space import Space
from benchmarks import record
from benchmarks.arguments import argument_parser

SPACE = Path(__file__).parents[2] / "tune_spaces" / "smoke.yaml"
SEED = 0


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = parser.parse_args()
    space = Space.load(SPACE).model_dump(mode="json")
    space |= {"search": {"algorithm": "random", "seed": SEED}, "budget": {"trials": arguments.trials}}
    driver_mib: dict[int, float] = {}

    def on_progress(progress: Progress) -> None:
        ended = sum(trial.has_ended for trial in progress.trials)
        if ended % max(arguments.trials // 20, 1) == 0 and ended not in driver_mib:
            driver_mib[ended] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
            print(f"{ended} trials, {progress.seconds:.0f} s, driver {driver_mib[ended]} MiB", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        data = synthesize(users=300, items=200, interactions=6_000, seed=0, out=f"{scratch}/data")
        started = time.perf_counter()
        folder = tune(
            data,
            Space.from_mapping(space, str(SPACE)),
            f"{scratch}/search",
            concurrent=arguments.concurrent,
            settings=("model.name=mf",),
            seeds=0,
            on_progress=on_progress,
        )
        seconds = time.perf_counter() - started
        trials = Search.open(folder.address).read_trials()
    record.write(
        "tuning_thousand",
        {
            "trials": len(trials),
            "failed": sum(trial.status == "failed" for trial in trials),
            "concurrent": arguments.concurrent,
            "seconds": round(seconds, 1),
            "trial_seconds": round(seconds / len(trials), 3),
            "driver_mib": driver_mib,
        },
        description="Random trials of the smoke space on 6,000 synthetic interactions; driver_mib is the "
        "driver's peak memory by trials ended.",
        seeds=[SEED],
    )


if __name__ == "__main__":
    main()

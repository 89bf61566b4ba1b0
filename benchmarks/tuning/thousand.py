"""A thousand trials on a small synthetic dataset: what the driver's memory does, and how long a trial takes.

    python benchmarks/tuning/thousand.py

The space is tune_spaces/smoke.yaml, whose grid of four gives way to a random choice of its points.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray.data.synthetic import synthesize
from adar_ray.tuning.folder import Plan, read_trials
from adar_ray.tuning.search import Progress, tune_space
from adar_ray.tuning.spaces import Space

SPACE = Path(__file__).parents[2] / "tune_spaces" / "smoke.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = parser.parse_args()
    space = Space.load(SPACE).model_dump(mode="json")
    space |= {"search": {"algorithm": "random"}, "budget": {"trials": arguments.trials}}
    memory: dict[int, float] = {}

    def on_progress(progress: Progress) -> None:
        ended = sum(trial.has_ended for trial in progress.trials)
        if ended % (arguments.trials // 20) == 0 and ended not in memory:
            memory[ended] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
            print(f"{ended} trials, {progress.seconds:.0f} s, driver {memory[ended]} MiB", file=sys.stderr)

    with tempfile.TemporaryDirectory() as scratch:
        data = synthesize(users=300, items=200, interactions=6_000, seed=0, out=f"{scratch}/data")
        started = time.perf_counter()
        folder = tune_space(
            data,
            Space.from_mapping(space, str(SPACE)),
            f"{scratch}/search",
            concurrent=arguments.concurrent,
            seeds=0,
            on_progress=on_progress,
        )
        seconds = time.perf_counter() - started
        trials = read_trials(Plan.open(folder.address))
        content = {
            "what": "trials of the smoke space at random on 6,000 synthetic interactions",
            "trials": len(trials),
            "failed": sum(trial.status == "failed" for trial in trials),
            "concurrent": arguments.concurrent,
            "seconds": round(seconds, 1),
            "seconds a trial": round(seconds / len(trials), 3),
            "MiB of the driver at most so far, by trials ended": memory,
            "command": "python benchmarks/tuning/thousand.py",
            **environment(),
        }
    results = Path(__file__).parents[1] / "results" / "tuning_thousand.json"
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()

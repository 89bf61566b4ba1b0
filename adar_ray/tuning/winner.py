"""The winner of a search: its best configuration, retrained and tested."""

from __future__ import annotations

import statistics

from adar_ray.data.dataset import Dataset
from adar_ray.inference.evaluate import evaluate
from adar_ray.training.run import CONFIG, Run
from adar_ray.training.trainer import ignore_note, new_run, resume
from adar_ray.tuning.folder import RESULT, MetricOverSeeds, Search, WinnerResult
from adar_ray.tuning.report.search_report import write_report
from adar_ray.tuning.trial import Trial


def run_winner(search: Search, dataset: Dataset, best: Trial) -> None:
    """Train the best configuration with several seeds, rank test once for each, and report it.

    Nothing here chooses anything. A search that is resumed continues with the runs that are missing.
    """
    known = search.winner()
    if not search.seeds or (known is not None and known.trial == best.name):
        return
    seed = search.config(best.values).train.seed
    runs = [_run(search, dataset, best, seed + number) for number in range(search.seeds)]
    tests = [evaluate(run).metrics for run in runs]
    result = WinnerResult(
        trial=best.name,
        valid={search.space.metric: best.value_or_nan},
        seeds=search.seeds,
        test={name: _over_seeds([metrics[name] for metrics in tests]) for name in tests[0]},
    )
    search.owned().write_record(RESULT, result)
    write_report(search, search.read_trials())


def _run(search: Search, dataset: Dataset, best: Trial, seed: int) -> Run:
    config = search.config(best.values)
    config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    folder = search.folder.folder(f"winner/seed-{seed}")
    if folder.exists(CONFIG):
        run = Run.open(folder.address, trust=True)
        if run.config.used() == config.used():
            return resume(run, on_note=ignore_note)
    workers = search.workers if search.workers > 1 else 0
    run = new_run(dataset, folder.address, config, workers=workers, replace=True)
    run.write_tracker_parents(search.tracker_ids())
    return resume(run, on_note=ignore_note)


def _over_seeds(values: list[float]) -> MetricOverSeeds:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MetricOverSeeds(mean=statistics.mean(values), deviation=deviation)

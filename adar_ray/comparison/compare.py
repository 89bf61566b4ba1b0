"""A comparison from end to end: what is missing is trained and measured, then all are tested against one.

Legend: U users with interactions in the split.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adar_ray.baselines.item_to_item import TooLargeError
from adar_ray.baselines.names import BASELINES
from adar_ray.comparison.folder import (
    LATEX,
    MARKDOWN,
    PLAN,
    RESULT,
    Comparison,
    Plan,
    SplitFigures,
    SystemFigures,
    check_folder,
)
from adar_ray.comparison.systems import check_baselines, trained_systems
from adar_ray.comparison.tables import to_latex, to_markdown
from adar_ray.comparison.users import Split
from adar_ray.comparison.work import OnProgress, Outcome, Work, check_run, run_folder
from adar_ray.config import Config, nearest, parse_metric
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.lease import hold
from adar_ray.limits import MOST_REPEATS, check_number
from adar_ray.significance import holm, paired_p
from adar_ray.storage import Folder
from adar_ray.training.loop import VALIDATION_KS
from adar_ray.training.trainer import check_training, default_workers
from adar_ray.workers import WorkerRange


def compare(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    models: Sequence[str] = ("lightgcn",),
    samplers: Sequence[str] = ("uniform", "adar"),
    baselines: Sequence[str] = tuple(BASELINES),
    seeds: int = 3,
    settings: Sequence[str] = (),
    workers: int | str | None = None,
    reference: str | None = None,
    test: bool = False,
    on_progress: OnProgress = lambda done, total, text: None,
) -> Comparison:
    """Trains each model with each sampler, computes baselines, and tests all of them against one.

    Nothing is tuned. What the folder holds already is used again: an interrupted comparison continues, and
    one that is finished may get more systems, seeds, or figures on test.

    Args:
        data: a dataset with validation interactions.
        out: address of the comparison's folder.
        models, samplers: as in `model.name` and `sampler.name`. Each pair is a system, `MODEL-SAMPLER`.
        baselines: some of popularity, itemknn, ease and als.
        seeds: runs of each system, with the seed `train.seed` and those after it.
        settings: `section.key=value`, for all runs.
        workers: Ray Train workers of each run, as for `train`.
        reference: the system that the others are tested against. The default is the baseline that is best on
            validation, or the first system if there is no baseline.
        test: whether to measure on test as well.
        on_progress: called with the number of runs and baselines that are done, the number of all, and a line
            for people.

    Raises:
        AdarError: something cannot be compared, or the folder holds something else. Nothing is written.
    """
    check_number("--seeds", seeds, 1, MOST_REPEATS)
    dataset, folder, baselines = Dataset.open(data), Folder.at(out), list(dict.fromkeys(baselines))
    check_baselines(baselines)
    systems = trained_systems(models, samplers, seeds, settings)
    names = [*baselines, *systems]
    if reference is not None and reference not in names:
        raise AdarError(f"--reference {reference}: is not compared{nearest(reference, names)}")
    metric = next(iter(systems.values()))[0].train.metric
    ks = sorted({*VALIDATION_KS, parse_metric(metric)[1]})
    splits = [Split.of(dataset, name, ks) for name in (("valid", "test") if test else ("valid",))]
    _check(systems, dataset, folder, workers)
    plan = Plan(
        data=dataset.folder.address,
        checksum=dataset.checksum,
        systems=[*systems],
        baselines=baselines,
        seeds=seeds,
        settings=[*settings],
    )
    with hold(folder) as lease:
        folder.write_record(PLAN, plan)
        total = len(baselines) + seeds * len(systems)
        work = Work(folder, lease, dataset, splits, metric, workers, total, on_progress)
        outcomes, left_out = _computed(work, baselines, reference)
        best = max(outcomes, key=lambda name: outcomes[name][0]["valid"].means[metric], default=None)
        for system, configs in systems.items():
            outcomes[system] = [work.train(system, config) for config in configs]
        reference = reference or best or next(iter(systems))
        comparison = Comparison(
            dataset=dataset.name,
            data=plan.data,
            checksum=plan.checksum,
            metric=metric,
            reference=reference,
            left_out=left_out,
            splits={split.name: _figures(split, outcomes, reference, metric) for split in splits},
        )
        lease.check()
        folder.write_bytes(MARKDOWN, to_markdown(comparison).encode())
        folder.write_bytes(LATEX, to_latex(comparison).encode())
        folder.write_record(RESULT, comparison)
    return comparison


def _check(
    systems: Mapping[str, Sequence[Config]], dataset: Dataset, folder: Folder, workers: int | str | None
) -> None:
    """Refuses what would fail later, perhaps after hours."""
    wanted = WorkerRange.parse(default_workers() if workers is None else workers)
    for configs in systems.values():
        check_training(configs[0], dataset, wanted)
    check_folder(folder, dataset.checksum)
    for system, configs in systems.items():
        for config in configs:
            check_run(run_folder(folder, system, config), config)


def _computed(
    work: Work, baselines: Sequence[str], reference: str | None
) -> tuple[dict[str, list[dict[str, Outcome]]], dict[str, str]]:
    """The outcomes of the baselines, and which were left out, and why."""
    outcomes, left_out = {}, {}
    for name in baselines:
        try:
            outcomes[name] = [work.compute(name)]
        except TooLargeError as error:
            if name == reference:
                raise
            left_out[name] = str(error)
            work.tell_done(f"{error}; left out")
    return outcomes, left_out


def _figures(
    split: Split, outcomes: Mapping[str, Sequence[Mapping[str, Outcome]]], reference: str, metric: str
) -> SplitFigures:
    """The means over runs, and the tests against the reference."""
    runs = {name: [run[split.name] for run in each] for name, each in outcomes.items()}
    means = {
        name: {key: statistics.fmean(run.means[key] for run in each) for key in each[0].means}
        for name, each in runs.items()
    }
    value_U = {name: np.mean([run.value_U for run in each], axis=0) for name, each in runs.items()}
    others = [name for name in runs if name != reference]
    p = {name: paired_p(value_U[name], value_U[reference]) for name in others if len(split.key_U) > 1}
    p_holm = dict(zip(p, holm([*p.values()]), strict=True))
    base = means[reference][metric]
    systems = {
        name: SystemFigures(
            runs=len(each),
            metrics=means[name],
            deviations={key: statistics.stdev(run.means[key] for run in each) for key in means[name]}
            if len(each) > 1
            else None,
            gain=means[name][metric] / base - 1 if base and name != reference else None,
            p=p.get(name),
            p_holm=p_holm.get(name),
        )
        for name, each in runs.items()
    }
    return SplitFigures(users=len(split.key_U), systems=systems)

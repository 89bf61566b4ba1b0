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
    Tuned,
    UserGroup,
    check_folder,
)
from adar_ray.comparison.report import write_report
from adar_ray.comparison.systems import (
    check_baselines,
    check_settings,
    configs_of,
    space_of,
    trained_systems,
)
from adar_ray.comparison.tables import to_latex, to_markdown
from adar_ray.comparison.tuning import search_of, tune_baseline, tune_systems
from adar_ray.comparison.users import Split
from adar_ray.comparison.work import OnProgress, Outcome, Work, check_run, run_folder
from adar_ray.config import Config, nearest
from adar_ray.custom import code_of
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.lease import hold
from adar_ray.limits import MOST_REPEATS, MOST_TRIALS, check_list, check_number
from adar_ray.ranking.groups import Groups
from adar_ray.significance import holm, paired_p
from adar_ray.storage import Folder
from adar_ray.training.build import build_metric
from adar_ray.training.loop import validation_ks
from adar_ray.training.trainer import check_training, default_workers, note_on_split
from adar_ray.tuning.checks import check
from adar_ray.workers import WorkerRange


def compare(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    models: Sequence[str] = ("lightgcn",),
    samplers: Sequence[str] = ("uniform", "adar"),
    baselines: Sequence[str] = tuple(BASELINES),
    seeds: int = 3,
    trials: int = 0,
    settings: Sequence[str] = (),
    workers: int | str | None = None,
    reference: str | None = None,
    test: bool = False,
    on_progress: OnProgress = lambda done, total, text: None,
) -> Comparison:
    """Trains each model with each sampler, computes baselines, and tests all of them against one.

    Without `trials` nothing is tuned. What the folder holds already is used again: an interrupted comparison
    continues, and one that is finished may get more systems, seeds, or figures on test.

    Args:
        data: a dataset with validation interactions.
        out: address of the comparison's folder.
        models, samplers: as in `model.name` and `sampler.name`. Each pair is a system, `MODEL-SAMPLER`.
        baselines: some of popularity, itemknn, ease and als.
        seeds: runs of each system, with the seed `train.seed` and those after it.
        trials: with how many each system and each baseline is tuned on validation before; 0 for none.
        settings: `section.key=value`, for all runs.
        workers: Ray Train workers of each run, as for `train`.
        reference: the system that the others are tested against. The default is the baseline that is best on
            validation, or the first system if there is no baseline.
        test: whether to measure on test as well.
        on_progress: called with the number of trials, runs and baselines that are done, the number of all,
            and a line for people.

    Raises:
        AdarError: something cannot be compared, or the folder holds something else. Nothing is written.
    """
    check_number("--seeds", seeds, 1, MOST_REPEATS)
    check_number("--trials", trials, 0, MOST_TRIALS)
    check_list("--baselines", baselines)
    dataset, folder, baselines = Dataset.open(data), Folder.at(out), list(dict.fromkeys(baselines))
    check_baselines(baselines)
    check_settings(settings)
    systems = trained_systems(models, samplers)
    untuned = {name: configs_of(sections, seeds, settings, {}) for name, sections in systems.items()}
    names = [*baselines, *systems]
    if reference is not None and reference not in names:
        raise AdarError(f"--reference {reference}: is not compared{nearest(reference, names)}")
    first = next(iter(untuned.values()))[0]
    metric = first.train.metric
    ks = validation_ks(metric)
    own = build_metric(metric, dataset, first)
    code = code_of(own)  # now: while this works, somebody may edit it
    splits = [Split.of(dataset, name, ks, own, code) for name in (("valid", "test") if test else ("valid",))]
    plan = Plan(
        data=dataset.folder.address,
        checksum=dataset.checksum,
        models=[*models],
        samplers=[*samplers],
        baselines=baselines,
        seeds=seeds,
        trials=trials,
        settings=[*settings],
        workers=workers,
        reference=reference,
        test=test,
    )
    _check(untuned, dataset, folder, plan)
    searches = {}
    if trials:
        for name, sections in systems.items():
            space = space_of(sections, untuned[name][0], settings, trials)
            check(space, settings)
            searches[name] = search_of(folder, name, space, dataset, settings, trials)
    with hold(folder) as lease:
        folder.write_record(PLAN, plan)
        tunable = [name for name in baselines if BASELINES[name].search]
        total = len(baselines) + seeds * len(systems) + trials * (len(tunable) + len(systems))
        work = Work(folder, lease, dataset, splits, metric, workers, total, on_progress)
        for note in dict.fromkeys(note_on_split(configs[0], dataset) for configs in untuned.values()):
            if note:
                work.tell(f"note: {note}")
        outcomes, tuned, left_out = _computed(work, baselines, reference, trials)
        best = max(outcomes, key=lambda name: outcomes[name][0]["valid"].means[metric], default=None)
        tuned |= tune_systems(work, searches)
        chosen = {
            name: configs_of(sections, seeds, settings, tuned[name].chosen.values if trials else {})
            for name, sections in systems.items()
        }
        _check_runs(folder, chosen)
        for name, configs in chosen.items():
            outcomes[name] = [work.train(name, config) for config in configs]
        reference = reference or best or next(iter(systems))
        comparison = Comparison(
            dataset=dataset.name,
            data=plan.data,
            checksum=plan.checksum,
            plan=plan.fingerprint,
            metric=metric,
            reference=reference,
            left_out=left_out,
            trials=trials,
            tuned=tuned,
            splits={split.name: _figures(split, outcomes, reference, metric) for split in splits},
        )
        lease.check()
        folder.write_bytes(MARKDOWN, to_markdown(comparison).encode())
        folder.write_bytes(LATEX, to_latex(comparison).encode())
        write_report(folder, plan, comparison)
        folder.write_record(RESULT, comparison)
    return comparison


def _check(systems: Mapping[str, Sequence[Config]], dataset: Dataset, folder: Folder, plan: Plan) -> None:
    """Refuses what would fail later, perhaps after hours."""
    wanted = WorkerRange.parse(default_workers() if plan.workers is None else plan.workers)
    for configs in systems.values():
        check_training(configs[0], dataset, wanted)
    check_folder(folder, plan)
    if not plan.trials:  # else the settings are not known yet
        _check_runs(folder, systems)


def _check_runs(folder: Folder, systems: Mapping[str, Sequence[Config]]) -> None:
    for system, configs in systems.items():
        for config in configs:
            check_run(run_folder(folder, system, config), config)


def _computed(
    work: Work, baselines: Sequence[str], reference: str | None, trials: int
) -> tuple[dict[str, list[dict[str, Outcome]]], dict[str, Tuned], dict[str, str]]:
    """The outcomes of the baselines, what they were tuned to, and which were left out, and why."""
    outcomes, tuned, left_out = {}, {}, {}
    for name in baselines:
        try:
            found = tune_baseline(work, name, trials) if trials else None
            if found:
                tuned[name] = found
            outcomes[name] = [work.compute(name, found.chosen.values if found else {})]
        except TooLargeError as error:
            if name == reference:
                raise
            left_out[name] = str(error)
            work.tell_done(f"{error}; left out", 1 + trials)
    return outcomes, tuned, left_out


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
    p_values = {name: paired_p(value_U[name], value_U[reference]) for name in others}
    p = {name: value for name, value in p_values.items() if value is not None}
    p_holm = dict(zip(p, holm([*p.values()]), strict=True))
    base = means[reference][metric]
    systems = {
        name: SystemFigures(
            runs=len(each),
            metrics=means[name],
            deviations={key: statistics.stdev(run.means[key] for run in each) for key in means[name]}
            if len(each) > 1
            else None,
            gain=(means[name][metric] - base) / abs(base) if base and name != reference else None,
            p=p.get(name),
            p_holm=p_holm.get(name),
        )
        for name, each in runs.items()
    }
    groups = {by: _user_groups(groups, value_U) for by, groups in split.groups_U.items()}
    return SplitFigures(users=len(split.key_U), systems=systems, groups=groups)


def _user_groups(groups: Groups, value_U: Mapping[str, np.ndarray]) -> list[UserGroup]:
    """The groups in which users count for every system, and what these users have."""
    counts_U = ~np.isnan(np.stack([*value_U.values()])).any(0)
    found = []
    for group, (first, last) in enumerate(groups.bounds):
        is_in_U = (groups.of_N.numpy() == group) & counts_U
        if is_in_U.any():
            figures = {name: float(own_U[is_in_U].mean()) for name, own_U in value_U.items()}
            found.append(UserGroup(first=first, last=last, users=int(is_in_U.sum()), figures=figures))
    return found

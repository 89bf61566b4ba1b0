"""A search from end to end: Ray Tune runs trials, the best is retrained and tested once."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Ray Tune's own logs and state would be a second record beside the search folder.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output is never silent
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray
from ray import tune
from ray.tune.stopper import NoopStopper

from adar_ray.custom import search_path
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.ray_session import DATA_CPUS, interruptible, ray_session
from adar_ray.reporting.search_report import search_report
from adar_ray.storage import Folder
from adar_ray.training.data_source import Loaded, is_sequential, keeps_data, load
from adar_ray.training.run import Run
from adar_ray.training.trainer import resume as resume_run
from adar_ray.training.trainer import train
from adar_ray.tuning.folder import (
    REPORT,
    RESULT,
    Plan,
    Trial,
    best_of,
    check_new,
    read_curve,
    read_trials,
    write_best,
    write_table,
    write_trial,
)
from adar_ray.tuning.schedulers import build_scheduler, tell_scheduler
from adar_ray.tuning.searcher import Clock, StudySearcher
from adar_ray.tuning.spaces import Space
from adar_ray.tuning.trial import forget_weights, read_error, run_trial, value_of


@dataclass
class Progress:
    """How a search stands: `on_progress` is given it after every epoch of every trial.

    Attributes:
        trials: all of them, by number.
        seconds: of searching so far.
        left: seconds, as far as can be told; None before that.
    """

    plan: Plan
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    seconds: float = 0.0
    left: float | None = None

    def count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)


OnProgress = Callable[[Progress], None]


def tune_space(
    data: str | Path | Dataset,
    space: str | Path | Space,
    out: str | Path,
    *,
    settings: tuple[str, ...] = (),
    trials: int | None = None,
    seconds: float | None = None,
    concurrent: int | None = None,
    workers: int = 1,
    retries: int = 1,
    seeds: int = 1,
    replace: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> Folder:
    """Searches a space for the configuration with the best validation figure, and tests that one.

    Args:
        data: a dataset with validation interactions.
        space: a space, or its file.
        out: address of the search folder; must be empty or absent unless `replace`.
        settings: `section.key=value` over the space's base, for all trials.
        trials, seconds: limits, instead of the space's own.
        concurrent: trials at a time; by default as many as the cluster has room for.
        workers: Ray Train workers of a trial; 1 trains in the trial's own process.
        retries: how often a trial that fails is tried again.
        seeds: how many runs of the winner are trained and tested; 0 for none.
        on_progress: called after every epoch of every trial.

    Returns:
        The search folder; docs/files.md says what it holds.

    Raises:
        AdarError: the space, the dataset or the cluster is not fit for it; nothing is written then.
        KeyboardInterrupt: interrupted; `resume_search` goes on.
    """
    dataset = Dataset.open(data)
    space = space if isinstance(space, Space) else Space.load(space)
    space.check(settings)
    if not dataset.rows("valid"):
        raise AdarError(
            f"{dataset.folder}: has no validation interactions, by which trials are chosen; "
            "prepare it with --valid-fraction 0.1"
        )
    limit = trials or space.budget.trials
    if space.search.algorithm == "grid" and len(space.grid()) > limit:
        raise AdarError(
            f"the grid has {len(space.grid())} trials, {limit} are allowed; add --trials {len(space.grid())}"
        )
    plan = Plan(
        folder=Folder.at(out),
        space=space,
        data=dataset.folder.address,
        checksum=dataset.checksum,
        settings=tuple(settings),
        trials=limit,
        seconds=seconds if seconds is not None else space.budget.time,
        concurrent=concurrent,
        workers=workers,
        retries=retries,
        seeds=seeds,
    )
    with ray_session(_local_cpus(plan), may_wait=True):
        _check_resources(plan)
        check_new(plan.folder, replace)
        plan.write()
        return _search(plan, dataset, on_progress)


def resume_search(address: str | Path, *, on_progress: OnProgress = lambda progress: None) -> Folder:
    """Goes on with a search: trials that have ended stay as they are, others go on from their checkpoint."""
    plan = Plan.open(address)
    dataset = plan.dataset()
    with ray_session(_local_cpus(plan), may_wait=True):
        _check_resources(plan)
        return _search(plan, dataset, on_progress)


def _search(plan: Plan, dataset: Dataset, on_progress: OnProgress) -> Folder:
    known = read_trials(plan)
    clock = Clock(max((trial.started + trial.seconds for trial in known), default=0.0))
    follower = _Follower(plan, StudySearcher(plan, known, clock), clock, on_progress)
    try:
        if not follower.is_over():
            _run_trials(plan, dataset, follower)
    finally:
        follower.write()
    if not follower.is_over():
        raise KeyboardInterrupt
    best = best_of(follower.trials, plan.space.mode)
    if best is None:
        failed = next((trial.error for trial in follower.trials if trial.error), None)
        why = f"the first trial failed with: {failed}" if failed else "its time was over; give it more --time"
        raise AdarError(f"{plan.folder}: no trial came as far as one epoch: {why}")
    _test_winner(plan, dataset, best)
    return plan.folder


def _run_trials(plan: Plan, dataset: Dataset, follower: _Follower) -> None:
    space, searcher = plan.space, follower.searcher
    scheduler = build_scheduler(space, plan.config({}).train.epochs)
    for trial in searcher.trials.values():
        if trial.has_ended:
            tell_scheduler(scheduler, trial, space.mode)
    scratch = plan.folder.folder(f"ray-{uuid.uuid4().hex[:8]}")
    loaded, modules = _load(plan, dataset), search_path()
    trainable = tune.with_parameters(run_trial, plan=plan, dataset=dataset, loaded=loaded, modules=modules)
    try:
        with interruptible():
            tune.run(
                trainable,
                name=scratch.path.rpartition("/")[2],
                storage_path=plan.folder.address,
                search_alg=searcher,
                scheduler=scheduler,
                stop=_SearchStopper(follower),
                num_samples=plan.trials,
                resources_per_trial=_trial_resources(plan),
                max_concurrent_trials=plan.concurrent or _room(plan),
                max_failures=plan.retries,
                raise_on_failed_trial=False,
                # The next trial takes over the process, with everything imported.
                reuse_actors=plan.workers == 1,
                callbacks=[follower],
                trial_name_creator=lambda trial: f"{trial.config['number']:05d}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}",
                # Only a population's trials have checkpoints of Ray's kind, for others to take over.
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
                verbose=0,
            )
    finally:
        with contextlib.suppress(OSError):
            scratch.remove()


def _load(plan: Plan, dataset: Dataset) -> dict[bool, Loaded]:
    """The rows that trials train on, by whether the model is sequential, unless they are streamed.

    Ray puts them into the object store once, and trials on one machine share them.
    """
    searched = plan.space.parameters.get("model.name")
    values = [{"model.name": name} for name in searched.points()] if searched else [{}]
    configs = [plan.config(value) for value in values]
    return {
        is_sequential(config): load(config, dataset)
        for config in configs
        if plan.workers == 1 and keeps_data(config, dataset)
    }


# Resources.


def _trial_resources(plan: Plan) -> dict[str, float]:
    """Of the trial's own process; several workers are a group beside it, with resources of their own."""
    if plan.workers > 1:
        return {"cpu": 0.01}
    return {"cpu": plan.space.resources.cpu, "gpu": plan.space.resources.gpu}


def _local_cpus(plan: Plan) -> int:
    """For how many a Ray that is started on this machine needs room."""
    if plan.workers > 1:
        return (plan.concurrent or 1) * plan.workers * plan.config({}).train.threads
    return math.ceil((plan.concurrent or 1) * plan.space.resources.cpu)


def _room(plan: Plan) -> int:
    """How many trials fit the cluster at a time."""
    if plan.workers == 1:
        cpus = ray.cluster_resources().get("CPU", 0) - (DATA_CPUS if _is_local() else 0)
        return max(1, math.floor(cpus / plan.space.resources.cpu)) if plan.space.resources.cpu else 1
    group = plan.workers * plan.config({}).train.threads
    # Of groups that wait for each other's workers none would ever start.
    return max(1, int((ray.cluster_resources().get("CPU", 0) - 1) // group))


def _is_local() -> bool:
    return not os.environ.get("RAY_ADDRESS")


def _check_resources(plan: Plan) -> None:
    """Says at once what the cluster can never give; Ray would wait for it for ever."""
    need = {"CPU": plan.space.resources.cpu, "GPU": plan.space.resources.gpu}
    if plan.workers > 1:
        need["CPU"] = plan.config({}).train.threads
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, amount in need.items():
        largest = max((node.get(name, 0) for node in nodes), default=0)
        if amount > largest:
            raise AdarError(
                f"resources.{name.lower()} {amount:g}: no machine of the cluster has more than {largest:g} "
                f"{name}s; ask for less"
            )
        total = sum(node.get(name, 0) for node in nodes)
        if amount * plan.workers > total:
            raise AdarError(
                f"--workers-per-trial {plan.workers}: needs {amount * plan.workers:g} {name}s, "
                f"the cluster has {total:g}; ask for less"
            )


# What happens to trials.


class _Follower(tune.Callback):
    """Writes down what happens to each trial, and tells who wants to know."""

    def __init__(self, plan: Plan, searcher: StudySearcher, clock: Clock, on_progress: OnProgress) -> None:
        self.plan, self.searcher, self.clock = plan, searcher, clock
        self._tell = on_progress

    @property
    def trials(self) -> list[Trial]:
        return list(self.searcher.trials.values())

    def is_over(self) -> bool:
        """Whether the search has come to an end by itself."""
        return self.is_enough() or (
            self.searcher.is_exhausted and all(trial.has_ended for trial in self.trials)
        )

    def is_enough(self) -> bool:
        """Whether a limit ends the search before all trials have."""
        if self.plan.seconds is not None and self.clock() >= self.plan.seconds:
            return True
        patience, best = self.plan.space.budget.patience, best_of(self.trials, self.plan.space.mode)
        if patience is None or best is None:
            return False
        return sum(trial.has_ended and trial.number > best.number for trial in self.trials) >= patience

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        known = self.searcher.trials[int(str(trial))]
        if known.best_epoch is None or result["best"] != known.value:
            known.value, known.best_epoch = result["best"], result["epoch"]
        known.epochs = result["epoch"]
        known.seconds = self.clock() - known.started
        if trial.config["values"] != known.values:  # a population's trial has taken over another's
            known.values = dict(trial.config["values"])
            write_trial(self.plan, known)
        self._progress()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        known = self.searcher.trials[int(str(trial))]
        self._end(known, "finished" if self._came_to_its_end(known) else "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        known = self.searcher.trials[int(str(trial))]
        known.error = read_error(self.plan.trial_folder(known.number)) or "the trial's process died"
        self._end(known, "failed")

    def _came_to_its_end(self, trial: Trial) -> bool:
        """Whether training was done, rather than stopped: of all epochs, or out of patience."""
        lines, config = read_curve(self.plan, trial.number), self.plan.config(trial.values).train
        if not lines:
            return False
        epoch, best_epoch = lines[-1].epoch, lines[-1].best_epoch
        return epoch >= config.epochs or epoch - best_epoch >= config.patience

    def _end(self, trial: Trial, status: str) -> None:
        trial.status = status
        trial.curve = [
            value_of(record, self.plan.space.metric) for record in read_curve(self.plan, trial.number)
        ]
        write_trial(self.plan, trial)
        forget_weights(self.plan.trial_folder(trial.number))
        if best_of(self.trials, self.plan.space.mode) is trial:
            write_best(self.plan, trial)
        self._progress()

    def _progress(self) -> None:
        trials = self.trials
        self._tell(
            Progress(
                plan=self.plan,
                trials=trials,
                best=best_of(trials, self.plan.space.mode),
                seconds=self.clock(),
                left=self._seconds_left(),
            )
        )

    def _seconds_left(self) -> float | None:
        ended = sum(trial.has_ended for trial in self.trials)
        if self.searcher.is_exhausted and ended == len(self.trials):
            return None
        by_trials = self.clock() / ended * (self.plan.trials - ended) if ended else None
        by_time = None if self.plan.seconds is None else max(0.0, self.plan.seconds - self.clock())
        return min((left for left in (by_trials, by_time) if left is not None), default=None)

    def write(self) -> None:
        """What a search leaves behind, also where it was interrupted."""
        trials, space = self.trials, self.plan.space
        for trial in trials:
            if not trial.has_ended:
                trial.status = "stopped" if self.is_enough() else "interrupted"
                write_trial(self.plan, trial)
        if not trials:
            return
        best = best_of(trials, space.mode)
        if best is not None:
            write_best(self.plan, best)
        write_table(self.plan, trials)
        curves = {trial.name: trial.curve for trial in trials}
        page = search_report(
            self.plan.folder.path.rpartition("/")[2],
            space.metric,
            space.mode,
            [trial.row() for trial in trials],
            curves,
            self.plan.config({}),
        )
        self.plan.folder.write_bytes(REPORT, page.encode())


class _SearchStopper(tune.Stopper):
    """Ends a search that has reached a limit."""

    def __init__(self, follower: _Follower) -> None:
        self._follower = follower

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._follower.is_enough()

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune pickles it with a state that nobody reads."""
        return NoopStopper, ()


# The winner.


def _test_winner(plan: Plan, dataset: Dataset, best: Trial) -> None:
    """Trains the best configuration with several seeds and ranks test once for each.

    Nothing here chooses anything. A search that is resumed goes on with the runs that miss.
    """
    if not plan.seeds or plan.folder.exists(RESULT):
        return
    config, test = plan.config(best.values), []
    for seed in range(config.train.seed, config.train.seed + plan.seeds):
        seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        folder = plan.folder.folder(f"winner/seed-{seed}")
        workers = plan.workers if plan.workers > 1 else 0
        begun = Run.open(folder.address) if folder.exists("config.yaml") else None
        if begun is not None and begun.config == seeded:
            run = resume_run(folder.address)
        else:
            run = train(dataset, folder.address, seeded, workers=workers, replace=True)
        test.append(evaluate(run).metrics)
    plan.folder.write_json(
        RESULT,
        {
            "trial": best.name,
            "valid": {plan.space.metric: best.value},
            "seeds": plan.seeds,
            "test": {
                name: {
                    "mean": statistics.mean(metrics[name] for metrics in test),
                    "deviation": statistics.stdev(m[name] for m in test) if len(test) > 1 else None,
                }
                for name in test[0]
            },
        },
    )

"""A search from end to end: Ray Tune runs the trials, then the best is retrained and tested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from adar_ray.config import check_setting_list
from adar_ray.custom import search_path
from adar_ray.data.dataset import Dataset
from adar_ray.durations import LONGEST
from adar_ray.errors import AdarError, TransientError
from adar_ray.lease import hold
from adar_ray.limits import MOST_REPEATS, MOST_TRIALS, MOST_WORKERS, check_number
from adar_ray.outputs import forget_replaced, new_scratch, put_back, replacing
from adar_ray.ray_session import ray_session
from adar_ray.storage import Folder
from adar_ray.training.build import is_sequential
from adar_ray.training.data_source import Loaded, keeps_data, load
from adar_ray.tuning.checks import check, check_concurrent, check_workers
from adar_ray.tuning.folder import RESULT, SEARCH, Search, check_new
from adar_ray.tuning.follower import Follower, SearchStopper
from adar_ray.tuning.process import quiet_optuna, ray_tune_process
from adar_ray.tuning.progress import OnProgress
from adar_ray.tuning.resources import check_resources, local_cpus, room, trial_resources
from adar_ray.tuning.schedulers import build_scheduler, tell_scheduler
from adar_ray.tuning.searcher import Clock, StudySearcher
from adar_ray.tuning.space import Space
from adar_ray.tuning.tracked import tracked
from adar_ray.tuning.trial import Trial, best_of
from adar_ray.tuning.winner import run_winner
from adar_ray.tuning.worker import run_trial, value_of


def tune(
    data: str | Path | Dataset,
    space: str | Path | Mapping[str, Any] | Space,
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
    """Search a space for the configuration that is best on validation, and test that one.

    Args:
        data: a dataset with validation interactions.
        space: a space, its file, or a mapping of what the file would hold.
        out: address of the search folder; must be empty or absent unless `replace`.
        settings: `section.key=value` over the space's base, for all trials.
        trials, seconds: limits in place of the space's own.
        concurrent: trials at a time; by default as many as the cluster has room for.
        workers: Ray Train workers per trial; 1 trains in the trial's own process.
        retries: how often a trial that fails is tried again.
        seeds: how many runs of the winner are trained and tested; 0 for none.
        on_progress: called after every epoch of every trial.

    Returns:
        The search folder; docs/files.md says what it holds.

    Raises:
        AdarError: the space, the dataset or the cluster does not fit; nothing is written then.
        KeyboardInterrupt: interrupted; `resume_search` continues.
    """
    check_setting_list(settings)
    check_number("--retries", retries, 0, MOST_REPEATS)
    check_number("--seeds", seeds, 0, MOST_REPEATS)
    check_number("--workers-per-trial", workers, 1, MOST_WORKERS)
    _check_limits(trials, seconds)
    if concurrent is not None:
        check_number("--concurrent", concurrent, 1, MOST_WORKERS)
    dataset = Dataset.open(data)
    if isinstance(space, Mapping):
        space = Space.from_mapping(space)
    space = space if isinstance(space, Space) else Space.load(space)
    check_workers(space, workers)
    check_concurrent(space, concurrent)
    check(space, settings)
    if not dataset.rows("valid"):
        raise AdarError(
            f"{dataset.folder}: has no validation interactions to choose trials by; "
            "prepare it again with a larger --valid-fraction or --core, or by leave-one-out"
        )
    limit = trials or space.budget.trials
    if space.search.algorithm == "grid":
        points = len(space.grid())
        if points > limit:
            raise AdarError(f"the grid has {points} trials, but the limit is {limit}; add --trials {points}")
        limit = points
    search = Search(
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
    check_new(search.folder, replace)
    with _held(search) as search, ray_session(local_cpus(search), may_wait=True):
        check_resources(search)
        check_new(search.folder, replace)
        if search.folder.exists(RESULT):
            forget_replaced(search.folder)
        with replacing(search.folder, SEARCH):
            search.write()
        return _run(search, dataset, on_progress)


def resume_search(
    address: str | Path,
    *,
    trials: int | None = None,
    seconds: float | None = None,
    trust: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> Folder:
    """Continue a search: trials that have ended stay as they are, others continue from their checkpoint.

    Args:
        trials, seconds: new limits, all trials so far included; with higher ones a search that has ended goes
            on. If another trial wins, that one is retrained and tested.
        trust: whether custom components that the folder of the search names may run.
    """
    _check_limits(trials, seconds)
    search = Search.open(address, trust=trust)
    check_workers(search.space, search.workers)  # earlier versions began such searches
    if trials is not None and search.space.search.algorithm == "grid":
        raise AdarError(f"--trials {trials}: the grid of {search.folder} has {search.trials}; leave it out")
    dataset = search.dataset()
    limits = {"trials": trials or search.trials, "seconds": search.seconds if seconds is None else seconds}
    with _held(search) as search, ray_session(local_cpus(search), may_wait=True):
        check_resources(search)
        if trials is not None or seconds is not None:
            search = search.model_copy(update=limits)
            search.write()
        return _run(search, dataset, on_progress)


def _check_limits(trials: int | None, seconds: float | None) -> None:
    if seconds is not None:
        check_number("--time", seconds, 0, LONGEST, whole=False)
    if trials is not None:
        check_number("--trials", trials, 1, MOST_TRIALS)


@contextlib.contextmanager
def _held(search: Search) -> Iterator[Search]:
    """The search with the lease of its folder."""
    with hold(search.folder) as lease:
        yield search.model_copy(update={"lease": lease})


def _run(search: Search, dataset: Dataset, on_progress: OnProgress) -> Folder:
    try:
        with tracked(search):
            run_winner(search, dataset, _find_best(search, dataset, on_progress))
    except Exception:
        if best_of(search.read_trials(), search.space.mode) is None:
            put_back(search.owned(), SEARCH)
        raise
    forget_replaced(search.owned())
    return search.folder


def _find_best(search: Search, dataset: Dataset, on_progress: OnProgress) -> Trial:
    known = search.read_trials()
    for trial in known:
        if not trial.has_ended:
            _catch_up(search, trial)
    clock = Clock(max((trial.end for trial in known), default=0.0))
    with quiet_optuna():
        follower = Follower(search, StudySearcher(search, known, clock), clock, on_progress)
        try:
            if not follower.is_over():
                _run_trials(search, dataset, follower)
        finally:
            follower.write()
    if not follower.is_over():
        blocked = next((trial for trial in follower.trials if trial.error and not trial.has_ended), None)
        if blocked is None:
            raise KeyboardInterrupt
        raise TransientError(
            f"{search.folder}: trial {blocked.name} could not go on: {blocked.error}; when that is mended, "
            f"continue with `adar-ray tune --resume {search.folder.in_shell}`"
        )
    best = best_of(follower.trials, search.space.mode)
    if best is None:
        failed = next((trial.error for trial in follower.trials if trial.error), None)
        why = "its time ran out; resume with a longer --time"
        if failed:
            why = f"the first trial failed with: {failed}"
        raise AdarError(f"{search.folder}: no trial is left to choose: {why}")
    return best


def _catch_up(search: Search, trial: Trial) -> None:
    """Take in the epochs that a trial saved, after `trial.json`, before its search was killed."""
    for record in search.read_epochs(trial.number)[trial.epochs :]:
        value = value_of(record, search.space.metric)
        trial.add_epoch(record.epoch, value, trial.present_values, search.space.mode)
        trial.seconds += record.time.train_seconds + record.time.valid_seconds


def _run_trials(search: Search, dataset: Dataset, follower: Follower) -> None:
    scheduler = build_scheduler(search.space, search.config({}).train.epochs)
    for trial in follower.trials:
        if trial.has_ended:
            tell_scheduler(scheduler, trial, search.space.mode)
    scratch = new_scratch(search.folder)
    trainable = ray_tune.with_parameters(
        run_trial, search=search, dataset=dataset, loaded=_load(search, dataset), modules=search_path()
    )
    try:
        with ray_tune_process():
            ray_tune.run(
                trainable,
                name=scratch.path.rpartition("/")[2],
                storage_filesystem=search.folder.filesystem,
                storage_path=search.folder.path,
                search_alg=follower.searcher,
                scheduler=scheduler,
                stop=SearchStopper(follower),
                # Trials that had begun go on, even if the limit is lower now.
                num_samples=max(search.trials, len(follower.trials)),
                resources_per_trial=trial_resources(search),
                max_concurrent_trials=_most_at_a_time(search),
                max_failures=search.retries,
                raise_on_failed_trial=False,
                # The next trial takes over the process, which has imported everything.
                reuse_actors=search.workers == 1,
                callbacks=[follower],
                trial_name_creator=lambda trial: f"{trial.config['number']:05d}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}",
                # Only a population's trials write Ray's checkpoints, for other trials to take over. One whose
                # process takes long to start needs what another had many short epochs ago.
                checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=16),
                verbose=0,
            )
    finally:
        with contextlib.suppress(OSError):
            scratch.remove()


def _most_at_a_time(search: Search) -> int | None:
    """None: as many as Ray finds room for. A population's trials pause for each other, and would count."""
    if search.space.scheduler.name == "pbt":
        return None
    return search.concurrent or room(search)


def _load(search: Search, dataset: Dataset) -> dict[bool, Loaded]:
    """The rows that trials train on, by whether the model is sequential, unless they are streamed.

    Ray puts them into the object store once, and trials on one machine share them.
    """
    searched = search.space.parameters.get("model.name")
    values = [{"model.name": name} for name in searched.points()] if searched else [{}]
    configs = {is_sequential(config): config for config in map(search.config, values)}
    return {
        sequential: load(config, dataset)
        for sequential, config in configs.items()
        if search.workers == 1 and keeps_data(config, dataset, 1)
    }

"""Tunes what is compared on validation: all systems and baselines with as many trials, from the same seed.

A trained system is tuned by a search, as `adar-ray tune` makes them; a baseline in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from adar_ray.baselines.names import BASELINES, Baseline
from adar_ray.comparison.folder import Tuned, TunedTrial, Tunings
from adar_ray.comparison.systems import SEARCH
from adar_ray.comparison.work import Work
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, counted
from adar_ray.storage import Folder
from adar_ray.tuning.folder import SEARCH as SEARCH_FILE
from adar_ray.tuning.folder import Search
from adar_ray.tuning.parameter import Parameter
from adar_ray.tuning.progress import Progress
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import ranked


def search_of(
    folder: Folder, system: str, space: Space, dataset: Dataset, settings: Sequence[str], trials: int
) -> Search:
    """The search that tunes a system.

    Raises:
        AdarError: another one was begun in its folder.
    """
    search = Search(
        folder=folder.folder(f"tuning/{system}"),
        space=space,
        data=dataset.folder.address,
        checksum=dataset.checksum,
        settings=tuple(settings),
        trials=trials,
        seconds=None,
        concurrent=None,
        workers=1,
        retries=1,
        seeds=0,
    )
    if search.folder.exists(SEARCH_FILE):
        begun = Search.open(search.folder.address, trust=True)  # nothing here runs its code
        what = ("space", "settings", "trials")
        if different := [name for name in what if getattr(begun, name) != getattr(search, name)]:
            raise AdarError(
                f"{search.folder}: was tuned otherwise ({', '.join(different)}); choose another folder for "
                "--out, or remove this one"
            )
    return search


def tune_systems(work: Work, searches: Mapping[str, Search]) -> dict[str, Tuned]:
    """What each system is tuned to. What has been tried already is not tried again."""
    from adar_ray.ray_session import ray_session
    from adar_ray.tuning.resources import local_cpus

    unfinished = {system: search for system, search in searches.items() if not _is_over(search)}
    cpus = max(map(local_cpus, unfinished.values()), default=0)
    with ray_session(cpus, may_wait=True) if unfinished else contextlib.nullcontext():  # one for all searches
        for system, search in searches.items():
            if system in unfinished:
                _search(work, system, search)
            else:
                work.tell_done(f"{system}: is tuned", search.trials)
    return {system: _tuned(search) for system, search in searches.items()}


def _is_over(search: Search) -> bool:
    if not search.folder.exists(SEARCH_FILE):
        return False
    trials = search.read_trials()
    return len(trials) == search.trials and all(trial.has_ended for trial in trials)


def _search(work: Work, system: str, search: Search) -> None:
    """Begins a search, or goes on with it."""
    from adar_ray.tuning.search import resume_search, tune

    before = work.done

    def follow(progress: Progress) -> None:
        ended, best = sum(trial.has_ended for trial in progress.trials), progress.best
        value = "" if best is None else f", best {work.metric} {best.value_or_nan:.4f}"
        work.done = before + ended
        work.tell(f"{system}: {ended} of {counted(search.trials, 'trial')}{value}")

    work.lease.check()
    if search.folder.exists(SEARCH_FILE):
        resume_search(search.folder.address, trust=True, on_progress=follow)
    else:
        tune(
            work.dataset,
            search.space,
            search.folder.address,
            settings=search.settings,
            trials=search.trials,
            seeds=0,
            on_progress=follow,
        )


def _tuned(search: Search) -> Tuned:
    trials = search.read_trials()
    judged = {trial.number for trial in ranked(trials, "max")}
    return Tuned.of(
        TunedTrial(values=trial.values, value=trial.value if trial.number in judged else None)
        for trial in trials
    )


def tune_baseline(work: Work, baseline: str, trials: int) -> Tuned | None:
    """What a baseline is tuned to; None if it has nothing to tune.

    Raises:
        TooLargeError: it cannot be computed here.
    """
    from adar_ray.tuning.process import quiet_optuna
    from adar_ray.tuning.study import build_sampler, build_study

    declared, file = BASELINES[baseline], f"tuning/{baseline}.json"
    if not declared.search:
        return None
    parameters = {name: Parameter.model_validate(form) for name, form in declared.search.items()}
    known = _known(work, file, declared)
    with quiet_optuna():
        study = build_study("max")
        for number in range(trials):
            if number < len(known) or number == 0:
                study.enqueue_trial(known[number].values if known else declared.defaults)
            study.sampler = build_sampler(SEARCH, number)
            asked = study.ask()
            values = {name: parameter.suggest(asked, name) for name, parameter in parameters.items()}
            if number == len(known):
                value = work.try_baseline(baseline, values)
                known.append(TunedTrial(values=values, value=value))
                work.lease.check()
                work.folder.write_record(file, _tunings(work, declared, known))
            study.tell(asked, known[number].value)
            work.tell_done(
                f"{baseline}: {number + 1} of {counted(trials, 'trial')}, "
                f"{work.metric} {known[number].value:.4f}"
            )
    return Tuned.of(known)


def _known(work: Work, file: str, declared: Baseline) -> list[TunedTrial]:
    """The trials of a baseline so far, unless they are of another metric, other code or other ranges."""
    if not work.folder.exists(file):
        return []
    begun = work.folder.read_record(file, Tunings, "remove it, and compare again")
    return begun.trials if begun == _tunings(work, declared, begun.trials) else []


def _tunings(work: Work, declared: Baseline, trials: list[TunedTrial]) -> Tunings:
    return Tunings(metric=work.metric, code=work.splits[0].code, search=declared.search, trials=trials)

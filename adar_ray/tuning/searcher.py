"""What proposes the parameters of trials: an Optuna study, asked and told by Ray Tune.

Ray's own `OptunaSearch` keeps a study in a pickle. This one is fed with what the search folder holds, so
that a search that was killed knows all that came of it, and runs the trials that it had begun first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from adar_ray.tuning.folder import Plan, Trial, write_trial


def build_study(plan: Plan) -> optuna.Study:
    """An empty study that samples as the space says."""
    search = plan.space.search
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=search.seed),
        # All points are given to the study; this samples nothing.
        "grid": lambda: optuna.samplers.RandomSampler(seed=search.seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=search.seed, **_TPE),
        # Falkner et al., "BOHB" (ICML 2018): Hyperband over a model of all parameters together.
        "bohb": lambda: optuna.samplers.TPESampler(seed=search.seed, multivariate=True, group=True, **_TPE),
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = "maximize" if plan.space.mode == "max" else "minimize"
    return optuna.create_study(sampler=samplers[search.algorithm](), direction=direction)


# Trials that still run count as poor ones, so that concurrent trials do not crowd in one place.
_TPE = {"constant_liar": True, "n_startup_trials": 8}


class StudySearcher(Searcher):
    """Trials by number, from 0; those known from before come first.

    Args:
        known: trials of an earlier start. Those that had ended are told to the study, the others are
            proposed again, under their numbers.
        clock: seconds of searching so far.
    """

    def __init__(self, plan: Plan, known: list[Trial], clock: Callable[[], float]) -> None:
        super().__init__(metric="best", mode=plan.space.mode)
        self.plan, self.clock = plan, clock
        self.trials = {trial.number: trial for trial in known}
        self._study = build_study(plan)
        self._asked: dict[str, tuple[Trial, optuna.Trial]] = {}
        self._again: list[tuple[Trial, optuna.Trial]] = []
        for trial in known:
            asked, _ = self._ask(trial.values)
            if trial.has_ended:
                self._tell(asked, trial, trial.status == "failed")
            else:
                self._again.append((trial, asked))
        self._grid = plan.space.grid()[len(known) :] if plan.space.search.algorithm == "grid" else None

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial that there may be has been begun."""
        begun = len(self.trials)
        return not self._again and (begun >= self.plan.trials or (self._grid is not None and not self._grid))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self.is_exhausted:
            return Searcher.FINISHED
        if self._again:
            trial, asked = self._again.pop(0)
            trial.status = "running"
        else:
            asked, values = self._ask(self._grid.pop(0) if self._grid is not None else None)
            trial = Trial(len(self.trials), values, self.clock())
            self.trials[trial.number] = trial
        write_trial(self.plan, trial)
        self._asked[trial_id] = trial, asked
        return {"number": trial.number, "values": trial.values}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial, asked = self._asked.pop(trial_id)
        self._tell(asked, trial, error)

    def _ask(self, values: dict[str, Any] | None) -> tuple[optuna.Trial, dict[str, Any]]:
        """A trial with these values, or with those that the study proposes; and the values."""
        if values is not None:
            self._study.enqueue_trial(values)
        asked = self._study.ask()
        return asked, self.plan.space.suggest(asked)

    def _tell(self, asked: optuna.Trial, trial: Trial, failed: bool) -> None:
        if failed or not trial.has_value:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, trial.value)

    def save(self, checkpoint_path: str) -> None:
        """Ray Tune wants a file; the search folder is what resumes."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its own folder")


class Clock:
    """Seconds of searching, those before an interruption included."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    def __call__(self) -> float:
        return time.monotonic() - self._start

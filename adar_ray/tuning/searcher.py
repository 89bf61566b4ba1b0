"""What proposes the parameters of trials: an Optuna study, asked and told by Ray Tune.

Ray's own `OptunaSearch` keeps a study in a pickle. This one reads the search folder instead, so that a search
that was killed knows all its results, and first runs the trials that had begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from adar_ray.tuning.folder import Search
from adar_ray.tuning.study import build_sampler, build_study
from adar_ray.tuning.trial import Trial


class StudySearcher(Searcher):
    """Proposes trials by number, from 0; unfinished trials of an earlier start come first.

    Args:
        known: trials of an earlier start. The study is told of those that had ended; the others are proposed
            again, under their numbers.
        clock: seconds that the search has taken so far.
    """

    def __init__(self, search: Search, known: list[Trial], clock: Callable[[], float]) -> None:
        super().__init__(metric="best", mode=search.space.mode)
        self.search, self.clock = search, clock
        self.trials = {trial.number: trial for trial in known}
        self._study = build_study(search.space.mode)
        self._asked: dict[str, tuple[Trial, optuna.Trial]] = {}
        self._again: list[tuple[Trial, optuna.Trial]] = []
        for trial in known:
            asked, _ = self._ask(trial.number, trial.values)
            if trial.has_ended:
                self._tell(asked, trial, trial.status == "failed")
            else:
                self._again.append((trial, asked))
        is_grid = search.space.search.algorithm == "grid"
        self._grid = search.space.grid()[len(known) :] if is_grid else None

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial that the search allows has begun."""
        begun = len(self.trials)
        no_points = self._grid is not None and not self._grid
        return not self._again and (begun >= self.search.trials or no_points)

    def suggest(self, trial_id: str) -> Any:
        """The number and values of the next trial; `FINISHED` if there is none."""
        if self.is_exhausted:
            return Searcher.FINISHED
        if self._again:
            trial, asked = self._again.pop(0)
            trial.status, trial.error = "running", None
        else:
            number = len(self.trials)
            asked, values = self._ask(number, self._given(number))
            trial = Trial(number=number, values=values, started=self.clock())
            self.trials[trial.number] = trial
        self.search.write_trial(trial)
        self._asked[trial_id] = trial, asked
        return {"number": trial.number, "values": trial.present_values}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial, asked = self._asked.pop(trial_id)
        self._tell(asked, trial, error)

    def _given(self, number: int) -> dict[str, Any] | None:
        """The values of a new trial that the study does not propose: the next of a grid, or the defaults."""
        if self._grid is not None:
            return self._grid.pop(0)
        if number == 0 and self.search.space.search.defaults:
            return self.search.space.defaults(self.search.dataset().n_items, self.search.settings)
        return None

    def _ask(self, number: int, values: dict[str, Any] | None) -> tuple[optuna.Trial, dict[str, Any]]:
        """A trial with these values, and those that the study proposes for what they lack; and all values."""
        if values is not None:
            self._study.enqueue_trial(values)
        self._study.sampler = build_sampler(self.search.space.search, number)
        asked = self._study.ask()
        return asked, self.search.space.suggest(asked)

    def _tell(self, asked: optuna.Trial, trial: Trial, failed: bool) -> None:
        if failed or not trial.has_value:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, trial.value)

    def save(self, checkpoint_path: str) -> None:
        """Ray Tune wants a file; a search resumes from its own folder."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its own folder")


class Clock:
    """Seconds that a search has taken, including those before an interruption."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    def __call__(self) -> float:
        return time.monotonic() - self._start

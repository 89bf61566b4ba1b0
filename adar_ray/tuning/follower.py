"""What happens to trials: written down as it happens, and shown to whoever follows the search."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.stopper import NoopStopper

from adar_ray.tuning.folder import Search
from adar_ray.tuning.progress import OnProgress, Progress
from adar_ray.tuning.report.search_report import write_report
from adar_ray.tuning.schedulers import TIME
from adar_ray.tuning.searcher import Clock, StudySearcher
from adar_ray.tuning.trial import Status, Trial, best_of
from adar_ray.tuning.worker import forget_weights, read_error, value_of

_SECONDS_BETWEEN_REPORTS = 60  # while trials run; writing one takes about a second


class Follower(tune.Callback):
    """Follows Ray's trials, and decides when the search is over."""

    def __init__(
        self, search: Search, searcher: StudySearcher, clock: Clock, on_progress: OnProgress
    ) -> None:
        self.search, self.searcher, self.clock = search, searcher, clock
        self._on_progress = on_progress
        self._reported = clock()

    @property
    def trials(self) -> list[Trial]:
        return list(self.searcher.trials.values())

    def is_over(self) -> bool:
        """Whether the search has come to its end, rather than been interrupted."""
        return self.is_enough() or (
            self.searcher.is_exhausted and all(trial.has_ended for trial in self.trials)
        )

    def is_enough(self) -> bool:
        """Whether a limit ends the search before all trials have ended."""
        if self.search.seconds is not None and self.clock() >= self.search.seconds:
            return True
        patience, best = self.search.space.budget.patience, best_of(self.trials, self.search.space.mode)
        if patience is None or best is None:
            return False
        return sum(trial.has_ended and trial.number > best.number for trial in self.trials) >= patience

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        known, values = self._known(trial), dict(trial.config["values"])
        has_taken_over = values != known.present_values  # another trial of the population
        known.add_epoch(result[TIME], result["value"], values, self.search.space.mode)
        known.seconds = self.clock() - known.started
        if has_taken_over:
            self.search.write_trial(known)
        self._show()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        known = self._known(trial)
        self._end(known, "finished" if self._has_finished(known) else "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        known = self._known(trial)
        why = read_error(self.search.trial_folder(known.number))
        known.error = why.error
        if why.is_of_machine:  # it continues when the search resumes
            known.status = "interrupted"
            self.search.write_trial(known)
        else:
            self._end(known, "failed")

    def _known(self, trial: Any) -> Trial:
        """Our trial; the name of Ray's is its number."""
        return self.searcher.trials[int(str(trial))]

    def _has_finished(self, trial: Trial) -> bool:
        """Whether training ended by itself, after all epochs or out of patience, and was not stopped."""
        epochs, config = self.search.read_epochs(trial.number), self.search.config(trial.present_values).train
        return bool(epochs) and epochs[-1].is_last(config.epochs, config.patience)

    def _end(self, trial: Trial, status: Status) -> None:
        epochs, metric = self.search.read_epochs(trial.number), self.search.space.metric
        trial.status, trial.curve = status, [value_of(record, metric) for record in epochs]
        self.search.write_trial(trial)
        forget_weights(self.search.trial_folder(trial.number))
        if best_of(self.trials, self.search.space.mode) is trial:
            self.search.write_best(trial)
        if self.clock() - self._reported > _SECONDS_BETWEEN_REPORTS:
            self._report()
        self._show()

    def _show(self) -> None:
        self._on_progress(Progress(self.search, self.trials, self.clock(), self._seconds_left()))

    def _seconds_left(self) -> float | None:
        ended = sum(trial.has_ended for trial in self.trials)
        if self.searcher.is_exhausted and ended == len(self.trials):
            return None
        by_trials = self.clock() / ended * (self.search.trials - ended) if ended else None
        by_time = None if self.search.seconds is None else max(0.0, self.search.seconds - self.clock())
        return min((left for left in (by_trials, by_time) if left is not None), default=None)

    def write(self) -> None:
        """Write what a search leaves behind, even if it was interrupted."""
        trials = self.trials
        for trial in trials:
            if not trial.has_ended:
                trial.status = "stopped" if self.is_enough() else "interrupted"
                self.search.write_trial(trial)
        if not trials:
            return
        best = best_of(trials, self.search.space.mode)
        if best is not None:
            self.search.write_best(best)
        self._report()

    def _report(self) -> None:
        self._reported = self.clock()
        self.search.write_table(self.trials)
        write_report(self.search, self.trials)


class SearchStopper(tune.Stopper):
    """Ends a search that has reached a limit."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._follower.is_enough()

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune pickles it into a state that nobody reads."""
        return NoopStopper, ()

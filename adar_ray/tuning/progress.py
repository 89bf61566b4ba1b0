"""How a search stands, and its display on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from adar_ray.errors import counted
from adar_ray.reporting.formatting import as_text, duration
from adar_ray.reporting.progress import SECONDS_BETWEEN_STEPS
from adar_ray.tuning.folder import Search
from adar_ray.tuning.trial import Trial, best_of, ranked


@dataclass(frozen=True)
class Progress:
    """How a search stands: `on_progress` gets it after every epoch of every trial.

    Attributes:
        trials: all that have begun, by number.
        seconds: how long the search has taken so far.
        left: seconds that it will still take; None as long as that cannot be told.
    """

    search: Search
    trials: list[Trial]
    seconds: float
    left: float | None

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials, self.search.space.mode)

    def count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)


OnProgress = Callable[[Progress], None]


class ProgressDisplay:
    """`on_progress` for people: a live table on a terminal, elsewhere a line for each trial that ends."""

    SHOWN = 8  # trials in the table: the best, and the latest that run

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self.live = Live(console=console, transient=True, refresh_per_second=4)
        self.is_live = console.is_terminal
        self._ended = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        if self.is_live:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_live:
            self.live.stop()

    def __call__(self, progress: Progress) -> None:
        if self.is_live:
            self.live.update(self._table(progress))
            return
        ended = sum(trial.has_ended for trial in progress.trials)
        late = time.monotonic() - self._last_line > SECONDS_BETWEEN_STEPS
        if ended != self._ended or late:
            print(_summary(progress), file=sys.stderr, flush=True)
            self._ended, self._last_line = ended, time.monotonic()

    def _table(self, progress: Progress) -> Table:
        shown = ranked(progress.trials, progress.search.space.mode)[: self.SHOWN]
        running = [trial for trial in progress.trials if trial.status == "running" and trial not in shown]
        table = Table(title=_summary(progress), title_justify="left")
        for name in ("trial", "status", "epoch", progress.search.space.metric, "parameters"):
            table.add_column(name, overflow="fold")
        for trial in [*shown, *running[-self.SHOWN :]]:
            value = "" if trial.value is None else f"{trial.value:.4f}"
            values = "  ".join(f"{key}={as_text(value)}" for key, value in trial.values.items())
            table.add_row(trial.name, trial.status, str(trial.epochs), value, values)
        return table


def _summary(progress: Progress) -> str:
    states = ("running", "finished", "stopped", "failed")
    counts = ", ".join(f"{progress.count(state)} {state}" for state in states if progress.count(state))
    parts = [f"{len(progress.trials)}/{counted(progress.search.trials, 'trial')}: {counts}"]
    if (best := progress.best) is not None:
        value = f"{progress.search.space.metric} {best.value_or_nan:.4f}"
        parts.append(f"best {value} (trial {best.name}, epoch {best.best_epoch})")
    if progress.left is not None:
        parts.append(f"about {duration(progress.left)} left")
    return "  ".join(parts)

"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from adar_ray.waiting import SILENT_SECONDS, waiting

if TYPE_CHECKING:
    from typing_extensions import Self

    from adar_ray.training.records import EpochRecord

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_STEPS = 30.0  # every epoch has its own line
ROWS_BETWEEN_HEADS = 20
_EPOCH = re.compile(r"(\d+)/(\d+)")
_STEP = re.compile(r"epoch +(\d+)/(\d+)  step ([\d,]+)/([\d,]+)")


class _Display:
    """A rich progress bar on a terminal, and nothing elsewhere."""

    def __init__(self, *columns: Any) -> None:
        console = Console(file=sys.stderr)
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


class StageProgress(_Display):
    """Stages, each with a count of rows: `on_progress` of `prepare`."""

    def __init__(self, unit: str = "interactions") -> None:
        super().__init__(
            TextColumn("{task.description}"), TextColumn("{task.fields[text]}"), TimeElapsedColumn()
        )
        self.unit = unit
        self._stage: str | None = None
        self._rows = 0
        self._last_line = 0.0
        self._last_call = time.monotonic()
        self._waiting = waiting(self._missing)

    def __enter__(self) -> Self:
        self._waiting.__enter__()
        return super().__enter__()

    def __call__(self, stage: str, rows: int) -> None:
        self._last_call = time.monotonic()
        if stage != self._stage:
            self._finish_stage()
            self._stage, self._last_line = stage, time.monotonic()
            if self.bar:
                self._task = self.bar.add_task(f"{stage:<9}", total=None, text="")
        self._rows = rows
        if self.bar:
            self.bar.update(self._task, text=f"{rows:,} {self.unit}")
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.line(f"{stage:<9} {rows:,} {self.unit} ...")
            self._last_line = time.monotonic()

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._finish_stage()
        super().__exit__(*error)
        self._waiting.__exit__(None, None, None)

    def _missing(self) -> str | None:
        if time.monotonic() - self._last_call < SILENT_SECONDS:
            return None
        return f"the next {self.unit} after {self._rows:,}"

    def _finish_stage(self) -> None:
        if self._stage is None:
            return
        if self.bar:
            self.bar.remove_task(self._task)
        self.line(f"{self._stage:<9} {self._rows:,} {self.unit}")


class TrainingProgress(_Display):
    """Epochs and steps: `on_epoch` and `on_step` of `train`."""

    def __init__(self, epochs: int, metric: str) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self.metric, self.epochs = metric, epochs
        self._rows = 0
        self._last_line = time.monotonic()
        if self.bar:
            self._task = self.bar.add_task("starting", total=None)

    def on_epoch(self, record: EpochRecord) -> None:
        """A row of a table of at most 80 columns, whose head comes again every twenty rows."""
        row = {"epoch": f"{record.epoch}/{self.epochs}", "loss": f"{record.loss:.4f}"}
        if record.valid is not None:
            row[self.metric] = f"{record.valid[self.metric]:.4f}"
        row["hardness"] = f"{record.sampler.hardness:.3f}"
        if record.sampler.timestep is not None:
            row["timestep"] = f"{record.sampler.timestep:.2f}"
        row["interactions/s"] = f"{record.time.interactions_per_second:,.0f}"
        least = len(f"{self.epochs}/{self.epochs}")
        widths = {name: max(len(name), least) for name in row}
        if self._rows % ROWS_BETWEEN_HEADS == 0:
            self.line("  ".join(name.rjust(widths[name]) for name in row))
        self.line("  ".join(text.rjust(widths[name]) for name, text in row.items()))
        self._rows += 1
        self._last_line = time.monotonic()

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        text = f"epoch {epoch:>3}/{self.epochs}"
        if self.bar:
            self.bar.update(self._task, description=text, completed=step, total=steps)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_STEPS:
            self.line(f"{text}  step {step:,}/{steps:,}")
            self._last_line = time.monotonic()


def read_training(log: str) -> dict[str, str]:
    """How far training has come, by a log of the lines that `TrainingProgress` prints without a terminal.

    Returns:
        `epoch` and `metric`, such as "13 of 100, step 40 of 200" and "ndcg@20 0.3161"; what the lines do not
        tell is left out.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    for line in log.splitlines():
        words = line.split()
        if words[:2] == ["epoch", "loss"]:
            names = words
        elif step := _STEP.fullmatch(line):
            found["epoch"] = "{} of {}, step {} of {}".format(*step.groups())
        elif names and len(words) == len(names) and (epoch := _EPOCH.fullmatch(words[0])):
            found["epoch"] = "{} of {}".format(*epoch.groups())
            if len(names) > 2 and "@" in names[2]:
                found["metric"] = f"{names[2]} {words[2]}"
    return found


class ComparisonProgress(_Display):
    """Runs and baselines: `on_progress` of `compare`."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._done = 0
        self._last_line = time.monotonic()
        if self.bar:
            self._task = self.bar.add_task("starting", total=None)

    def __call__(self, done: int, total: int, text: str) -> None:
        if self.bar:
            self.bar.update(self._task, description=text, completed=done, total=total)
        is_late = not self.bar and time.monotonic() - self._last_line > SECONDS_BETWEEN_STEPS
        if done > self._done or is_late:
            self.line(f"{done:>3}/{total}  {text}")
            self._done, self._last_line = done, time.monotonic()


class DownloadProgress(_Display):
    """Bytes of a download: `report` of `fetch`."""

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        self._last_line = time.monotonic()
        if self.bar:
            self._task = self.bar.add_task("fetching", total=None)

    def __call__(self, done: int, total: int | None) -> None:
        if self.bar:
            self.bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.line(f"fetching {done:,} of {total:,} bytes" if total else f"fetching {done:,} bytes")
            self._last_line = time.monotonic()

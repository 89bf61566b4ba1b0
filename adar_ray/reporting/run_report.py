"""The report of a run, or of several side by side: one HTML file that needs no other file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from adar_ray.reporting.formatting import as_text, escaped, score
from adar_ray.reporting.page import (
    COLORS,
    epoch_axis,
    figure,
    metric_table,
    page,
    pair,
    paragraph,
    section,
    table,
    trace,
)
from adar_ray.reporting.tables import side_by_side
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import CONFIG, Run

Epochs = Mapping[str, Sequence[EpochRecord]]  # of each run, by its name on the page
Figures = Callable[[EpochRecord], Mapping[str, float | None]]  # what is drawn, and what is only told


def run_report(addresses: Sequence[str | Path | Run]) -> str:
    """The report as HTML.

    Raises:
        AdarError: an address is not a run's, or a file of a run is damaged.
    """
    runs = [Run.open(address, trust=True) for address in addresses]  # nothing here runs its code
    names = _names(runs)
    epochs = {name: run.epochs() for name, run in zip(names, runs, strict=True)}
    metrics = dict.fromkeys(run.config.train.metric for run in runs)
    parts = [
        _comparison(names, [_facts(run, row) for run, row in zip(runs, side_by_side(runs), strict=True)]),
        *(_tests(name, run) for name, run in zip(names, runs, strict=True)),
        pair(
            *(_curves(f"Validation {metric}", epochs, _validation(metric)) for metric in metrics),
            _curves("Loss", epochs, lambda epoch: {"loss": epoch.loss, "penalty": epoch.penalty}),
        ),
        pair(
            _curves(
                "Hardness of the negatives",
                epochs,
                lambda epoch: {"hardness": epoch.sampler.hardness},
                "0 is trivial, 0.5 as hard as the positive.",
            ),
            _curves(
                "Timesteps of the negatives",
                epochs,
                lambda epoch: {"timestep": epoch.sampler.timestep, "uncrossed": epoch.sampler.uncrossed},
                "The mean timestep of ADAR's negatives: 0 is the positive, 1 plain noise.",
            ),
        ),
        _histograms(epochs),
    ]
    return page(f"Run {names[0]}" if len(runs) == 1 else f"{len(runs)} runs", parts)


def _names(runs: Sequence[Run]) -> list[str]:
    """The ends of their addresses, just long enough to differ."""
    paths = [run.folder.path.split("/") for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len({*names}) == len(names):
            break
    return names


def _facts(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the run in the comparison, and what else there is to know."""
    info = run.info
    again = ["--config", f"{run.folder}/{CONFIG}", "--data", info.dataset, "--workers", str(info.workers)]
    changes = [
        f"from epoch {resumed.epoch} {key} {as_text(after)} instead of {as_text(before)}"
        for resumed in info.resumed
        for key, (before, after) in resumed.changes.items()
    ]
    return {
        **row,
        "dataset": info.dataset,
        "began": info.began,
        "workers": info.workers,
        "versions": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
        "changed": "; ".join(changes) or None,
        "train again": shlex.join(["adar-ray", "train", *again, "--out", "RUN"]),
    }


def _comparison(names: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> str:
    """A row for each fact that is known of a run, a column for each run."""

    def text(value: Any) -> str:
        if value is None:
            return ""
        return score(value) if isinstance(value, float) else as_text(value, 1000)

    keys = dict.fromkeys(key for facts in columns for key, value in facts.items() if value is not None)
    rows = [[key, *(text(facts.get(key)) for facts in columns)] for key in keys]
    return table(["", *names], rows, texts=range(len(names) + 1))


def _tests(name: str, run: Run) -> str:
    return "".join(
        section(
            f"{name}: {split}",
            paragraph(f"Means over {measured.users:,} users, of whom every item was ranked."),
            metric_table({metric: score(value) for metric, value in measured.metrics.items()}),
        )
        for split, measured in run.evaluations().items()
    )


def _validation(metric: str) -> Figures:
    return lambda epoch: {metric: None, **(epoch.valid or {})}


def _curves(heading: str, epochs: Epochs, figures: Figures, text: str = "") -> str:
    """A line for each run that has the first of the figures, with a large dot at its best epoch."""
    traces, axis = [], ""
    for color, (name, records) in zip(cycle(COLORS), epochs.items(), strict=False):
        x, y, says, sizes = [], [], [], []
        for record in records:
            told = figures(record)
            axis, value = next(iter(told.items()))
            if value is not None:
                x.append(record.epoch)
                y.append(value)
                lines = [f"{key} {as_text(each)}" for key, each in told.items()]
                says.append("<br>".join([f"{escaped(name, 40)}, epoch {record.epoch}", *lines]))
                sizes.append(11 if record.epoch == records[-1].best_epoch else 5)
        if x:
            dots = {"color": color, "size": sizes, "opacity": 1, "line": {"width": 0}}
            look = {"mode": "lines+markers", "line": {"color": color}, "marker": dots}
            traces.append(trace(x, y, says, name=escaped(name, 30), showlegend=len(epochs) > 1, **look))
    if not traces:
        return ""
    last = max(max(line["x"]) for line in traces)
    drawn = figure(f"{axis} over epochs", traces, epoch_axis(last), axis)
    return section(heading, *([paragraph(text)] if text else []), drawn)


def _histograms(epochs: Epochs) -> str:
    """How the timesteps of each run are spread, epoch by epoch."""
    figures = []
    for name, records in epochs.items():
        shares = {record.epoch: record.sampler.timesteps for record in records if record.sampler.timesteps}
        if shares:
            bins = len(next(iter(shares.values())))
            heat = trace(
                shares,
                [(number + 0.5) / bins for number in range(bins)],
                z=list(zip(*shares.values(), strict=True)),
                type="heatmap",
                colorscale="Cividis",
                colorbar={"thickness": 12, "tickformat": ".0%"},
                hoverinfo="all",
                hovertemplate="epoch %{x}: %{z:.1%} of the timesteps are about %{y:.2f}<extra></extra>",
            )
            axis = f"timestep, {escaped(name, 30)}"
            figures.append(figure(f"timesteps of {name} over epochs", [heat], epoch_axis(len(records)), axis))
    if not figures:
        return ""
    text = "Each column is an epoch, and each field the share of its negatives that have such a timestep."
    return section("How timesteps are spread", paragraph(text), pair(*figures))

"""The report of a run, or of several side by side: one HTML file that needs no other file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from adar_ray.errors import counted
from adar_ray.reporting.formatting import as_text, escaped, score, span
from adar_ray.reporting.page import (
    COLORS,
    dots,
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
from adar_ray.reporting.tables import GROUPED_BY, beside_popularity, dataset_warning, difference, side_by_side
from adar_ray.significance import holm, paired_p
from adar_ray.training.records import EpochRecord, Evaluation, Group, Sample
from adar_ray.training.run import CONFIG, Run
from adar_ray.training.user_figures import mean_over_users

SAMPLED = (
    "A user from the middle of each group by activity: the latest items before the split, and the best ones, "
    "with ✓ for those that the user took."
)
LONG_LABEL = 14  # characters that a narrow page has room for under each of four bars

Epochs = Mapping[str, Sequence[EpochRecord]]  # of each run, by its name on the page
Figures = Callable[[EpochRecord], Mapping[str, float | None]]  # what is drawn, and what is only told


def run_report(addresses: Sequence[str | Path | Run]) -> str:
    """The report as HTML.

    Raises:
        AdarError: an address is not a run's, or a file of a run is damaged.
    """
    runs = [Run.open(address, trust=True) for address in addresses]  # nothing here runs its code
    names = _names(runs)
    parts = [
        _comparison(names, [_facts(run, row) for run, row in zip(runs, side_by_side(runs), strict=True)]),
        *(_tests(name, run) for name, run in zip(names, runs, strict=True)),
        *_differences(names, runs),
        _uniform(runs),
        *in_detail(dict(zip(names, runs, strict=True))),
    ]
    return page(f"Run {names[0]}" if len(runs) == 1 else f"{len(runs)} runs", parts)


def in_detail(runs: Mapping[str, Run]) -> Iterator[str]:
    """Figures by group, how the runs trained, and what they recommend to a few users.

    Args:
        runs: by their names on the page.
    """
    measured = _measured(runs)
    yield _by_group(measured)
    yield from training_figures(runs)
    yield _histograms(runs)
    yield from (_samples(name, evaluation) for name, evaluation in measured.items())


def training_figures(runs: Mapping[str, Run]) -> Iterator[str]:
    """Curves of validation and loss, and of the hardness and timesteps of negatives.

    Args:
        runs: by their names on the page.
    """
    epochs = {name: run.epochs() for name, run in runs.items()}
    metrics = dict.fromkeys(run.config.train.metric for run in runs.values())
    yield pair(
        *(_curves(f"Validation {metric}", epochs, _validation(metric)) for metric in metrics),
        _curves("Loss", epochs, lambda epoch: {"loss": epoch.loss, "penalty": epoch.penalty}),
    )
    yield pair(
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
    )


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
        "train again": shlex.join([*_training(run), "--out", "RUN"]),
    }


def _training(run: Run) -> list[str]:
    """The words of the command that trains alike."""
    info = run.info
    words = ["adar-ray", "train", "--config", f"{run.folder}/{CONFIG}", "--data", info.dataset]
    return [*words, "--workers", str(info.workers)]


def _uniform(runs: Sequence[Run]) -> str:
    """How to see what the negatives of a run that is alone are worth."""
    if len(runs) > 1 or runs[0].config.sampler.name == "uniform":
        return ""
    (run,) = runs
    commands = (
        [*_training(run), "--set", "sampler.name=uniform", "--out", "UNIFORM"],
        ["adar-ray", "evaluate", "UNIFORM"],
        ["adar-ray", "report", str(run.folder), "UNIFORM", "--html", "REPORT.html"],
    )
    text = "To see what the negatives are worth, train the same with uniform ones and put both on a page:"
    rows = [[str(number), shlex.join(words)] for number, words in enumerate(commands, 1)]
    return section("Compare with uniform negatives", paragraph(text), table(["", ""], rows, texts=(0, 1)))


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
    sections = []
    for split, measured in run.evaluations().items():
        text = f"Means over {counted(measured.users, 'user')}, for each of whom every item was ranked."
        if sentences := beside_popularity(run, measured):
            text += f" {sentences} p is that of a paired t-test over users."
        figures = metric_table({metric: score(value) for metric, value in measured.metrics.items()})
        sections.append(section(f"{name}: {split}", paragraph(text), figures))
    return "".join(sections)


def _differences(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    """What runs on one dataset gain in each split, over the first of them with uniform negatives or else the
    first of all, and whether that is more than chance."""
    if warning := dataset_warning(runs):
        yield section("The difference", paragraph(f"{warning[0].upper()}{warning[1:]}."))
        return
    is_uniform = [run.config.sampler.name == "uniform" for run in runs]
    base = is_uniform.index(True) if any(is_uniform) else 0
    metric = runs[base].config.train.metric
    for split in runs[base].evaluations():
        figures = {name: run.user_figures(split) or {} for name, run in zip(names, runs, strict=True)}
        value_U = {name: own[metric] for name, own in figures.items() if metric in own}
        reference_U = value_U.pop(names[base], None)
        if reference_U is None or not value_U:
            continue
        tests = {name: paired_p(own_U, reference_U) for name, own_U in value_U.items()}
        p_values = {name: p for name, p in tests.items() if p is not None}
        p_values = dict(zip(p_values, holm([*p_values.values()]), strict=True))
        before, U = mean_over_users(reference_U), len(reference_U)
        sentences = []
        for name, own_U in value_U.items():
            p = p_values.get(name)
            sentences.append(difference(name, mean_over_users(own_U), names[base], before, metric, p))
        corrected = ", Holm's correction" if len(p_values) > 1 else ""
        test = f"p is that of a paired t-test over {U:,} users{corrected}."
        yield section(f"{split}: the difference", *map(paragraph, [*sentences, test]))


def _measured(runs: Mapping[str, Run]) -> dict[str, Evaluation]:
    """The evaluations of the runs on test or, of those that have none, on the first split."""
    evaluations = {name: run.evaluations() for name, run in runs.items()}
    return {name: own.get("test") or next(iter(own.values())) for name, own in evaluations.items() if own}


def _by_group(measured: Mapping[str, Evaluation]) -> str:
    """Bars for each group of users and of items."""
    return pair(
        _bars("activity", "ndcg", measured),
        _bars("popularity", "recall", measured, "Recall of the held-out items in the group."),
        _bars("popularity", "share", measured, "Each group has about a third of the training interactions."),
        _bars("cohort", "ndcg", measured),
    )


def _bars(grouping: str, metric: str, measured: Mapping[str, Evaluation], text: str = "") -> str:
    traces, axis = [], ""
    for color, (name, evaluation) in zip(cycle(COLORS), measured.items(), strict=False):
        groups = evaluation.groups.get(grouping)
        if not groups:
            continue
        # A group without held-out items has no metric but its share.
        names = dict.fromkeys(name for group in groups for name in group.metrics)
        ks = [name.partition("@")[2] for name in names if name.startswith(f"{metric}@")]
        if not ks:
            continue
        axis = f"{metric}@{'20' if '20' in ks else ks[0]}"
        labels = _labels(groups)
        member = "item" if grouping == "popularity" else "user"
        values = [group.metrics.get(axis) for group in groups]
        says = [
            f"{escaped(name, 40)}<br>{label}: {counted(group.size, member)}<br>{axis} {as_text(value)}"
            for label, group, value in zip(labels, groups, values, strict=True)
        ]
        look = {"type": "bar", "marker": {"color": color}, "showlegend": len(measured) > 1}
        ticks = [label.replace(" – ", " –<br>") if len(label) > LONG_LABEL else label for label in labels]
        traces.append(trace(ticks, values, says, name=escaped(name, 30), **look))
    if not traces:
        return ""
    x = {"type": "category", "title": {"text": GROUPED_BY[grouping].removeprefix("by ")}}
    heading = f"{axis} {GROUPED_BY[grouping]}"
    return section(heading, *([paragraph(text)] if text else []), figure(heading, traces, x, axis))


def _labels(groups: Sequence[Group]) -> list[str]:
    """What the groups are called: the ends of each, of times the dates if these differ."""
    ends = [[str(group.first), str(group.last)] for group in groups]
    dates = [[text.partition("T")[0] for text in pair_of_ends] for pair_of_ends in ends]
    if len({*map(tuple, dates)}) == len(dates):
        ends = dates
    return [span(first, last) for first, last in ends]


def _samples(name: str, evaluation: Evaluation) -> str:
    """What a few users did last, and are recommended."""
    if not evaluation.samples:
        return ""
    rows = [
        [as_text(cell, 1000) for cell in (sample.user, " · ".join(sample.history), recommended(sample))]
        for sample in evaluation.samples
    ]
    heading = f"{name}: what is recommended in {evaluation.split}"
    header = ["user", "latest items, the last one last", "recommended, best first"]
    return section(heading, paragraph(SAMPLED), table(header, rows, texts=range(3)))


def recommended(sample: Sample) -> str:
    """The items of a sample in a line."""
    return " · ".join(
        f"{item} ✓" if hit else item for item, hit in zip(sample.items, sample.hits, strict=True)
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
            look = {"mode": "lines+markers", "line": {"color": color}, "marker": dots(color, sizes)}
            traces.append(trace(x, y, says, name=escaped(name, 30), showlegend=len(epochs) > 1, **look))
    if not traces:
        return ""
    last = max(max(line["x"]) for line in traces)
    height = 320 + 20 * max(len(traces) - 4, 0)  # a legend of many names takes room
    drawn = figure(f"{axis} over epochs", traces, epoch_axis(last), axis, height)
    return section(heading, *([paragraph(text)] if text else []), drawn)


def _histograms(runs: Mapping[str, Run]) -> str:
    """How the timesteps of each run are spread, epoch by epoch."""
    figures = []
    for name, run in runs.items():
        records = run.epochs()
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

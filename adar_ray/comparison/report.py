"""The page of a comparison: one HTML file that needs no other file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from adar_ray.comparison.folder import PLAN, REPORT, RESULT, Comparison, Plan, UserGroup
from adar_ray.comparison.systems import configs_of, trained_systems
from adar_ray.comparison.tables import notes, table, tuning_notes, tuning_table, verdict
from adar_ray.comparison.users import name_of, read_samples
from adar_ray.comparison.work import run_folder
from adar_ray.errors import AdarError, counted
from adar_ray.reporting import page
from adar_ray.reporting.formatting import duration, escaped, score, span
from adar_ray.reporting.page import BLUE, COLORS, GRAY, dots, figure, pair, paragraph, section, trace
from adar_ray.reporting.run_report import SAMPLED, recommended, training_figures
from adar_ray.storage import Folder
from adar_ray.training.records import Sample
from adar_ray.training.run import Run, time_now

_GROUPED_BY = {
    "activity": (
        "by a user's number of items in training",
        "A dot per group of users, by how many items they have in training.",
    ),
    "popularity": (
        "by the popularity of users' items",
        "A dot per group of users, by how many users their items of the split have in training, on average.",
    ),
}
_NAMES = {"valid": "Validation", "test": "Test"}
_ROW, _DOT = 26, 9  # pixels of a system, and of its dot


def read_comparison(folder: Folder) -> tuple[Plan, Comparison]:
    """What is compared in a folder, and what came of it.

    Raises:
        AdarError: it is no comparison, or not finished.
    """
    if not folder.exists(PLAN):
        raise AdarError(
            f"{folder}: is not a comparison ({PLAN} is missing); make one with `adar-ray compare`"
        )
    plan = folder.read_record(PLAN, Plan, "remove it, and compare again")
    command = shlex.join(plan.command(folder.address))
    result = None
    if folder.exists(RESULT):
        result = folder.read_record(RESULT, Comparison, f"remove it, and run `{command}` again")
    if result is None or result.plan not in ("", plan.fingerprint):  # more has been asked for since
        raise AdarError(f"{folder}: is not finished; continue with `{command}`")
    return plan, result


def write_report(folder: Folder, plan: Plan, comparison: Comparison) -> None:
    """Write `report.html` of a comparison."""
    folder.write_bytes(REPORT, page_of(folder, plan, comparison).encode())


def page_of(folder: Folder, plan: Plan, comparison: Comparison) -> str:
    """The page of the comparison in a folder."""
    runs_of = {
        name: [
            Run.open(run_folder(folder, name, config).address, trust=True)  # nothing here runs its code
            for config in configs_of(sections, plan.seeds, plan.settings, {})
        ]
        for name, sections in trained_systems(plan.models, plan.samplers).items()
    }
    runs = [run for of_system in runs_of.values() for run in of_system]
    began = sorted(run.info.began for run in runs if run.info.began)
    seconds = sum(result.train_seconds for run in runs if (result := run.result()))
    versions = dict.fromkeys(
        f"{name} {version}" for run in runs for name, version in run.info.versions.items()
    )
    facts = {
        "dataset": f"{comparison.dataset}, at {comparison.data}",
        "checksum": comparison.checksum,
        "trained": " to ".join(dict.fromkeys(began[:1] + began[-1:])),
        "training took": f"{duration(seconds)}, {counted(len(runs), 'run')} together, trials not counted",
        "written": time_now(),
        "versions": ", ".join(versions),
        "compare again": shlex.join(plan.command(folder.address)),
    }
    facts = {name: fact for name, fact in facts.items() if fact}
    first = {name: of_system[0] for name, of_system in runs_of.items()}
    return comparison_report(comparison, facts, first, _samples(folder, comparison, first))


def _samples(folder: Folder, comparison: Comparison, runs: Mapping[str, Run]) -> dict[str, list[Sample]]:
    """What each system recommends to a few users in the last split."""
    split, figures = [*comparison.splits.items()][-1]
    seeds = {name: run.config.train.seed for name, run in runs.items()}
    return {name: read_samples(folder, split, name_of(name, seeds.get(name))) for name in figures.systems}


def comparison_report(
    comparison: Comparison,
    facts: Mapping[str, str],
    runs: Mapping[str, Run],
    samples: Mapping[str, Sequence[Sample]],
) -> str:
    """The page as HTML.

    Args:
        facts: what else there is to know, each with its name.
        runs: of each system that is trained, the first.
        samples: what each system recommends to the same users in the last split.
    """
    last = [*comparison.splits][-1]
    parts = [
        *(_split(comparison, split) for split in comparison.splits),
        pair(*(_dots(comparison, split) for split in comparison.splits)),
        pair(*_by_group(comparison, last)),
        _tuning(comparison),
        section("How systems trained", paragraph("Each system's first seed.")),
        *training_figures(runs),
        _recommended(samples, last),
        section("About this comparison", page.table(["", ""], facts.items(), texts=(0, 1))),
    ]
    return page.page(f"Comparison on {comparison.dataset}", parts)


def _split(comparison: Comparison, split: str) -> str:
    rows = table(comparison, split)
    return section(
        _NAMES[split],
        paragraph(verdict(comparison, split)),
        page.table([*rows[0]], ([_unbroken(cell) for cell in row.values()] for row in rows), texts=(0,)),
        paragraph(" ".join(notes(comparison, split))),
    )


def _unbroken(cell: str) -> str:
    """A cell in one line, such as a mean with its deviation."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}")


def _tuning(comparison: Comparison) -> str:
    rows = tuning_table(comparison)
    if not rows:
        return ""
    shown = page.table([*rows[0]], ([*row.values()] for row in rows), texts=(0, len(rows[0]) - 1))
    return section("What was chosen", paragraph(" ".join(tuning_notes(comparison))), shown)


def _dots(comparison: Comparison, split: str) -> str:
    """A dot per system with its standard deviation over runs, and a line where the reference is."""
    systems, metric = comparison.splits[split].systems, comparison.metric
    values = [figures.metrics[metric] for figures in systems.values()]
    deviations = [(figures.deviations or {}).get(metric) for figures in systems.values()]
    base, ends = systems[comparison.reference].metrics[metric], [-0.5, len(systems) - 0.5]
    line = trace([base, base], ends, mode="lines", line={"color": GRAY, "dash": "dash", "width": 1})
    says = [
        f"{escaped(name, 40)}<br>{escaped(metric)} {score(value)}"
        + ("" if deviation is None else f"<br>± {deviation:.2g} over {figures.runs} runs")
        for (name, figures), value, deviation in zip(systems.items(), values, deviations, strict=True)
    ]
    bars = {"type": "data", "array": [each or 0 for each in deviations], "thickness": 1.5, "width": 4}
    look = {"mode": "markers", "error_x": bars, "marker": dots(BLUE, _DOT)}
    heading = f"{_NAMES[split]} {metric}"
    text = "Means over runs with their standard deviation. The dashed line is the reference."
    points = trace(values, range(len(values)), says, **look)
    drawn = figure(heading, [line, points], escaped(metric), _axis(systems), _height(systems))
    return section(heading, paragraph(text), drawn)


def _by_group(comparison: Comparison, split: str) -> Iterator[str]:
    """Dots for each system, one for each group of users."""
    figures, metric = comparison.splits[split], comparison.metric
    for by, (name, text) in _GROUPED_BY.items():
        groups = figures.groups.get(by, [])
        if len(groups) < 2:
            continue
        traces = [_group(group, color, metric) for group, color in zip(groups, cycle(COLORS), strict=False)]
        heading = f"{_NAMES[split]} {metric} {name}"
        drawn = figure(
            heading, traces, escaped(metric), _axis(figures.systems), _height(figures.systems) + 30
        )
        yield section(heading, paragraph(text), drawn)


def _group(group: UserGroup, color: str, metric: str) -> dict[str, Any]:
    label = span(group.first, group.last)
    says = [
        f"{escaped(name, 40)}<br>{label}: {counted(group.users, 'user')}<br>{escaped(metric)} {score(value)}"
        for name, value in group.figures.items()
    ]
    values = group.figures.values()
    return trace(values, range(len(values)), says, mode="markers", name=label, marker=dots(color, _DOT))


def _recommended(samples: Mapping[str, Sequence[Sample]], split: str) -> str:
    """A table for each user, with a row per system."""
    systems = {name: each for name, each in samples.items() if each}
    if not systems:
        return ""
    content = []
    for at, sample in enumerate(next(iter(systems.values()))):
        rows = [[name, recommended(each[at])] for name, each in systems.items()]
        content += [
            paragraph(f"User {sample.user}, latest items, the last one last: {' · '.join(sample.history)}"),
            page.table(["", "recommended, best first"], rows, texts=(0, 1)),
        ]
    text = f"{SAMPLED} Of a system that is trained, its first seed."
    return section(f"What is recommended in {split}", paragraph(text), *content)


def _axis(systems: Mapping[str, Any]) -> dict[str, Any]:
    """A row per system, the first one on top."""
    # Of `module:callable` the callable, since a label has little room.
    names = [escaped(re.sub(r"[\w.]+:", "", name), 30) for name in systems]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
    }


def _height(systems: Mapping[str, Any]) -> int:
    return 80 + _ROW * len(systems)

"""The tables of a comparison: for a terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from adar_ray.comparison.folder import Comparison, SystemFigures
from adar_ray.comparison.systems import described
from adar_ray.errors import counted
from adar_ray.reporting.formatting import as_text
from adar_ray.significance import p_cell, p_phrase, p_verdict

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": "$<$",
}


def table(
    comparison: Comparison,
    split: str,
    write: Callable[[str], str] = str,
    write_best: Callable[[str], str] = str,
) -> list[dict[str, str]]:
    """A row per system: two or three metrics, the gain over the reference, and Holm's p.

    Args:
        write: what becomes of each text.
        write_best: what becomes then of the highest figure of a metric.
    """
    systems = comparison.splits[split].systems
    k = comparison.metric.partition("@")[2]
    metrics = list(dict.fromkeys((f"recall@{k}", f"ndcg@{k}", comparison.metric)))
    best = {metric: max(figures.metrics[metric] for figures in systems.values()) for metric in metrics}
    rows = []
    for name, figures in systems.items():
        row = {"system": name, **{metric: _with_deviation(figures, metric) for metric in metrics}}
        row[f"over {comparison.reference}"] = "" if figures.gain is None else f"{figures.gain:+.1%}"
        row["p"] = "" if figures.p_holm is None else p_cell(figures.p_holm)
        row = {write(column): write(cell) for column, cell in row.items()}
        for metric in metrics:
            if figures.metrics[metric] == best[metric]:
                row[write(metric)] = write_best(row[write(metric)])
        rows.append(row)
    return rows


def verdict(comparison: Comparison, split: str) -> str:
    """How the best system does beside the reference, in a sentence; empty if there is nothing beside it."""
    systems, metric, reference = comparison.splits[split].systems, comparison.metric, comparison.reference
    others = {name: figures for name, figures in systems.items() if name != reference}
    if not others:
        return ""
    name, best = max(others.items(), key=lambda item: item[1].metrics[metric])
    if best.gain is None:  # over nothing
        says = f"{name} has {best.metrics[metric]:.4f} in {metric}, and {reference} 0"
    elif best.gain > 0:
        says = f"{name} is {best.gain:.1%} above {reference} in {metric}"
    else:
        says = f"Nothing is above {reference} in {metric}; {name} comes next, {-best.gain:.1%} below it"
    if best.p_holm is None:
        return f"{says}."
    tested = counted(len(others), "system")
    return f"{says}, which is {p_verdict(best.p_holm)} ({p_phrase(best.p_holm)}, of {tested} tested)."


def tuning_table(comparison: Comparison) -> list[dict[str, str]]:
    """A row per system that was tuned: with its defaults, at its best, and the settings of the best trial."""
    metric, rows = comparison.metric, []
    for name, tuned in comparison.tuned.items():
        first, chosen = tuned.trials[0], tuned.chosen
        rows.append(
            {
                "system": name,
                "trials": str(len(tuned.trials)),
                "failed": str(sum(trial.value is None for trial in tuned.trials)),
                f"first {metric}": "" if first.value is None else f"{first.value:.4f}",
                f"best {metric}": "" if chosen.value is None else f"{chosen.value:.4f}",
                "best trial": f"{tuned.best:05d}",  # as its folder is called
                "settings": described({key: as_text(value) for key, value in chosen.values.items()}),
            }
        )
    return rows


def tuning_notes(comparison: Comparison) -> Iterator[str]:
    """What a reader of the table of tuning has to know."""
    yield (
        f"{counted(comparison.trials, 'trial')} each on validation, from the same seed and over the same "
        "ranges. The first trial has the defaults, where the ranges have them."
    )
    systems = next(iter(comparison.splits.values())).systems
    if untuned := [name for name in systems if name not in comparison.tuned]:
        yield f"Without settings to tune: {', '.join(untuned)}."


def notes(comparison: Comparison, split: str) -> Iterator[str]:
    """What a reader of the table has to know."""
    figures = comparison.splits[split]
    yield f"{comparison.dataset}, {split}: all items ranked for {counted(figures.users, 'user')}."
    if any(system.deviations for system in figures.systems.values()):
        yield "With several seeds: mean ± standard deviation."
    tests = sum(system.p is not None for system in figures.systems.values())
    if tests:
        yield (
            f"p: paired t-test over users of {comparison.metric} against {comparison.reference}, "
            f"corrected for {counted(tests, 'test')} (Holm)."
        )
    if not comparison.trials:
        yield "Nothing was tuned: settings are defaults or were given."
    else:
        trials = counted(comparison.trials, "trial")
        yield f"Each system was tuned with {trials} on validation, then retrained."
    if split == "valid" and comparison.trials:
        yield "Settings and each run's best epoch were chosen on these same figures."
    elif split == "valid":
        yield "Each run's best epoch was chosen on these same figures; baselines have no such choice."
    for name, reason in comparison.left_out.items():
        yield f"{name} was left out: {reason.removeprefix(f'{name}: ')}."


def to_markdown(comparison: Comparison) -> str:
    """All splits' tables in Markdown, the best figures bold, and what systems were tuned to."""
    parts = []
    for split in comparison.splits:
        body = _markdown(table(comparison, split, write_best=lambda cell: f"**{cell}**"))
        parts += [f"## {split}", verdict(comparison, split), body, "\n".join(notes(comparison, split))]
    if comparison.tuned:
        body = _markdown(tuning_table(comparison))
        parts += ["## tuning", body, "\n".join(tuning_notes(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(rows: list[dict[str, str]]) -> str:
    header = list(rows[0])
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def to_latex(comparison: Comparison) -> str:
    """All splits' tables in LaTeX, with the package booktabs, the best figures bold."""
    parts = []
    for split in comparison.splits:
        rows = table(comparison, split, _escaped, lambda cell: rf"\textbf{{{cell}}}")
        lines = [
            *(f"% {note}" for note in notes(comparison, split)),
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            f"{' & '.join(rows[0])} \\\\",
            r"\midrule",
            *(f"{' & '.join(row.values())} \\\\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _with_deviation(figures: SystemFigures, metric: str) -> str:
    deviation = f" ± {figures.deviations[metric]:.4f}" if figures.deviations else ""
    return f"{figures.metrics[metric]:.4f}{deviation}"


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^±<&%$#_{}]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)

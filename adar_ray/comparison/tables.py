"""The tables of a comparison: for a terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from adar_ray.comparison.folder import Comparison, SystemFigures

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
        row["p"] = "" if figures.p_holm is None else _p(figures.p_holm)
        row = {write(column): write(cell) for column, cell in row.items()}
        for metric in metrics:
            if figures.metrics[metric] == best[metric]:
                row[metric] = write_best(row[metric])
        rows.append(row)
    return rows


def notes(comparison: Comparison, split: str) -> Iterator[str]:
    """What a reader of the table has to know."""
    figures = comparison.splits[split]
    yield f"{comparison.dataset}, {split}: all items ranked for {figures.users:,} users."
    if any(system.deviations for system in figures.systems.values()):
        yield "With several seeds: mean ± standard deviation."
    tests = sum(system.p is not None for system in figures.systems.values())
    if tests:
        yield (
            f"p: paired t-test over users of {comparison.metric} against {comparison.reference}, "
            f"corrected for {tests} {'test' if tests == 1 else 'tests'} (Holm)."
        )
    yield "Nothing was tuned: settings are defaults or were given."
    if split == "valid":
        yield "Each run's best epoch was chosen on these same figures; baselines have no such choice."
    for name, reason in comparison.left_out.items():
        yield f"{name} was left out: {reason.removeprefix(f'{name}: ')}."


def to_markdown(comparison: Comparison) -> str:
    """All splits' tables in Markdown, the best figures bold."""
    parts = []
    for split in comparison.splits:
        rows = table(comparison, split, write_best=lambda cell: f"**{cell}**")
        header = list(rows[0])
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *(list(row.values()) for row in rows)]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        parts.append("\n\n".join((f"## {split}", body, "\n".join(notes(comparison, split)))))
    return "\n\n".join(parts) + "\n"


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


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^±<&%$#_{}]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)

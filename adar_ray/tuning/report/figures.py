"""The figures of a report, each in a section of the page."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from adar_ray.errors import one_line
from adar_ray.reporting.formatting import as_text, n_trials
from adar_ray.reporting.page import paragraph, section
from adar_ray.tuning.report.contents import BEST, Contents, best_so_far, column_of, is_wide
from adar_ray.tuning.report.importance import parameter_importance
from adar_ray.tuning.report.score_aware import LARGEST_SCORE, score_aware_lines
from adar_ray.tuning.trial import Status

_WIDE, _SMALL = (5.2, 3.2), (3.3, 2.5)  # inches: narrow enough to be read on a phone
_INK, _GRAY, _BLUE, _ACCENT = "#1f2933", "#9aa5b1", "#0072b2", "#c8102e"
STATUSES: dict[Status, tuple[str, str, str]] = {  # color, marker, label
    "running": (_GRAY, "s", "running"),
    "finished": (_BLUE, "o", "finished"),
    "stopped": (_GRAY, "o", "stopped early"),
    "failed": ("#e07b00", "x", "failed"),
    "interrupted": ("#6b4fa0", "^", "interrupted"),
}
STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a "$" in what a user wrote is no formula
    "text.color": _INK,
    "axes.edgecolor": _GRAY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#e8ebef",
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text: it can be selected and searched for
}


def search_curve(contents: Contents) -> str:
    heading = "The course of the search"
    shown = [trial for trial in contents.trials if trial.has_value]
    if not shown:
        return section(heading, paragraph("No trial has a value: there is nothing to draw."))
    last = max(trial.end for trial in contents.trials)
    unit, name = (3600, "hours") if last > 7200 else (60, "minutes") if last > 120 else (1, "seconds")
    figure, axes = _axes(_WIDE)
    steps = best_so_far(contents.trials, contents.mode)
    if steps:
        times, values = zip(*steps, strict=True)
        axes.step(
            [t / unit for t in (*times, last)],
            [*values, values[-1]],
            where="post",
            color=_INK,
            linewidth=1.4,
            label="best so far",
        )
    for status, (color, marker, label) in STATUSES.items():
        some = [trial for trial in shown if trial.status == status]
        if some:
            ends, bests = [trial.end / unit for trial in some], [trial.value_or_nan for trial in some]
            axes.scatter(ends, bests, s=20, c=color, marker=marker, label=label, zorder=3)
    if last > 0:
        axes.set_xlim(0, 1.03 * last / unit)
    axes.set(xlabel=f"{name} since the search began", ylabel=f"validation {as_text(contents.metric, 30)}")
    figure.legend(loc="outside upper left", ncols=5, columnspacing=1.2, handletextpad=0.4)
    text = "Each dot is a trial's best value, at the time when the trial ended."
    if without := len(contents.trials) - len(shown):
        text += f" {n_trials(without)} without a value {'is' if without == 1 else 'are'} not shown."
    says = f"best {contents.metric} over time"
    return section(heading, paragraph(text), f'<div class="wide">{_svg(figure, "search", says)}</div>')


def learning_curves(contents: Contents) -> str:
    heading = "Learning curves"
    best = contents.ranked[:BEST]
    ranks = {trial.number: rank for rank, trial in enumerate(best)}
    figure, axes = _axes(_WIDE)
    drawn = 0
    for trial in contents.trials:
        if not any(map(math.isfinite, trial.curve)):
            continue
        look: dict[str, Any] = {"color": _GRAY, "linewidth": 0.6, "alpha": 0.7, "zorder": 2}
        if trial.number in ranks:
            look = _strength(ranks[trial.number])
        # A line with a single point would be invisible.
        marker = "." if len(trial.curve) == 1 else None
        axes.plot(range(1, len(trial.curve) + 1), trial.curve, marker=marker, **look)
        drawn += 1
    if not drawn:
        return section(heading, paragraph("No trial has a learning curve."))
    axes.set(xlabel="epoch", ylabel=f"validation {as_text(contents.metric, 30)}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    text = f"{n_trials(drawn)}. The {len(best)} best have strong lines, the best one a red line."
    if len(best) < 2:
        text = f"{n_trials(drawn)}. The best one has a red line."
    says = f"{contents.metric} over epochs"
    return section(heading, paragraph(text), f'<div class="wide">{_svg(figure, "learning", says)}</div>')


def parameter_plots(contents: Contents) -> str:
    heading = "Each parameter"
    if not contents.parameters:
        return section(heading, paragraph("The search has no parameters."))
    figures = []
    for number, name in enumerate(contents.parameters):
        figure = _parameter_plot(contents, name)
        if figure is not None:
            says = f"{contents.metric} over {as_text(name)}"
            figures.append(_svg(figure, f"parameter{number}", says))
    if not figures:
        return section(heading, paragraph("No trial has a value to plot over its parameters."))
    text = f"Validation {as_text(contents.metric)} over each parameter. Each dot is a trial that did not "
    text += "fail; the best one is red."
    return section(heading, paragraph(text), f'<div class="grid">{"".join(figures)}</div>')


def _parameter_plot(contents: Contents, name: str) -> Figure | None:
    column, is_number = column_of(contents.ranked, name)
    if not column:
        return None
    # Fixed margins: a layout would take as long as drawing, and the axes would not line up.
    figure, bottom = Figure(figsize=_SMALL), 0.2
    axes = figure.add_subplot()
    places = [place for _, place in column]
    if is_number:
        is_whole = all(place == int(place) for place in places)
        if is_wide(places):
            axes.set_xscale("log")
            # matplotlib's labels of powers are formulas, which are switched off.
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if is_whole and len(set(places)) <= 6:  # sizes such as 16, 64, 256
                axes.set_xticks(sorted(set(places)))
                axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=is_whole))
    else:
        names = sorted(set(places))
        # The golden ratio spreads points evenly, and in the same way every time.
        places = [names.index(p) + 0.5 * ((i * 0.618034) % 1 - 0.5) for i, p in enumerate(places)]
        labels = [one_line(label, 16) for label in names]
        if sum(map(len, labels)) > 28:
            axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
            bottom = 0.44
        else:
            axes.set_xticks(range(len(names)), labels)
        axes.set_xlim(-0.5, len(names) - 0.5)
    values = [trial.value_or_nan for trial, _ in column]
    axes.scatter(places, values, s=16, c=_BLUE, alpha=0.6, linewidths=0, zorder=2)
    if column[0][0] is contents.ranked[0]:
        axes.scatter(places[:1], values[:1], s=44, c=_ACCENT, edgecolors="white", linewidths=0.8, zorder=3)
    axes.set_xlabel(as_text(name, 40))
    # The same scale in every plot, even if few trials have the parameter.
    all_values = [trial.value_or_nan for trial in contents.ranked]
    low, high = min(all_values), max(all_values)
    if low < high:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    figure.subplots_adjust(left=0.21, right=0.94, bottom=bottom, top=0.95)
    return figure


def importance_bars(contents: Contents) -> str:
    heading = "Importance of the parameters"
    importance = parameter_importance(contents.trials, contents.mode)
    shares = importance.shares
    if not shares:
        return section(heading, paragraph(importance.why_none))
    figure, axes = _axes((_WIDE[0], 0.7 + 0.27 * len(shares)))
    names = [as_text(name, 30) for name in shares]
    bars = axes.barh(range(len(shares)), list(shares.values()), color=_BLUE, height=0.65)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(shares)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.12 * max(shares.values())), xlabel="share of the importance")
    text = (
        "How much a parameter's values in the best quarter of the trials differ from its values in all "
        "trials (PED-ANOVA), as shares of 1. It looks at each parameter by itself and only at values that "
        "were tried, judges a trial that was stopped early by its best value until then, and gives every "
        "parameter a small share by chance. With fewer than a few hundred trials, take it as a hint where "
        "to search next."
    )
    notes = [f"{as_text(name)}: {reason}." for name, reason in importance.left_out.items()]
    if notes:
        notes.insert(0, "Left out:")
    return section(
        heading,
        paragraph(text),
        f'<div class="wide">{_svg(figure, "importance", "importance of each parameter")}</div>',
        *([paragraph(" ".join(notes))] if notes else []),
    )


def score_aware_functions(contents: Contents) -> str:
    lines = score_aware_lines(contents.trials, contents.mode, contents.fixed)
    if not lines:
        return ""
    figure, axes = _axes((_WIDE[0], 3.8))
    axes.plot([0, LARGEST_SCORE], [0, LARGEST_SCORE], "--", color=_GRAY, linewidth=1)
    for rank, (_, r, z) in enumerate(lines):
        axes.plot(r, z, **_strength(rank))
    ends = [z[-1] for _, _, z in lines]
    ranks = {trial.number: rank for rank, trial in enumerate(contents.ranked, 1)}
    for i, height in enumerate(_apart(ends, gap=0.055 * LARGEST_SCORE)):
        color = _ACCENT if i == 0 else _BLUE
        axes.annotate(
            str(ranks[lines[i][0].number]),
            (LARGEST_SCORE, ends[i]),
            (1.06 * LARGEST_SCORE, height),
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )
    axes.set(
        xlim=(0, LARGEST_SCORE),
        ylim=(0, None),
        xlabel="score of the positive, in units of its mean",
        ylabel="boundary z",
    )
    text = (
        "The score at which a diffused positive turns negative, over the score of the positive: the closer "
        "to the dashed diagonal, the harder the negatives. Better trials have stronger lines; the numbers "
        "are ranks. A beta or gamma that was not searched has the value that all trials share."
    )
    says = "score-aware functions of the best trials"
    return section(
        "Score-aware functions", paragraph(text), f'<div class="wide">{_svg(figure, "boundary", says)}</div>'
    )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The closest heights (least squares) at which labels in the same order do not overlap."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # Without the space for the labels below, heights must not decrease: pool those that do.
    pools: list[list[float]] = []
    for below, i in enumerate(order):
        pools.append([heights[i] - below * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    placed = [0.0] * len(heights)
    for below, i in enumerate(order):
        placed[i] = level[below] + below * gap
    return placed


def _svg(figure: Figure, name: str, says: str) -> str:
    """The figure as an element of the page; `says` describes it for screen readers."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # With a salt, the same search gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser draws the text, so a letter that matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its rule for strokes would apply to the whole page, which has its own.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    # Figures on one page must not share ids. In text, matplotlib turns quotes into entities.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    size = re.compile(r'\s(width|height)="[\d.]+pt"')
    head, rest = svg.split(">", 1)
    head = size.sub("", head) + f' role="img" aria-label="{html.escape(says)}"'
    return f"<figure>{head}>{rest.strip()}</figure>"


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _strength(rank: int) -> dict[str, Any]:
    """How to draw the line of a trial: the better, the stronger, and the best one in its own color."""
    weakness = rank / BEST
    return {
        "color": _ACCENT if rank == 0 else _BLUE,
        "linewidth": 2.2 if rank == 0 else 1.6 - 0.7 * weakness,
        "alpha": 1.0 if rank == 0 else 0.9 - 0.55 * weakness,
        "zorder": 3 + BEST - rank,
    }

"""The figures in the report of a search, each in a section of the page."""

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
from adar_ray.reporting.formatting import in_words, n_trials
from adar_ray.reporting.importance import importances
from adar_ray.reporting.page import paragraph, section
from adar_ray.reporting.score_aware import LARGEST_SCORE, score_aware_lines
from adar_ray.reporting.trials import BEST, Search, best_so_far, column_of, end_of, finite, is_wide, value_of

_WIDE, _SMALL = (5.2, 3.2), (3.3, 2.5)  # inches: narrow enough to be read on a phone
_INK, _GRAY, _BLUE, _ACCENT = "#1f2933", "#9aa5b1", "#0072b2", "#c8102e"
STATUSES = {  # color, marker, words
    "finished": (_BLUE, "o", "finished"),
    "stopped": (_GRAY, "o", "stopped early"),
    "failed": ("#e07b00", "x", "failed"),
    "interrupted": ("#6b4fa0", "^", "interrupted"),
}
STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a "$" in a user's text is a "$"
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


def search_curve(search: Search) -> str:
    heading = "The course of the search"
    shown = [trial for trial in search.trials if value_of(trial) is not None]
    if not shown:
        return section(heading, paragraph("No trial has a value: there is nothing to draw."))
    last = max(end_of(trial) for trial in search.trials)
    unit, name = (3600, "hours") if last > 7200 else (60, "minutes") if last > 120 else (1, "seconds")
    figure, axes = _axes(_WIDE)
    steps = best_so_far(search.trials, search.mode)
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
    for status in dict.fromkeys([*STATUSES, *(trial.get("status") for trial in shown)]):
        color, marker, words = STATUSES.get(status, (_GRAY, "s", in_words(status)))
        points = [(end_of(t) / unit, value_of(t)) for t in shown if t.get("status") == status]
        if not points:
            continue
        axes.scatter(*zip(*points, strict=True), s=20, c=color, marker=marker, label=words, zorder=3)
    if last > 0:
        axes.set_xlim(0, 1.03 * last / unit)
    axes.set(xlabel=f"{name} since the search began", ylabel=f"validation {in_words(search.metric, 30)}")
    figure.legend(loc="outside upper left", ncols=5, columnspacing=1.2, handletextpad=0.4)
    text = "A dot is a trial's best value, at the time at which the trial ended."
    if without := len(search.trials) - len(shown):
        text += f" {n_trials(without)} without a value {'is' if without == 1 else 'are'} not shown."
    says = f"best {search.metric} over time"
    return section(heading, paragraph(text), f'<div class="wide">{_svg(figure, "search", says)}</div>')


def learning_curves(search: Search) -> str:
    heading = "Learning curves"
    best = search.ranked[:BEST]
    ranks = {id(trial): rank for rank, trial in enumerate(best)}
    figure, axes = _axes(_WIDE)
    drawn = 0
    for trial in search.trials:
        curve = [finite(value) for value in search.curves.get(trial.get("trial")) or []]
        if all(value is None for value in curve):
            continue
        values = [math.nan if value is None else value for value in curve]
        rank = ranks.get(id(trial))
        if rank is None:
            look = {"color": _GRAY, "linewidth": 0.6, "alpha": 0.7, "zorder": 2}
        else:
            look = _strength(rank)
        # A line of one point would not be seen.
        axes.plot(range(1, len(values) + 1), values, marker="." if len(values) == 1 else None, **look)
        drawn += 1
    if not drawn:
        return section(heading, paragraph("No trial has a learning curve."))
    axes.set(xlabel="epoch", ylabel=f"validation {in_words(search.metric, 30)}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    text = f"{n_trials(drawn)}; the {len(best)} best are strong, the best one is red, the others are thin."
    if len(best) < 2:
        text = f"{n_trials(drawn)}; the best one is red."
    says = f"{search.metric} over epochs"
    return section(heading, paragraph(text), f'<div class="wide">{_svg(figure, "learning", says)}</div>')


def parameter_plots(search: Search) -> str:
    heading = "Each parameter"
    if not search.parameters:
        return section(heading, paragraph("The search has no parameters."))
    figures = []
    for number, name in enumerate(search.parameters):
        figure = _parameter_plot(search, name)
        if figure is not None:
            says = f"{search.metric} over {in_words(name)}"
            figures.append(_svg(figure, f"parameter{number}", says))
    if not figures:
        return section(heading, paragraph("No trial has a value to set against its parameters."))
    text = f"Validation {in_words(search.metric)} over each parameter. A dot is a trial that did not fail; "
    text += "the best one is red."
    return section(heading, paragraph(text), f'<div class="grid">{"".join(figures)}</div>')


def _parameter_plot(search: Search, name: str) -> Figure | None:
    column, is_number = column_of(search.ranked, name)
    if not column:
        return None
    # The same margins for all: laying out would take as long as drawing, and the axes would not line up.
    figure, bottom = Figure(figsize=_SMALL), 0.2
    axes = figure.add_subplot()
    places = [place for _, place in column]
    if is_number:
        is_whole = all(place == int(place) for place in places)
        if is_wide(places):
            axes.set_xscale("log")
            # matplotlib's own labels of powers are mathematics, which is switched off.
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if is_whole and len(set(places)) <= 6:  # sizes such as 16, 64, 256, between which nothing lies
                axes.set_xticks(sorted(set(places)))
                axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=is_whole))
    else:
        names = sorted(set(places))
        # The golden ratio spreads points evenly, and the same way every time.
        places = [names.index(p) + 0.5 * ((i * 0.618034) % 1 - 0.5) for i, p in enumerate(places)]
        labels = [one_line(label, 16) for label in names]
        if sum(map(len, labels)) > 28:
            axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
            bottom = 0.44
        else:
            axes.set_xticks(range(len(names)), labels)
        axes.set_xlim(-0.5, len(names) - 0.5)
    values = [value_of(trial) for trial, _ in column]
    axes.scatter(places, values, s=16, c=_BLUE, alpha=0.6, linewidths=0, zorder=2)
    if column[0][0] is search.ranked[0]:
        axes.scatter(places[:1], values[:1], s=44, c=_ACCENT, edgecolors="white", linewidths=0.8, zorder=3)
    axes.set_xlabel(in_words(name, 40))
    # The same scale for all, even where few trials have the parameter.
    all_values = [value_of(trial) for trial in search.ranked]
    low, high = min(all_values), max(all_values)
    if low < high:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    figure.subplots_adjust(left=0.21, right=0.94, bottom=bottom, top=0.95)
    return figure


def importance_bars(search: Search) -> str:
    heading = "Importance of the parameters"
    shares, left_out, why_not = importances(search.trials, search.mode)
    if why_not:
        return section(heading, paragraph(why_not))
    figure, axes = _axes((_WIDE[0], 0.7 + 0.27 * len(shares)))
    names = [in_words(name, 30) for name in shares]
    bars = axes.barh(range(len(shares)), list(shares.values()), color=_BLUE, height=0.65)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(shares)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.12 * max(shares.values())), xlabel="share of the importance")
    text = (
        "How much the values of a parameter among the best quarter of the trials differ from those among "
        "all (PED-ANOVA), as shares of 1. It looks at each parameter by itself and only at values that were "
        "tried, counts a trial that was stopped early by what it had reached, and gives every parameter a "
        "little by chance: with fewer than some hundred trials, take it as a hint of where to search next."
    )
    notes = [f"{in_words(name)}: {reason}." for name, reason in left_out.items()]
    if notes:
        notes.insert(0, "Left out:")
    return section(
        heading,
        paragraph(text),
        f'<div class="wide">{_svg(figure, "importance", "importance of each parameter")}</div>',
        *([paragraph(" ".join(notes))] if notes else []),
    )


def score_aware_functions(search: Search) -> str:
    lines = score_aware_lines(search.trials, search.mode, search.fixed)
    if not lines:
        return ""
    figure, axes = _axes((_WIDE[0], 3.8))
    axes.plot([0, LARGEST_SCORE], [0, LARGEST_SCORE], "--", color=_GRAY, linewidth=1)
    for rank, (_, r, z) in enumerate(lines):
        axes.plot(r, z, **_strength(rank))
    ends = [z[-1] for _, _, z in lines]
    ranks = {id(trial): rank for rank, trial in enumerate(search.ranked, 1)}
    for i, height in enumerate(_apart(ends, gap=0.055 * LARGEST_SCORE)):
        color = _ACCENT if i == 0 else _BLUE
        axes.annotate(
            str(ranks[id(lines[i][0])]),
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
        "The score at which a diffused positive turns negative, over the score of the positive: the nearer "
        "to the dashed diagonal, the harder the negatives. The better the trial, the stronger its line; the "
        "numbers are ranks. A beta or gamma that was not searched is the one that all trials had."
    )
    says = "score-aware functions of the best trials"
    return section(
        "Score-aware functions", paragraph(text), f'<div class="wide">{_svg(figure, "boundary", says)}</div>'
    )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights nearest to these (least squares) at which labels in the same order do not overlap."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # Less what the labels below take up, heights must only not fall: pool those that do.
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
    """The figure as an element of the page; `says`: what it shows, for those who cannot see it."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # With a salt, the same search gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Text is drawn by the browser: that matplotlib's font lacks a letter does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its rule for strokes would reach over the whole page; the page has its own.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    # Figures of one page must not share ids. In text, matplotlib has turned quotes into entities.
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
    """How the line of a trial is drawn: the better, the stronger, and the best one in its own color."""
    weakness = rank / BEST
    return {
        "color": _ACCENT if rank == 0 else _BLUE,
        "linewidth": 2.2 if rank == 0 else 1.6 - 0.7 * weakness,
        "alpha": 1.0 if rank == 0 else 0.9 - 0.55 * weakness,
        "zorder": 3 + BEST - rank,
    }

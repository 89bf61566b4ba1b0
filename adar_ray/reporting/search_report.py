"""The report of a hyper-parameter search: one HTML file that needs nothing else.

A trial is a dict: `trial` (its id), `status` ("finished", "stopped", "failed" or "interrupted"), `epochs`,
`best_epoch`, `value` (its best validation value or None), `seconds`, `started` (seconds since the search
began), `error`, and one key a parameter, named `section.key`, with None where a condition left it out.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
import optuna
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from pydantic import ValidationError

from adar_ray.adar.transition import score_aware_boundary
from adar_ray.config import AdarConfig
from adar_ray.errors import one_line

Trial = dict[str, Any]

BEST = 10  # trials that are listed and drawn strong
FEWEST = 8  # trials that the importance of a parameter needs
LOG_SPAN = 30  # a parameter that spans more than this factor gets a logarithmic axis
LARGEST_SCORE = 3.0  # of the score-aware functions' axis, in units of the mean positive score

_INFINITE = 1e100  # margins of much larger numbers overflow

_WIDE, _SMALL = (5.2, 3.2), (3.3, 2.5)  # inches: narrow enough to be read on a phone
_INK, _GREY, _BLUE, _ACCENT = "#1f2933", "#9aa5b1", "#0072b2", "#c8102e"
_STATUSES = {  # colour, marker, words
    "finished": (_BLUE, "o", "finished"),
    "stopped": (_GREY, "o", "stopped early"),
    "failed": ("#e07b00", "x", "failed"),
    "interrupted": ("#6b4fa0", "^", "interrupted"),
}
_STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a "$" in a user's text is a "$"
    "text.color": _INK,
    "axes.edgecolor": _GREY,
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
_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1f2933; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; overflow-wrap: anywhere; }
p.summary { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e8ebef; }
th { font-weight: 600; border-bottom: 2px solid #cbd2d9; }
th.text, td.text { text-align: left; }
table.prose td { vertical-align: top; }
table.prose td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.wide { max-width: 46rem; }
.pair { display: grid; column-gap: 2rem;
        grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
.grid { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
"""


def search_report(
    title: str, metric: str, mode: str, trials: list[Trial], curves: dict[str, list[float]]
) -> str:
    """The report as HTML.

    Args:
        title: its heading.
        metric: what the trials were judged by, such as `ndcg@20`.
        mode: "max" or "min": which values of it are good.
        trials: in the order in which they were started; see the head of this file.
        curves: trial -> the metric after each epoch.
    """
    search = _Search(metric, mode, trials, curves, ranked(trials, mode), _parameters(trials))
    # The default style first: a matplotlibrc of the user's could ask for LaTeX or a black page.
    with matplotlib.style.context(["default", _STYLE]):
        parts = [
            _summary(search),
            _best_trials(search),
            _failures(search),
            _pair(_search_curve(search), _learning_curves(search)),
            _parameter_plots(search),
            _pair(_importance(search), _score_aware(search)),
        ]
    heading = _escaped(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """The trials that have a value, best first, of equal ones the earlier first.

    A trial that failed is not among them, however good it was until then: nobody can run it again to its end.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode is max or min, not {mode!r}")
    sign = -1 if mode == "max" else 1
    judged = [trial for trial in trials if _value(trial) is not None and trial.get("status") != "failed"]
    return sorted(judged, key=lambda trial: sign * _value(trial))


def best_so_far(trials: Sequence[Trial], mode: str) -> list[tuple[float, float]]:
    """Pairs of a time and the best value there was then, one for each time at which a ranked trial ended."""
    better = max if mode == "max" else min
    steps: list[tuple[float, float]] = []
    for end, value in sorted((_end(trial), _value(trial)) for trial in ranked(trials, mode)):
        best = better(value, steps[-1][1]) if steps else value
        if steps and steps[-1][0] == end:
            steps.pop()
        steps.append((end, best))
    return steps


def parameter_importance(trials: Sequence[Trial], mode: str) -> dict[str, float]:
    """How much each parameter had to do with a trial being among the best, as shares of 1, largest first.

    By PED-ANOVA (Watanabe et al., 2023), over the finished and stopped trials that have the parameter. A
    parameter that too few of them have, or that had one value alone, is left out; where nothing can be
    said at all, the result is empty.
    """
    return _shares(trials, mode)[0]


def score_aware_lines(
    trials: Sequence[Trial], mode: str, points: int = 301
) -> list[tuple[Trial, np.ndarray, np.ndarray]]:
    """The score-aware functions of the best trials: `(trial, r, z(r))`, best first.

    Scores are in units of the mean positive score. A parameter that the search left alone has its default.
    Empty where no trial has a parameter of ADAR; trials with another sampler are passed over.
    """
    if not any(
        name.startswith("adar.") and value is not None for trial in trials for name, value in trial.items()
    ):
        return []
    r = torch.linspace(0, LARGEST_SCORE, points, dtype=torch.float64)
    lines = []
    for trial in ranked(trials, mode):
        settings = _adar_settings(trial)
        if settings is not None and len(lines) < BEST:
            z = score_aware_boundary(r, settings.beta, settings.gamma, 1.0)
            lines.append((trial, r.numpy(), z.numpy()))
    return lines


@dataclass(frozen=True)
class _Search:
    metric: str
    mode: str
    trials: list[Trial]
    curves: dict[str, list[float]]
    ranked: list[Trial]
    parameters: list[str]


# ---- what a trial says ----


def _number(value: Any) -> float | None:
    """`value` as a finite number that can be drawn, or None."""
    if value is None or isinstance(value, (bool, np.bool_, str)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < _INFINITE else None


def _value(trial: Trial) -> float | None:
    return _number(trial.get("value"))


def _end(trial: Trial) -> float:
    return (_number(trial.get("started")) or 0.0) + (_number(trial.get("seconds")) or 0.0)


def _parameters(trials: Iterable[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial if "." in name))


def _column(trials: Iterable[Trial], name: str) -> tuple[list[tuple[Trial, Any]], bool]:
    """The trials that have a parameter, each with its value; and whether the values are numbers or words."""
    given = [(trial, trial[name]) for trial in trials if trial.get(name) is not None]
    if any(isinstance(value, (bool, np.bool_, str)) for _, value in given):
        return [(trial, _words(value)) for trial, value in given], False
    numbers = [(trial, _number(value)) for trial, value in given]
    return [(trial, number) for trial, number in numbers if number is not None], True


def _is_wide(numbers: Sequence[float]) -> bool:
    """Whether numbers are better shown and compared by their logarithms."""
    return min(numbers) > 0 and max(numbers) > LOG_SPAN * min(numbers)


def _adar_settings(trial: Trial) -> AdarConfig | None:
    """The trial's beta and gamma, or None where it had another sampler, or values with which nothing runs."""
    if trial.get("sampler.name") not in (None, "adar"):
        return None
    given = {key: _number(trial.get(f"adar.{key}")) for key in ("beta", "gamma")}
    try:
        return AdarConfig(**{key: value for key, value in given.items() if value is not None})
    except ValidationError:
        return None


# ---- words ----


def _words(value: Any, limit: int = 60) -> str:
    """`value` for people: four digits, or one line of text without what no page can show."""
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return one_line(text, limit)


def _score(value: float) -> str:
    """A value of the metric, with four digits even where the last ones are 0."""
    return f"{value:#.4g}".removesuffix(".")


def _escaped(text: Any, limit: int = 300) -> str:
    return html.escape(_words(text, limit))


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- pieces of the page ----


def _section(heading: str, *content: str) -> str:
    return "\n".join([f"<section>\n<h2>{html.escape(heading)}</h2>", *content, "</section>"])


def _paragraph(text: str) -> str:
    """`text` may hold what a user wrote: it is escaped here."""
    return f"<p>{html.escape(text)}</p>"


def _pair(*sections: str) -> str:
    """Sections side by side where the page is wide."""
    return f'<div class="pair">{"".join(sections)}</div>'


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: Iterable[int] = (), prose: bool = False
) -> str:
    """A table that scrolls sideways where the page is narrow.

    `words`: the columns that hold no numbers; `prose`: the last one holds sentences, which are wrapped.
    """
    left = set(words)

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in left else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    kind = ' class="prose"' if prose else ""
    return (
        f'<div class="scroll"><table{kind}>\n<thead><tr>{row(header, "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


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
    """How the line of a trial is drawn: the better, the stronger, and the best one in its own colour."""
    weakness = rank / BEST
    return {
        "color": _ACCENT if rank == 0 else _BLUE,
        "linewidth": 2.2 if rank == 0 else 1.6 - 0.7 * weakness,
        "alpha": 1.0 if rank == 0 else 0.9 - 0.55 * weakness,
        "zorder": 3 + BEST - rank,
    }


# ---- the sections ----


def _summary(search: _Search) -> str:
    if not search.trials:
        return _paragraph("No trial was started.")
    statuses = [trial.get("status") for trial in search.trials]
    counts = [
        f"{statuses.count(status)} {words}"
        for status, (_, _, words) in _STATUSES.items()
        if status in statuses or status != "interrupted"
    ]
    text = f"{_trials(len(search.trials))}: {_listed(counts)}."
    if search.ranked:
        best = search.ranked[0]
        text += (
            f" The best validation {search.metric} is {_score(_value(best))}, "
            f"of trial {_words(best.get('trial'))}."
        )
    else:
        text += f" No trial has a value of {search.metric} to go by."
    together = sum(_number(trial.get("seconds")) or 0.0 for trial in search.trials)
    text += (
        f" The search took {_duration(max(_end(trial) for trial in search.trials))}, "
        f"its trials together {_duration(together)}."
    )
    return f'<p class="summary">{html.escape(text)}</p>'


def _best_trials(search: _Search) -> str:
    best = search.ranked[:BEST]
    if not best:
        return ""
    names = search.parameters
    header = ["rank", "trial", search.metric, *names, "best epoch", "epochs", "time", "ended"]
    rows = []
    for rank, trial in enumerate(best, 1):
        status = trial.get("status")
        row = [str(rank), _words(trial.get("trial")), _score(_value(trial))]
        row += [_words(trial.get(name)) for name in names]
        row += [_words(trial.get("best_epoch")), _words(trial.get("epochs"))]
        row += [_duration(_number(trial.get("seconds")) or 0.0)]
        row += [_STATUSES[status][2] if status in _STATUSES else _words(status)]
        rows.append(row)
    words = [3 + i for i, name in enumerate(names) if not _column(search.trials, name)[1]]
    heading = "The best trial" if len(best) == 1 else f"The {len(best)} best trials"
    return _section(heading, _table(header, rows, words=(1, *words, len(header) - 1)))


def _failures(search: _Search) -> str:
    failed = [trial for trial in search.trials if trial.get("status") == "failed"]
    if not failed:
        return ""
    rows = [
        [
            _words(trial.get("trial")),
            _words(trial.get("epochs")),
            _words(trial.get("error") or "no message", 300),
        ]
        for trial in failed
    ]
    return _section("Trials that failed", _table(["trial", "epochs", "error"], rows, (0, 2), prose=True))


def _search_curve(search: _Search) -> str:
    heading = "The course of the search"
    shown = [trial for trial in search.trials if _value(trial) is not None]
    if not shown:
        return _section(heading, _paragraph("No trial has a value: there is nothing to draw."))
    last = max(_end(trial) for trial in search.trials)
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
    for status in dict.fromkeys([*_STATUSES, *(trial.get("status") for trial in shown)]):
        colour, marker, words = _STATUSES.get(status, (_GREY, "s", _words(status)))
        points = [(_end(t) / unit, _value(t)) for t in shown if t.get("status") == status]
        if not points:
            continue
        axes.scatter(*zip(*points, strict=True), s=20, c=colour, marker=marker, label=words, zorder=3)
    if last > 0:
        axes.set_xlim(0, 1.03 * last / unit)
    axes.set(xlabel=f"{name} since the search began", ylabel=f"validation {_words(search.metric, 30)}")
    figure.legend(loc="outside upper left", ncols=5, columnspacing=1.2, handletextpad=0.4)
    text = "A dot is a trial's best value, at the time at which the trial ended."
    if without := len(search.trials) - len(shown):
        text += f" {_trials(without)} without a value {'is' if without == 1 else 'are'} not shown."
    says = f"best {search.metric} over time"
    return _section(heading, _paragraph(text), f'<div class="wide">{_svg(figure, "search", says)}</div>')


def _learning_curves(search: _Search) -> str:
    heading = "Learning curves"
    best = search.ranked[:BEST]
    ranks = {id(trial): rank for rank, trial in enumerate(best)}
    figure, axes = _axes(_WIDE)
    drawn = 0
    for trial in search.trials:
        curve = [_number(value) for value in search.curves.get(trial.get("trial")) or []]
        if all(value is None for value in curve):
            continue
        values = [math.nan if value is None else value for value in curve]
        rank = ranks.get(id(trial))
        if rank is None:
            look = {"color": _GREY, "linewidth": 0.6, "alpha": 0.7, "zorder": 2}
        else:
            look = _strength(rank)
        # A line of one point would not be seen.
        axes.plot(range(1, len(values) + 1), values, marker="." if len(values) == 1 else None, **look)
        drawn += 1
    if not drawn:
        return _section(heading, _paragraph("No trial has a learning curve."))
    axes.set(xlabel="epoch", ylabel=f"validation {_words(search.metric, 30)}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    text = f"{_trials(drawn)}; the {len(best)} best are strong, the best one is red, the others are thin."
    if len(best) < 2:
        text = f"{_trials(drawn)}; the best one is red."
    says = f"{search.metric} over epochs"
    return _section(heading, _paragraph(text), f'<div class="wide">{_svg(figure, "learning", says)}</div>')


def _parameter_plots(search: _Search) -> str:
    heading = "Each parameter"
    if not search.parameters:
        return _section(heading, _paragraph("The search has no parameters."))
    figures = []
    for number, name in enumerate(search.parameters):
        figure = _parameter_plot(search, name)
        if figure is not None:
            says = f"{search.metric} over {_words(name)}"
            figures.append(_svg(figure, f"parameter{number}", says))
    if not figures:
        return _section(heading, _paragraph("No trial has a value to set against its parameters."))
    text = f"Validation {_words(search.metric)} over each parameter. A dot is a trial that did not fail; "
    text += "the best one is red."
    return _section(heading, _paragraph(text), f'<div class="grid">{"".join(figures)}</div>')


def _parameter_plot(search: _Search, name: str) -> Figure | None:
    column, is_number = _column(search.ranked, name)
    if not column:
        return None
    # The same margins for all: laying out would take as long as drawing, and the axes would not line up.
    figure, bottom = Figure(figsize=_SMALL), 0.2
    axes = figure.add_subplot()
    places = [place for _, place in column]
    if is_number:
        is_whole = all(place == int(place) for place in places)
        if _is_wide(places):
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
    values = [_value(trial) for trial, _ in column]
    axes.scatter(places, values, s=16, c=_BLUE, alpha=0.6, linewidths=0, zorder=2)
    if column[0][0] is search.ranked[0]:
        axes.scatter(places[:1], values[:1], s=44, c=_ACCENT, edgecolors="white", linewidths=0.8, zorder=3)
    axes.set_xlabel(_words(name, 40))
    # The same scale for all, even where few trials have the parameter.
    all_values = [_value(trial) for trial in search.ranked]
    low, high = min(all_values), max(all_values)
    if low < high:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    figure.subplots_adjust(left=0.21, right=0.94, bottom=bottom, top=0.95)
    return figure


def _importance(search: _Search) -> str:
    heading = "Importance of the parameters"
    shares, left_out, why_not = _shares(search.trials, search.mode)
    if why_not:
        return _section(heading, _paragraph(why_not))
    figure, axes = _axes((_WIDE[0], 0.7 + 0.27 * len(shares)))
    names = [_words(name, 30) for name in shares]
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
    notes = [f"{_words(name)}: {reason}." for name, reason in left_out.items()]
    if notes:
        notes.insert(0, "Left out:")
    return _section(
        heading,
        _paragraph(text),
        f'<div class="wide">{_svg(figure, "importance", "importance of each parameter")}</div>',
        *([_paragraph(" ".join(notes))] if notes else []),
    )


def _shares(trials: Sequence[Trial], mode: str) -> tuple[dict[str, float], dict[str, str], str]:
    """The importances; why other parameters have none; and why there are none at all, or nothing."""
    judged = [trial for trial in ranked(trials, mode) if trial.get("status") in ("finished", "stopped")]
    if len(judged) < FEWEST:
        enough = f"It takes {FEWEST} trials with a value to say which parameters matter"
        return {}, {}, f"{enough}; there are {len(judged)}."
    if len({_value(trial) for trial in judged}) == 1:
        return {}, {}, "All trials have the same value: no parameter made a difference."
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name in _parameters(trials):
        column, is_number = _column(judged, name)
        if len({_value(trial) for trial, _ in column}) < 2 or len(column) < FEWEST:
            left_out[name] = f"too few trials have it ({len(column)})"
        elif len({place for _, place in column}) == 1:
            left_out[name] = "it had one value alone"
        else:
            found[name] = _divergence(column, is_number, mode)
    total = sum(found.values())
    if not total > 0:
        return {}, left_out, "No parameter can be told to matter."
    found = {name: found[name] / total for name in sorted(found, key=found.get, reverse=True)}
    return found, left_out, ""


def _divergence(column: Sequence[tuple[Trial, Any]], is_number: bool, mode: str) -> float:
    """PED-ANOVA's importance of one parameter over the trials that have it.

    A study of its own for each parameter: PED-ANOVA looks at each by itself anyway, and older versions of
    optuna refuse parameters that only some trials have.
    """
    places = [place for _, place in column]
    if is_number:
        distribution = optuna.distributions.FloatDistribution(min(places), max(places), log=_is_wide(places))
    else:
        distribution = optuna.distributions.CategoricalDistribution(sorted(set(places)))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
            study.add_trials(
                optuna.trial.create_trial(
                    value=_value(trial), params={"x": place}, distributions={"x": distribution}
                )
                for trial, place in column
            )
            # The best tenth, which is usual, is a handful of trials here, and found the one parameter of two
            # or three choices that mattered in 3 of 12 made-up searches of 60 trials; the best quarter in 10.
            quantile = max(0.25, min(0.5, 8 / len(column)))
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, params=["x"], normalize=False
            )
    finally:
        optuna.logging.set_verbosity(verbosity)
    return max(0.0, _number(found["x"]) or 0.0)


def _score_aware(search: _Search) -> str:
    lines = score_aware_lines(search.trials, search.mode)
    if not lines:
        return ""
    figure, axes = _axes((_WIDE[0], 3.8))
    axes.plot([0, LARGEST_SCORE], [0, LARGEST_SCORE], "--", color=_GREY, linewidth=1)
    for rank, (_, r, z) in enumerate(lines):
        axes.plot(r, z, **_strength(rank))
    ends = [z[-1] for _, _, z in lines]
    ranks = {id(trial): rank for rank, trial in enumerate(search.ranked, 1)}
    for i, height in enumerate(_apart(ends, gap=0.055 * LARGEST_SCORE)):
        colour = _ACCENT if i == 0 else _BLUE
        axes.annotate(
            str(ranks[id(lines[i][0])]),
            (LARGEST_SCORE, ends[i]),
            (1.06 * LARGEST_SCORE, height),
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
            va="center",
            fontsize=8,
            color=colour,
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
        "numbers are ranks. Beta and gamma that were not searched have their defaults here."
    )
    says = "score-aware functions of the best trials"
    return _section(
        "Score-aware functions", _paragraph(text), f'<div class="wide">{_svg(figure, "boundary", says)}</div>'
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

"""The figures of a report, each in a section of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adar_ray.errors import counted
from adar_ray.reporting.formatting import as_text, escaped
from adar_ray.reporting.page import (
    BLUE,
    GRAY,
    ORANGE,
    PURPLE,
    RED,
    epoch_axis,
    figure,
    grid,
    paragraph,
    section,
    trace,
)
from adar_ray.tuning.report.contents import BEST, Contents, best_so_far, column_of, is_wide
from adar_ray.tuning.report.importance import parameter_importance
from adar_ray.tuning.report.score_aware import LARGEST_SCORE, score_aware_lines
from adar_ray.tuning.trial import Status, Trial

STATUSES: dict[Status, tuple[str, str, str]] = {  # color, symbol, label
    "running": (GRAY, "square", "running"),
    "finished": (BLUE, "circle", "finished"),
    "stopped": (GRAY, "circle", "stopped early"),
    "failed": (ORANGE, "x", "failed"),
    "interrupted": (PURPLE, "triangle-up", "interrupted"),
}


def search_curve(contents: Contents) -> str:
    shown = [trial for trial in contents.trials if trial.has_value]
    if not shown:
        return ""
    last = max(trial.end for trial in contents.trials)
    unit, name = (3600, "hours") if last > 7200 else (60, "minutes") if last > 120 else (1, "seconds")
    traces = []
    if steps := best_so_far(contents.trials, contents.mode):
        times, values = zip(*steps, strict=True)
        line = {"shape": "hv", "color": GRAY, "width": 1.5}
        x = [time / unit for time in (*times, last)]
        traces.append(trace(x, [*values, values[-1]], mode="lines", name="best so far", line=line))
    for status, (color, symbol, label) in STATUSES.items():
        some = [trial for trial in shown if trial.status == status]
        if some:
            x, y = [trial.end / unit for trial in some], [trial.value_or_nan for trial in some]
            says = ["<br>".join([contents.says(t), *(_setting(t, name) for name in t.values)]) for t in some]
            marker = {"color": color, "symbol": symbol, "size": 7}
            traces.append(trace(x, y, says, mode="markers", name=label, marker=marker))
    text = "Each dot is a trial's best value, at the time when the trial ended."
    if without := len(contents.trials) - len(shown):
        text += f" {counted(without, 'trial')} without a value: not shown."
    time = {"title": {"text": f"{name} since the search began"}, "rangemode": "tozero"}
    drawn = figure(f"best {contents.metric} over time", traces, time, contents.axis)
    return section("The course of the search", paragraph(text), drawn)


def learning_curves(contents: Contents) -> str:
    drawn = [trial for trial in contents.trials if any(map(math.isfinite, trial.curve))]
    if not drawn:
        return ""
    best = contents.ranked[:BEST]
    others = [trial for trial in drawn if trial not in best]
    pale = {"line": {"color": GRAY, "width": 0.6}, "opacity": 0.7}
    traces = [_curves(contents, others, **pale)] if others else []
    traces += [_curves(contents, [trial], **_strength(rank)) for rank, trial in enumerate(best)][::-1]
    text = f"{counted(len(drawn), 'trial')}. The best have strong lines, the very best a red one."
    epochs = epoch_axis(max(len(trial.curve) for trial in drawn))
    curves = figure(f"{contents.metric} over epochs", traces, epochs, contents.axis)
    return section("Learning curves", paragraph(text), curves)


def _curves(contents: Contents, trials: Sequence[Trial], **look: Any) -> dict[str, Any]:
    """The learning curves of trials as one trace, with a gap after each."""
    x, y, says, sizes = [], [], [], []
    for trial in trials:
        epochs = range(1, len(trial.curve) + 1)
        x += [*epochs, None]
        y += [*trial.curve, None]
        says += [f"{contents.says(trial, trial.curve[epoch - 1])}<br>epoch {epoch}" for epoch in epochs]
        says.append("")
        # A line with a single point would be invisible.
        sizes += [6 if len(epochs) == 1 else 0] * (len(epochs) + 1)
    return trace(x, y, says, mode="lines+markers", marker={"size": sizes}, **look)


def parameter_plots(contents: Contents) -> str:
    figures = [_parameter_plot(contents, name) for name in contents.parameters]
    if not any(figures):
        return ""
    text = f"Validation {as_text(contents.metric)} over each parameter. Each dot is a trial that did not "
    return section("Each parameter", paragraph(f"{text}fail; the best one is red."), grid(figures))


def _parameter_plot(contents: Contents, name: str) -> str:
    column, is_number = column_of(contents.ranked, name)
    if not column:
        return ""
    trials, places = [trial for trial, _ in column], [place for _, place in column]
    x: dict[str, Any] = {"title": {"text": escaped(name, 40)}, "nticks": 6}
    if not is_number:
        names = sorted(set(places))
        # The golden ratio spreads points evenly, and in the same way every time.
        places = [names.index(p) + 0.5 * ((i * 0.618034) % 1 - 0.5) for i, p in enumerate(places)]
        x |= {"tickvals": list(range(len(names))), "ticktext": [escaped(label, 16) for label in names]}
        x["range"] = [-0.5, len(names) - 0.5]
    elif is_wide(places):
        x |= {"type": "log", "tickformat": "~g", "tickvals": _log_ticks(sorted(set(places)))}
    values = [trial.value_or_nan for trial in trials]
    says = [f"{contents.says(trial)}<br>{_setting(trial, name)}" for trial in trials]
    dots = {"color": BLUE, "size": 6, "opacity": 0.6}
    traces = [trace(places, values, says, mode="markers", marker=dots)]
    if trials[0] is contents.ranked[0]:
        traces.append(
            trace(places[:1], values[:1], says[:1], mode="markers", marker={"color": RED, "size": 10})
        )
    # The same scale in every plot, even if few trials have the parameter.
    all_values = [trial.value_or_nan for trial in contents.ranked]
    low, high = min(all_values), max(all_values)
    y = {"range": [low - 0.06 * (high - low), high + 0.06 * (high - low)]} if low < high else {}
    return figure(f"{contents.metric} over {as_text(name)}", traces, x, y, height=230)


def _log_ticks(places: Sequence[float]) -> list[float]:
    """Where to label a logarithmic axis: few sizes such as 16, 64 and 256 themselves, else powers of ten."""
    if len(places) <= 6 and all(place == int(place) for place in places):
        return list(places)
    first, last = math.floor(math.log10(places[0])), math.ceil(math.log10(places[-1]))
    decades = range(first, last + 1, math.ceil((last - first) / 5))
    between = (1, 3) if last - first <= 2 else (1,)
    return [float(f"{factor}e{decade}") for decade in decades for factor in between]


def importance_bars(contents: Contents) -> str:
    heading = "Importance of the parameters"
    importance = parameter_importance(contents.trials, contents.mode)
    shares = importance.shares
    if not shares:
        return section(heading, paragraph(importance.why_none))
    names, places = [escaped(name, 30) for name in shares], list(range(len(shares)))
    says = [f"{escaped(name)}: {share:.3f}" for name, share in shares.items()]
    numbers = [f"{share:.2f}" for share in shares.values()]
    look = {"type": "bar", "orientation": "h", "marker": {"color": BLUE}, "cliponaxis": False}
    bars = trace(shares.values(), places, says, text=numbers, textposition="outside", **look)
    x = {"title": {"text": "share of the importance"}, "range": [0, 1.15 * max(shares.values())]}
    y = {"tickvals": places, "ticktext": names, "autorange": "reversed", "showgrid": False}
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
        figure("importance of each parameter", [bars], x, y, height=80 + 26 * len(shares)),
        *([paragraph(" ".join(notes))] if notes else []),
    )


def score_aware_functions(contents: Contents) -> str:
    lines = score_aware_lines(contents.trials, contents.mode, contents.fixed)
    if not lines:
        return ""
    traces = []
    for rank, (trial, r, z) in enumerate(lines):
        says = [f"{contents.says(trial)}<br>z {b:.3f} at {a:.2f}" for a, b in zip(r, z, strict=True)]
        traces.append(trace(r, z, says, mode="lines", **_strength(rank)))
    ends, dashes = [0, LARGEST_SCORE], {"color": GRAY, "dash": "dash", "width": 1}
    traces.append(trace(ends, ends, mode="lines", line=dashes))
    text = (
        "The score at which a diffused positive turns negative, over the score of the positive: the closer "
        "to the dashed diagonal, the harder the negatives. Better trials have stronger lines. A beta or "
        "gamma that was not searched has the value that all trials share."
    )
    x = "score of the positive, in units of its mean"
    drawn = figure("score-aware functions of the best trials", traces[::-1], x, "boundary z", height=360)
    return section("Score-aware functions", paragraph(text), drawn)


def _setting(trial: Trial, name: str) -> str:
    return f"{escaped(name, 30)} {escaped(trial.values[name], 20)}"


def _strength(rank: int) -> dict[str, Any]:
    """How to draw the line of a trial: the better, the stronger, and the best one in its own color."""
    weakness = rank / BEST
    if rank == 0:
        return {"line": {"color": RED, "width": 2.2}}
    return {"line": {"color": BLUE, "width": 1.6 - 0.7 * weakness}, "opacity": 0.9 - 0.55 * weakness}

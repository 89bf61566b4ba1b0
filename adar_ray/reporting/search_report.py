"""The report of a hyper-parameter search: one HTML file that needs nothing else."""

from __future__ import annotations

import html

import matplotlib.style

from adar_ray.config import Config
from adar_ray.reporting.figures import (
    STATUSES,
    STYLE,
    importance_bars,
    learning_curves,
    parameter_plots,
    score_aware_functions,
    search_curve,
)
from adar_ray.reporting.formatting import duration, in_words, listed, n_trials, score
from adar_ray.reporting.page import page, pair, paragraph, section, table
from adar_ray.reporting.trials import (
    BEST,
    Search,
    Trial,
    column_of,
    end_of,
    finite,
    parameters_of,
    ranked,
    value_of,
)


def search_report(
    title: str,
    metric: str,
    mode: str,
    trials: list[Trial],
    curves: dict[str, list[float]],
    fixed: Config | None = None,
) -> str:
    """The report as HTML.

    Args:
        title: its heading.
        metric: what the trials were judged by, such as `ndcg@20`.
        mode: "max" or "min": which values of it are good.
        trials: in the order in which they were started; see `reporting.trials`.
        curves: trial -> the metric after each epoch.
        fixed: the configuration over which trials' parameters go; None for the defaults.
    """
    best_first, parameters = ranked(trials, mode), parameters_of(trials)
    search = Search(metric, mode, trials, curves, fixed or Config(), best_first, parameters)
    # The default style first: a matplotlibrc of the user's could ask for LaTeX or a black page.
    with matplotlib.style.context(["default", STYLE]):
        parts = [
            _summary(search),
            _best_trials(search),
            _failures(search),
            pair(search_curve(search), learning_curves(search)),
            parameter_plots(search),
            pair(importance_bars(search), score_aware_functions(search)),
        ]
    return page(title, parts)


def _summary(search: Search) -> str:
    if not search.trials:
        return paragraph("No trial was started.")
    statuses = [trial.get("status") for trial in search.trials]
    counts = [
        f"{statuses.count(status)} {words}"
        for status, (_, _, words) in STATUSES.items()
        if status in statuses or status != "interrupted"
    ]
    text = f"{n_trials(len(search.trials))}: {listed(counts)}."
    if search.ranked:
        best = search.ranked[0]
        text += (
            f" The best validation {search.metric} is {score(value_of(best))}, "
            f"of trial {in_words(best.get('trial'))}."
        )
    else:
        text += f" No trial has a value of {search.metric} to go by."
    together = sum(finite(trial.get("seconds")) or 0.0 for trial in search.trials)
    text += (
        f" The search took {duration(max(end_of(trial) for trial in search.trials))}, "
        f"its trials together {duration(together)}."
    )
    return f'<p class="summary">{html.escape(text)}</p>'


def _best_trials(search: Search) -> str:
    best = search.ranked[:BEST]
    if not best:
        return ""
    names = search.parameters
    header = ["rank", "trial", search.metric, *names, "best epoch", "epochs", "time", "ended"]
    rows = []
    for rank, trial in enumerate(best, 1):
        status = trial.get("status")
        row = [str(rank), in_words(trial.get("trial")), score(value_of(trial))]
        row += [in_words(trial.get(name)) for name in names]
        row += [in_words(trial.get("best_epoch")), in_words(trial.get("epochs"))]
        row += [duration(finite(trial.get("seconds")) or 0.0)]
        row += [STATUSES[status][2] if status in STATUSES else in_words(status)]
        rows.append(row)
    words = [3 + i for i, name in enumerate(names) if not column_of(search.trials, name)[1]]
    heading = "The best trial" if len(best) == 1 else f"The {len(best)} best trials"
    return section(heading, table(header, rows, words=(1, *words, len(header) - 1)))


def _failures(search: Search) -> str:
    failed = [trial for trial in search.trials if trial.get("status") == "failed"]
    if not failed:
        return ""
    rows = [
        [
            in_words(trial.get("trial")),
            in_words(trial.get("epochs")),
            in_words(trial.get("error") or "no message", 300),
        ]
        for trial in failed
    ]
    return section("Trials that failed", table(["trial", "epochs", "error"], rows, (0, 2), prose=True))

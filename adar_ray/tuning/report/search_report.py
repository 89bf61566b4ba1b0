"""The report of a hyperparameter search: one HTML file that needs no other file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from adar_ray.config import Config
from adar_ray.errors import counted
from adar_ray.reporting.formatting import as_text, duration, listed, score
from adar_ray.reporting.page import metric_table, page, pair, paragraph, section, table
from adar_ray.reporting.run_report import in_detail
from adar_ray.reporting.tables import beside_popularity
from adar_ray.training.run import Run, time_now, versions
from adar_ray.tuning.folder import BEST as BEST_FILE
from adar_ray.tuning.folder import REPORT, Search, WinnerResult
from adar_ray.tuning.report.contents import BEST, Contents, column_of
from adar_ray.tuning.report.figures import (
    STATUSES,
    importance_bars,
    learning_curves,
    parameter_plots,
    score_aware_functions,
    search_curve,
)
from adar_ray.tuning.trial import Mode, Trial


def write_report(search: Search, trials: Sequence[Trial]) -> None:
    """Write `report.html`."""
    search.owned().write_bytes(REPORT, page_of(search, trials).encode())


def page_of(search: Search, trials: Sequence[Trial]) -> str:
    """The page of a search as far as it has come."""
    again = ["adar-ray", "train", "--data", search.data, "--config", f"{search.folder}/{BEST_FILE}"]
    facts = [
        ("dataset", search.data),
        ("written", time_now()),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("train the best", shlex.join([*again, "--out", "RUN"])),
        ("search again", f"{shlex.join(_again(search))}, with what search.yaml has under `space`"),
    ]
    title, space, winner = search.folder.path.rpartition("/")[2], search.space, search.winner()
    return search_report(
        title,
        space.metric,
        space.mode,
        trials,
        search.config({}),
        winner=winner,
        run=search.winner_run() if winner else None,
        facts=facts,
    )


def _again(search: Search) -> list[str]:
    """The words of the command that searches alike."""
    words = ["adar-ray", "tune", "--data", search.data, "--space", "SPACE.yaml", "--out", "SEARCH"]
    limits = {
        "--trials": search.trials,
        "--time": search.seconds,
        "--concurrent": search.concurrent,
        "--workers-per-trial": search.workers,
        "--retries": search.retries,
        "--seeds": search.seeds,
    }
    for option, value in limits.items():
        words += [] if value is None else [option, f"{value:.15g}"]
    return [*words, *(word for setting in search.settings for word in ("--set", setting))]


def search_report(
    title: str,
    metric: str,
    mode: Mode,
    trials: Sequence[Trial],
    fixed: Config,
    *,
    winner: WinnerResult | None = None,
    run: Run | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The report as HTML.

    Args:
        title: its heading.
        metric: what the trials were judged by, such as `ndcg@20`.
        mode: "max" or "min", whichever is good.
        trials: in the order in which they began.
        fixed: the configuration that the trials' parameters override.
        winner: how the best configuration did on test, once that is known.
        run: its first run.
        facts: what else there is to know, each with its name.
    """
    contents = Contents(metric, mode, trials, fixed)
    parts = [
        _summary(contents),
        _winner(winner) if winner else "",
        _best_trials(contents),
        _failures(contents),
        pair(search_curve(contents), learning_curves(contents)),
        parameter_plots(contents),
        pair(importance_bars(contents), score_aware_functions(contents)),
        *(_run(run) if run else ()),
        section("About this search", table(["", ""], facts, texts=(0, 1))) if facts else "",
    ]
    return page(title, parts)


def _summary(contents: Contents) -> str:
    if not contents.trials:
        return paragraph("No trial was started.")
    statuses = [trial.status for trial in contents.trials]
    counts = [
        f"{statuses.count(status)} {label}"
        for status, (_, _, label) in STATUSES.items()
        if status in statuses or status in ("finished", "stopped", "failed")
    ]
    text = f"{counted(len(contents.trials), 'trial')}: {listed(counts)}."
    if contents.ranked:
        best = contents.ranked[0]
        text += f" Trial {best.name} has the best validation {contents.metric}: {score(best.value_or_nan)}."
    else:
        text += f" No trial has a value of {contents.metric}."
    text += (
        f" The search took {duration(max(trial.end for trial in contents.trials))}, "
        f"its trials together {duration(sum(trial.seconds for trial in contents.trials))}."
    )
    return paragraph(text)


def _winner(winner: WinnerResult) -> str:
    text = f"The configuration of trial {winner.trial}, retrained and measured on test"
    text += "." if winner.seeds == 1 else f": means and standard deviations over {winner.seeds} seeds."
    figures = {
        name: score(over.mean)
        + ("" if over.deviation is None else f" ±\N{NO-BREAK SPACE}{over.deviation:.2g}")
        for name, over in winner.test.items()
    }
    return section("The winner on test", paragraph(text), metric_table(figures))


def _run(run: Run) -> Iterator[str]:
    text = "How it trained, by group, and what it recommends."
    test = run.evaluations().get("test")
    if test and (sentences := beside_popularity(run, test)):
        text += f" On test {sentences}"
    yield section(f"The winner's run with seed {run.config.train.seed}", paragraph(text))
    yield from in_detail({"winner": run})


def _best_trials(contents: Contents) -> str:
    best = contents.ranked[:BEST]
    if not best:
        return ""
    names = contents.parameters
    header = ["rank", "trial", contents.metric, *names, "best epoch", "epochs", "time", "ended"]
    rows = []
    for rank, trial in enumerate(best, 1):
        row = [str(rank), trial.name, score(trial.value_or_nan)]
        row += [as_text(trial.values.get(name)) for name in names]
        row += [as_text(trial.best_epoch), as_text(trial.epochs)]
        row += [duration(trial.seconds).replace(" ", "\N{NO-BREAK SPACE}"), STATUSES[trial.status][2]]
        rows.append(row)
    texts = [3 + i for i, name in enumerate(names) if not column_of(contents.trials, name)[1]]
    heading = "The best trial" if len(best) == 1 else f"The {len(best)} best trials"
    return section(heading, table(header, rows, texts=(1, *texts, len(header) - 1)))


def _failures(contents: Contents) -> str:
    failed = [trial for trial in contents.trials if trial.status == "failed"]
    if not failed:
        return ""
    rows = [
        [trial.name, as_text(trial.epochs), as_text(trial.error or "no message", 300)] for trial in failed
    ]
    return section("Trials that failed", table(["trial", "epochs", "error"], rows, texts=(0, 2)))

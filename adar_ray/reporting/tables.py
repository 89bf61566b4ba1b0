"""Tables that compare runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adar_ray.errors import AdarError, counted
from adar_ray.reporting.formatting import score
from adar_ray.significance import p_phrase, p_verdict
from adar_ray.training.records import Evaluation
from adar_ray.training.run import METRICS, Run

_SHOWN = ("recall", "ndcg", "hit_rate", "coverage")  # of test
_SHOWN_AT = 20
GROUPED_BY = {
    "activity": "by a user's number of items in training",
    "cohort": "by a user's first interaction",
    "popularity": "by an item's users in training",
}


def side_by_side(runs: Sequence[str | Path | Run]) -> list[dict[str, Any]]:
    """One row per run: its components, its best epoch on validation, and its test metrics if evaluated."""
    return [_row(Run.open(run, trust=True)) for run in runs]  # nothing here runs its code


def dataset_warning(runs: Sequence[str | Path | Run]) -> str | None:
    """A line for people if runs are not on one dataset, split one way; else None."""
    opened = [Run.open(run, trust=True) for run in runs]  # nothing here runs their code
    if len({run.info.dataset_checksum for run in opened}) < 2:
        return None
    return "the runs are on different datasets or splits, so their figures cannot be compared"


def popularity_warning(run: str | Path | Run) -> str | None:
    """A line for people if popularity alone ranks better on validation than a finished run; else None."""
    run = Run.open(run, trust=True)  # nothing here runs its code
    metric, result = run.config.train.metric, run.result()
    if result is None or not result.valid or not result.popularity:
        return None
    model, popularity = result.valid[metric], result.popularity[metric]
    if popularity <= model:
        return None
    return (
        f"{run.folder}: popularity alone is better on validation ({metric} {popularity:.4f}) than the model "
        f"({model:.4f}); train longer, or with other settings or another model"
    )


def beside_popularity(run: Run, evaluation: Evaluation) -> str | None:
    """Two sentences that compare a run in a split with ranking by popularity; None for the file of an earlier
    version."""
    popularity, metric = evaluation.popularity, run.config.train.metric
    if not popularity:
        return None
    if metric not in popularity:  # other cutoffs were asked for
        name, _, _ = metric.partition("@")
        metric = next(key for key in popularity if key.startswith(f"{name}@"))
    value, p = evaluation.metrics[metric], evaluation.popularity_p.get(metric)
    return difference("the model", value, "popularity", popularity[metric], metric, p)


def difference(name: str, value: float, base: str, base_value: float, metric: str, p: float | None) -> str:
    """What something gains over what it is compared with, and whether that is more than chance."""
    gain = f", {(value - base_value) / abs(base_value):+.1%}" if base_value else ""
    says = f"{name} reaches {score(value)} in {metric}, and {base} {score(base_value)}{gain}."
    return says if p is None else f"{says} The difference is {p_verdict(p)} ({p_phrase(p)})."


def _row(run: Run) -> dict[str, Any]:
    config, epochs = run.config, run.epochs()
    row: dict[str, Any] = {
        "run": run.folder.address,
        "model": config.model.name,
        "loss": config.loss.name,
        "sampler": config.sampler.name,
        "epochs": len(epochs),
    }
    result = run.result()
    if result is not None:
        if len(epochs) < result.epochs:
            raise AdarError(
                f"{run.folder}/{METRICS}: has {counted(len(epochs), 'epoch')}, not {result.epochs}; "
                "restore the file"
            )
        metric = config.train.metric
        row["best epoch"] = result.best_epoch
        row["train seconds"] = result.train_seconds
        if result.valid:
            row[f"valid {metric}"] = result.valid[metric]
        if result.popularity:
            row[f"valid {metric} of popularity"] = result.popularity[metric]
    test = run.evaluations().get("test")
    if test is not None:
        cutoffs = {int(name.partition("@")[2]) for name in test.metrics}
        cutoff = _SHOWN_AT if _SHOWN_AT in cutoffs else min(cutoffs, default=_SHOWN_AT)
        shown = {config.train.metric, *(f"{name}@{cutoff}" for name in _SHOWN)}
        row |= {f"test {name}": value for name, value in test.metrics.items() if name in shown}
        name = f"ndcg@{cutoff}"
        if name in test.popularity:
            row[f"test {name} of popularity"] = test.popularity[name]
    return row

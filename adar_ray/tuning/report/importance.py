"""Which parameters of a search mattered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna

from adar_ray.tuning.process import quiet_optuna
from adar_ray.tuning.report.contents import Column, column_of, is_wide, parameters_of
from adar_ray.tuning.study import build_study
from adar_ray.tuning.trial import Mode, Trial, ranked

FEWEST = 8  # trials that the importance of a parameter needs
STEPS = 10  # values up to which a number is a choice: a density over so few values smears them into nothing


@dataclass(frozen=True)
class Importance:
    """How much each parameter had to do with a trial being among the best.

    Attributes:
        shares: by parameter, largest first; they sum to 1.
        left_out: why a parameter has no share.
        why_none: why no parameter has one; empty if some do.
    """

    shares: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    why_none: str = ""


def parameter_importance(trials: Sequence[Trial], mode: Mode) -> Importance:
    """PED-ANOVA (Watanabe et al., 2023) over the finished and stopped trials that have the parameter."""
    judged = [trial for trial in ranked(trials, mode) if trial.status in ("finished", "stopped")]
    if len(judged) < FEWEST:
        enough = f"It takes {FEWEST} trials with a value to say which parameters matter"
        return Importance(why_none=f"{enough}; this search has {len(judged)}.")
    if len({trial.value for trial in judged}) == 1:
        return Importance(why_none="All trials have the same value: no parameter made a difference.")
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name in parameters_of(trials):
        column, is_number = column_of(judged, name)
        different = {value for _, value in column}
        if len({trial.value for trial, _ in column}) < 2 or len(column) < FEWEST:
            left_out[name] = f"too few trials have it ({len(column)})"
        elif len(different) == 1:
            left_out[name] = "it had only one value"
        else:
            found[name] = _divergence(column, is_number and len(different) > STEPS, mode)
    total = sum(found.values())
    if not total > 0:
        return Importance(left_out=left_out, why_none="No parameter can be shown to matter.")
    largest_first = sorted(found, key=found.__getitem__, reverse=True)
    return Importance({name: found[name] / total for name in largest_first}, left_out)


def _divergence(column: Column, is_smooth: bool, mode: Mode) -> float:
    """PED-ANOVA's importance of one parameter over the trials that have it.

    Each parameter gets its own study: PED-ANOVA looks at each by itself anyway, and older versions of Optuna
    refuse parameters that only some trials have.
    """
    values = [value for _, value in column]
    distribution: optuna.distributions.BaseDistribution
    if is_smooth:
        distribution = optuna.distributions.FloatDistribution(min(values), max(values), log=is_wide(values))
    else:
        distribution = optuna.distributions.CategoricalDistribution(sorted(set(values)))
    # The best tenth, which is usual, is a handful of trials here. It found the one parameter of two or three
    # choices that mattered in 3 of 12 made-up searches of 60 trials; the best quarter found it in 10.
    quantile = max(0.25, min(0.5, 8 / len(column)))
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = build_study(mode)
        study.add_trials(
            optuna.trial.create_trial(
                value=trial.value, params={"x": value}, distributions={"x": distribution}
            )
            for trial, value in column
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=["x"], normalize=False
        )
    return max(0.0, found["x"]) if math.isfinite(found["x"]) else 0.0

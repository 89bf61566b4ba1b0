"""Which parameters of a search mattered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from adar_ray.reporting.trials import Trial, column_of, finite, is_wide, parameters_of, ranked, value_of

FEWEST = 8  # trials that the importance of a parameter needs
STEPS = 10  # values up to which a number is a choice: the density of a number smears few values into none


def parameter_importance(trials: Sequence[Trial], mode: str) -> dict[str, float]:
    """How much each parameter had to do with a trial being among the best, as shares of 1, largest first.

    By PED-ANOVA (Watanabe et al., 2023), over the finished and stopped trials that have the parameter. A
    parameter that too few of them have, or that had one value alone, is left out; where nothing can be
    said at all, the result is empty.
    """
    return importances(trials, mode)[0]


def importances(trials: Sequence[Trial], mode: str) -> tuple[dict[str, float], dict[str, str], str]:
    """The importances; why other parameters have none; and why there are none at all, or nothing."""
    judged = [trial for trial in ranked(trials, mode) if trial.get("status") in ("finished", "stopped")]
    if len(judged) < FEWEST:
        enough = f"It takes {FEWEST} trials with a value to say which parameters matter"
        return {}, {}, f"{enough}; there are {len(judged)}."
    if len({value_of(trial) for trial in judged}) == 1:
        return {}, {}, "All trials have the same value: no parameter made a difference."
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name in parameters_of(trials):
        column, is_number = column_of(judged, name)
        places = {place for _, place in column}
        if len({value_of(trial) for trial, _ in column}) < 2 or len(column) < FEWEST:
            left_out[name] = f"too few trials have it ({len(column)})"
        elif len(places) == 1:
            left_out[name] = "it had one value alone"
        else:
            found[name] = _divergence(column, is_number and len(places) > STEPS, mode)
    total = sum(found.values())
    if not total > 0:
        return {}, left_out, "No parameter can be told to matter."
    found = {name: found[name] / total for name in sorted(found, key=found.get, reverse=True)}
    return found, left_out, ""


def _divergence(column: Sequence[tuple[Trial, Any]], is_smooth: bool, mode: str) -> float:
    """PED-ANOVA's importance of one parameter over the trials that have it.

    A study of its own for each parameter: PED-ANOVA looks at each by itself anyway, and older versions of
    optuna refuse parameters that only some trials have.
    """
    places = [place for _, place in column]
    if is_smooth:
        distribution = optuna.distributions.FloatDistribution(min(places), max(places), log=is_wide(places))
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
                    value=value_of(trial), params={"x": place}, distributions={"x": distribution}
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
    return max(0.0, finite(found["x"]) or 0.0)

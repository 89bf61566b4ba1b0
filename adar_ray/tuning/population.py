"""Population-based training: poor trials take over the weights of good ones and change their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from adar_ray.tuning.parameter import Parameter
from adar_ray.tuning.space import Space

IS_LAST = "is_last"  # of a trial's result: whether its training ends here


class Population(PopulationBasedTraining):
    """Ray's scheduler, which refuses every search algorithm; here a study begins the population's trials."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        no_algorithm: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(no_algorithm, trial)

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        """Takes over the other trial, unless it has ended: no training would be left for the new values."""
        reported: Any = self._trial_state[trial_to_clone].last_result  # never None: it has been ranked
        if not reported[IS_LAST]:
            super()._exploit(tune_controller, trial, trial_to_clone)


def mutations(space: Space) -> dict[str, Any]:
    """What the population may change: Ray Tune steps through a list and multiplies within a range."""
    return {name: _mutation(parameter) for name, parameter in space.parameters.items()}


def _mutation(parameter: Parameter) -> Any:
    low, high = parameter.corners()[0], parameter.corners()[-1]
    if parameter.log:
        return tune.lograndint(low, high + 1)
    if points := parameter.points():
        return list(points)
    return (tune.loguniform if parameter.loguniform else tune.uniform)(low, high)


def within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` moved back into their ranges, which the population's multiplying can leave."""

    def moved(parameter: Parameter, value: Any) -> Any:
        return value if parameter.choice else min(max(value, parameter.low), parameter.high)

    return {name: moved(space.parameters[name], value) for name, value in values.items()}

"""The names of all baselines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adar_ray.baselines.als import als
from adar_ray.baselines.item_to_item import ease, item_knn
from adar_ray.baselines.popularity import Popularity
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel


@dataclass(frozen=True)
class Baseline:
    """A recommender that is computed.

    Attributes:
        build: makes it from the training interactions and, by keyword, its settings; a base model to rank
            with.
        search: the settings that may be tuned, each with its range in the form of a search space.
    """

    build: Callable[..., BaseModel]
    search: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """The usual values of the settings that may be tuned."""
        declared = inspect.signature(self.build).parameters
        return {name: declared[name].default for name in self.search}


def _popularity(observed: UserItems) -> BaseModel:
    return Popularity(observed.item_counts())


BASELINES = {
    "popularity": Baseline(_popularity),
    "itemknn": Baseline(item_knn, {"neighbors": {"integer": [5, 1_000], "log": True}}),
    "ease": Baseline(ease, {"l2": {"loguniform": [10, 10_000]}}),
    "als": Baseline(als, {"alpha": {"loguniform": [0.1, 100]}, "l2": {"loguniform": [1e-3, 100]}}),
}

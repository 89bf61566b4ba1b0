"""The names of all baselines."""

from __future__ import annotations

from collections.abc import Callable

from adar_ray.baselines.als import als
from adar_ray.baselines.item_to_item import ease, item_knn
from adar_ray.baselines.popularity import Popularity
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel

BASELINES: dict[str, Callable[[UserItems], BaseModel]] = {
    "popularity": lambda observed: Popularity(observed.item_counts()),
    "itemknn": item_knn,
    "ease": ease,
    "als": als,
}
"""What makes each, at its usual settings, from the training interactions; a base model to rank with."""

"""Ranks parts of the users in the tasks of a Ray cluster."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import ray
import ray.data
import torch

from adar_ray.custom import find_custom, is_custom, look_in, search_path
from adar_ray.inference.parts import OnPart, Part, PartWriter
from adar_ray.memory import keep_freed_memory
from adar_ray.ray_session import ray_session


def write_parts_on_cluster(
    writer: PartWriter, parts: Sequence[Part], model_name: str, on_part: OnPart
) -> None:
    """Ranks and writes all parts as `write_parts` does, with Ray Data.

    Args:
        model_name: the setting `model.name`.
        on_part: called with the number of users of each part that is done.
    """
    with ray_session():
        shared = ray.put(writer)
        rows = [{"part": part.number, "users": part.user_N} for part in parts]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            functools.partial(_write_part, shared, model_name, search_path()),
            batch_size=1,
            batch_format="numpy",
        )
        for batch in done.iter_batches(batch_size=None, batch_format="numpy"):
            on_part(int(batch["users"].sum()))


def _write_part(
    shared: ray.ObjectRef, model_name: str, modules: list[str], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Ranks and writes one part. Runs in a Ray Data task."""
    torch.set_num_threads(1)
    keep_freed_memory()
    look_in(modules)
    if is_custom(model_name):  # if unpickling fails, Ray Data retries without end; an AdarError ends the task
        find_custom("model.name", model_name)
    (number,), (user_N,) = batch["part"], batch["users"]
    ray.get(shared)(Part(int(number), np.asarray(user_N)))
    return {"users": np.array([len(user_N)])}

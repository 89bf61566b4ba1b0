"""Loads a run's best model, ready to rank.

Legend: U users, B users of a tile, I items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from adar_ray.config import Config
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError, one_line
from adar_ray.inference.new_items import NewItems, read_new_items
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.protocol import ranking_items, snapshot
from adar_ray.process import random_states_kept
from adar_ray.ranking.top_items import TILE, user_vectors
from adar_ray.training.build import build_model, is_sequential
from adar_ray.training.find_model import find_model
from adar_ray.training.run import Run


@dataclass(frozen=True)
class TrainedModel:
    """A run's best model, ready to rank.

    Attributes:
        config: of the run.
        observed: the training interactions.
        dataset: ids and interactions; it may lack times and sequence rows.
        sequential: whether the model reads histories.
        new_items: items that follow those of the dataset; None if there are none.
    """

    config: Config
    model: BaseModel
    observed: UserItems
    dataset: Dataset
    sequential: bool
    new_items: NewItems | None = None

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls,
        run: str | Path | Run,
        data: str | Path | None = None,
        *,
        new_items: str | Path | None = None,
        trust: bool = False,
    ) -> TrainedModel:
        """Loads the model that `find_model` finds; takes its arguments.

        Args:
            new_items: a file of items that were not there in training, with their features.

        Raises:
            AdarError: there is none, or it is damaged, or does not read features.
        """
        saved = find_model(run, data, trust=trust)
        config, dataset = saved.config, saved.dataset
        new = None if new_items is None else read_new_items(new_items, config, dataset)
        observed = user_items(dataset, "train")
        with random_states_kept():  # the initial weights are drawn, then replaced
            model = build_model(config, observed, dataset)
        try:
            model.load_state_dict(saved.weights)
        except RuntimeError as error:
            where = run.folder if isinstance(run, Run) else run
            raise AdarError(f"{where}: its weights are not its model's ({one_line(error, 120)})") from error
        model.eval()
        if new is not None:
            model.add_items(new.features)
        return cls(config, model, observed, dataset, is_sequential(config), new)

    @property
    def n_items(self) -> int:
        """The number of all items, new ones included."""
        return self.dataset.n_items + (0 if self.new_items is None else len(self.new_items.keys))

    def item_keys(self) -> pa.ChunkedArray:
        """The source's ids of all items."""
        keys = self.dataset.item_keys()
        return keys if self.new_items is None else pa.chunked_array([*keys.chunks, self.new_items.keys])

    def item_titles(self) -> pa.Array | None:
        """The titles of all items, null where one has none; None if no item has one."""
        titles = self.dataset.item_titles()
        if self.new_items is None:
            return titles
        if titles is None and self.new_items.titles.null_count == len(self.new_items.titles):
            return None
        before = pa.nulls(self.dataset.n_items, pa.string()) if titles is None else titles
        return pa.concat_arrays([before, self.new_items.titles])

    @cached_property
    @torch.inference_mode(False)  # for `fold_in`, whose gradients take no tensors of a caller's mode
    @torch.no_grad()
    def snapshot(self) -> BaseModel:
        """The model, with what all look-ups share computed once."""
        taken: BaseModel = snapshot(self.model)
        return taken

    @cached_property
    @torch.inference_mode(False)
    @torch.no_grad()
    def user_vectors(self) -> torch.Tensor:
        """All users' vectors `[U, D]`; a sequential model's as of now, after all that is known of them."""
        history = self.history(*SPLITS)
        tiles = torch.arange(self.dataset.n_users).split(TILE)
        return torch.cat([user_vectors(self.snapshot, user_B, history) for user_B in tiles])

    @cached_property
    @torch.inference_mode(False)
    @torch.no_grad()
    def item_vectors(self) -> torch.Tensor:
        """The vectors `[I, D]` by which items are ranked."""
        return ranking_items(self.snapshot, torch.arange(self.n_items))

    def history(self, *splits: str) -> Histories | None:
        """Users' histories over the given splits; None if the model reads none.

        The splits follow one another, each in order of time. Unless they were drawn at random, that is the
        order of time overall.
        """
        if not self.sequential:
            return None
        length = self.dataset.sequences.length
        return Histories(*_interactions(self.dataset, *splits), self.dataset.n_users, length)


def user_items(dataset: Dataset, *splits: str) -> UserItems:
    """All interactions of the given splits."""
    return UserItems(*_interactions(dataset, *splits), dataset.n_users, dataset.n_items)


def left_out(dataset: Dataset, *splits: str) -> UserItems:
    """The pairs of these splits, which a ranking leaves out; none if users are to repeat themselves."""
    return user_items(dataset, *(() if dataset.keeps_repeats else splits))


def latest_items(dataset: Dataset, user_B: torch.Tensor, splits: Sequence[str], length: int) -> torch.Tensor:
    """The latest items of a few users in the given splits, `[B, length]`, with PADDING on the left."""
    user_E, item_E = _interactions(dataset, *splits)
    theirs_E = torch.isin(user_E, user_B)
    return Histories(user_E[theirs_E], item_E[theirs_E], dataset.n_users, length)(user_B)


def _interactions(dataset: Dataset, *splits: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items, one split after the other."""
    parts = [(np.empty(0, np.int32),) * 2, *(dataset.read_split(split) for split in splits)]
    user, item = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return user, item

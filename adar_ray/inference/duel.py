"""Two models on one validation split: what each reaches, and whether the difference is more than chance.

Legend: U users and I items of the dataset, N users with something to find, V users and J items of a model,
B users of a tile, k items of a ranking, E interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import pad

from adar_ray.config import parse_metric
from adar_ray.data.dataset import Dataset
from adar_ray.data.keys import UNKNOWN, numbers_of
from adar_ray.errors import AdarError
from adar_ray.inference.fold_in import fold_in
from adar_ray.inference.model import TrainedModel, left_out
from adar_ray.interactions import PADDING
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.models import BaseModel
from adar_ray.models.vectors import Vectors
from adar_ray.ranking.own_metrics import OwnMetric, own_metrics
from adar_ray.ranking.top_items import top_items
from adar_ray.significance import paired_p
from adar_ray.training.build import build_metric


@dataclass(frozen=True)
class Duel:
    """The outcome.

    Attributes:
        new, old: means over users.
        users: how many of them; those for whom an own metric is NaN with either model do not count.
        p: two-sided, of a paired t-test; None for a single user.
    """

    new: float
    old: float
    users: int
    p: float | None


def duel(new: TrainedModel, old: TrainedModel, metric: str) -> Duel:
    """Compares two models on the new one's validation split.

    Users and items are matched by the source's ids. Both rank the items of the new one's dataset, each
    without those that it does not know. A user whom a model does not know is one with a history for it, as in
    `Recommender.recommend`, and gets no answer if it knows none of it. What the old model was trained on is
    no evidence: such pairs are left out of both rankings and do not count, unless users are to repeat
    themselves.

    Raises:
        AdarError: nothing is left to compare by.
    """
    questions = _Questions.of(new.dataset, old)
    own = build_metric(metric, new.dataset, new.config)
    value_2N = np.stack([questions.ask(model, metric, own) for model in (new, old)])
    new_N, old_N = value_2N[:, ~np.isnan(value_2N).any(0)]
    if not len(new_N):
        raise AdarError(
            f"metric {metric}: no user of {new.dataset.folder} has a number with both models; return one for "
            "those who count"
        )
    return Duel(float(new_N.mean()), float(old_N.mean()), len(new_N), paired_p(new_N, old_N))


@dataclass(frozen=True)
class _Questions:
    """What both models are asked, by the numbers of the dataset.

    Attributes:
        dataset: the new model's.
        seen: pairs to leave out.
        truth: pairs to find.
        user_N: users that have any.
    """

    dataset: Dataset
    seen: UserItems
    truth: UserItems
    user_N: torch.Tensor

    @classmethod
    def of(cls, dataset: Dataset, old: TrainedModel) -> _Questions:
        item_of_J = _numbers(old.dataset.item_keys(), dataset.item_keys())
        if not (item_of_J != UNKNOWN).any():
            raise AdarError(f"{dataset.folder}: has no item in common with {old.dataset.folder}")
        known = left_out(dataset, "train")
        if not dataset.keeps_repeats:
            user_of_V = _numbers(old.dataset.user_keys(), dataset.user_keys())
            user_E, item_E = old.observed.pairs()
            user_E, item_E = _both_known(user_of_V[user_E], item_of_J[item_E])
            user_E, item_E = (torch.cat(pair) for pair in zip(known.pairs(), (user_E, item_E), strict=True))
            known = UserItems(user_E, item_E, dataset.n_users, dataset.n_items)
        user_E, item_E = map(torch.from_numpy, dataset.read_split("valid"))
        is_new_E = ~known.contains(user_E, item_E[:, None])[:, 0]
        truth = UserItems(user_E[is_new_E], item_E[is_new_E], dataset.n_users, dataset.n_items)
        if not len(truth):
            raise AdarError(
                f"{dataset.folder}: {old.dataset.folder} was trained on all of its validation split"
            )
        return cls(dataset, known, truth, truth.counts().nonzero()[:, 0])

    @torch.no_grad()
    def ask(self, model: TrainedModel, metric: str, own: Mapping[str, OwnMetric]) -> np.ndarray:
        """What a model reaches for each user, `[N]`."""
        theirs, N = model.dataset, len(self.user_N)
        number_I = _numbers(self.dataset.item_keys(), theirs.item_keys())
        item_of_J = _numbers(theirs.item_keys(), self.dataset.item_keys())
        row_U = torch.full((self.dataset.n_users,), UNKNOWN)
        row_U[self.user_N] = torch.arange(N)

        def asked(user_E: torch.Tensor, item_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return _both_known(row_U[user_E], number_I[item_E])

        seen = UserItems(*asked(*self.seen.pairs()), N, theirs.n_items)
        known_E = asked(*map(torch.from_numpy, self.dataset.read_split("train")))
        known = UserItems(*known_E, N, theirs.n_items)
        keys = self.dataset.user_keys().take(pa.array(self.user_N.numpy()))
        number_N = _numbers(keys, theirs.user_keys())
        has_answer_N = (number_N != UNKNOWN) | (known.counts() > 0)
        if model.sequential:
            ranker, history = model.snapshot, Histories(*known_E, N, theirs.sequences.length)
        else:
            ranker, history = _vectors(model, number_N, known), None
        k, count_U, values = parse_metric(metric)[1], self.truth.counts(), []
        for row_B, item_Bk, score_Bk in top_items(
            ranker, torch.arange(N), seen, k, theirs.n_items, history, item_of_J != UNKNOWN
        ):
            user_B = self.user_N[row_B]
            is_item_Bk = (score_Bk > -torch.inf) & has_answer_N[row_B, None]
            item_Bk = item_of_J[item_Bk].masked_fill(~is_item_Bk, PADDING)
            # As many ranks for a model that knows fewer items.
            item_Bk = pad(item_Bk, (0, min(k, self.dataset.n_items) - item_Bk.shape[1]), value=PADDING)
            is_item_Bk = item_Bk != PADDING
            hit_Bk = is_item_Bk & self.truth.contains(user_B, item_Bk.clamp_min(0))
            found = ranking_metrics(hit_Bk, count_U[user_B], [k])
            found |= own_metrics(own, user_B, item_Bk, is_item_Bk, hit_Bk, count_U[user_B], [k])
            values.append(found[metric].double())
        return torch.cat(values).numpy()


def _vectors(model: TrainedModel, number_N: torch.Tensor, own: UserItems) -> BaseModel:
    """The model for users whose number in it is given, or else what they have interacted with."""
    user_ND = model.user_vectors[number_N.clamp_min(0)]
    stranger_B = ((number_N == UNKNOWN) & (own.counts() > 0)).nonzero()[:, 0]
    if len(stranger_B):
        user_ND[stranger_B] = fold_in(model, UserItems(*own.of(stranger_B), len(stranger_B), own.n_items))
    return Vectors(user_ND, model.item_vectors, model.snapshot.score)


def _numbers(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> torch.Tensor:
    return torch.from_numpy(numbers_of(keys, among))


def _both_known(one_E: torch.Tensor, other_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs of which neither is UNKNOWN."""
    is_known_E = (one_E != UNKNOWN) & (other_E != UNKNOWN)
    return one_E[is_known_E], other_E[is_known_E]

"""A trained model that answers questions about single users and items, in plain torch.

Legend: U users, I items, B users of a question, N users or items of an answer, E interactions, L positions of
a history, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch.nn.functional import normalize, pad

from adar_ray.data.dataset import SPLITS
from adar_ray.errors import AdarError
from adar_ray.inference.fold_in import fold_in
from adar_ray.inference.ids import Id, Ids, is_one, key_of, keys_of
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.interactions import PADDING
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.limits import LARGEST_K, check_number
from adar_ray.models.protocol import dot_score
from adar_ray.models.vectors import Vectors
from adar_ray.ranking.top_items import BLOCK, TILE, top_items, user_vectors
from adar_ray.training.run import Run

Several = list[Any] | tuple[Any, ...] | np.ndarray

Shortlist = Callable[[torch.Tensor, int], torch.Tensor]
"""Gets a vector `[D]` and a number; returns about as many items or users as that, `[N]`, in ascending order,
those whose vectors have the highest dot products with it."""

SPARE = 2
"""Times as many as are needed are on a shortlist, whose dot products may be less exact than a ranking's."""

RIDGE = 10.0
"""Of the least squares that explain a score, times the mean squared length of the user's items."""


class UnknownIdError(AdarError):
    """An id that the model does not know.

    Attributes:
        kind: `user` or `item`.
        key: the id.
    """

    def __init__(self, message: str, kind: str, key: str) -> None:
        super().__init__(message)
        self.kind, self.key = kind, key

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (str(self), self.kind, self.key)


class Scored(NamedTuple):
    """An item or a user, by the source's id, and its score."""

    id: str
    score: float


def load(
    run: str | Path | Run,
    *,
    data: str | Path | None = None,
    new_items: str | Path | None = None,
    trust: bool = False,
) -> Recommender:
    """Loads the best model of a run to ask it about users and items, without Ray and without the dataset.

    Args:
        run: a run, a copy of its `model/`, or what `publish` fills, at any address.
        data: where the dataset of a run that is not finished is now, if it has moved.
        new_items: a file of items that were not there in training, with their features; answers have them
            beside the others. Only for `twotower`.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: there is no model, it is damaged, or it cannot take new items.
    """
    return Recommender(TrainedModel.load(run, data, new_items=new_items, trust=trust))


class Recommender:
    """A trained model that answers questions, with the source's ids in and out.

    Ids that are whole numbers may be given as such. An id that the model does not know is an AdarError that
    names it. Answers are lists of `Scored`, best first, equal scores in the dataset's order of ids.

    Args:
        shortlists: makes a shortlist of vectors `[N, D]`. Then a user's ranking, if scores are dot products,
            and what is similar are looked for on a shortlist only, which is far quicker for single users.

    Attributes:
        trained: the model, its configuration and its interactions.
    """

    def __init__(
        self, trained: TrainedModel, shortlists: Callable[[torch.Tensor], Shortlist] | None = None
    ) -> None:
        self.trained, self._shortlists = trained, shortlists
        dataset = trained.dataset
        self._users = _Ids("user", dataset.user_keys().to_pylist(), f"{dataset.folder}/users.parquet")
        self._items = _Ids("item", trained.item_keys().to_pylist(), f"{dataset.folder}/items.parquet")
        self._history = trained.history(*SPLITS)

    def knows(self, user: Id) -> bool:
        """Whether a user is among those whom the model can answer for."""
        return key_of(user) in self._users

    @cached_property
    def _own(self) -> UserItems:
        """What users have interacted with, in any split."""
        return user_items(self.trained.dataset, *SPLITS)

    @overload
    def recommend(
        self, user: Id, k: int = ..., *, exclude_seen: bool = ..., candidates: Ids | None = ...
    ) -> list[Scored]: ...

    @overload
    def recommend(
        self, user: Several, k: int = ..., *, exclude_seen: bool = ..., candidates: Ids | None = ...
    ) -> dict[str, list[Scored]]: ...

    @overload
    def recommend(
        self, *, k: int = ..., history: Ids, exclude_seen: bool = ..., candidates: Ids | None = ...
    ) -> list[Scored]: ...

    def recommend(
        self,
        user: Id | Several | None = None,
        k: int = 20,
        *,
        history: Ids | None = None,
        exclude_seen: bool = True,
        candidates: Ids | None = None,
    ) -> list[Scored] | dict[str, list[Scored]]:
        """The top k items for a user, for each of several users, or for somebody with a history.

        The ranking is that of `adar_ray.recommend`.

        Args:
            user: a user; or several, for a dict of answers by user.
            history: in place of a user, what somebody unknown has interacted with, oldest first. A sequential
                model reads it; for any other, `fold_in` makes a vector of it.
            exclude_seen: leave out what the user has interacted with, in any split, unless the dataset keeps
                repeats.
            candidates: the items to choose from; all by default.
        """
        check_number("k", k, 1, LARGEST_K)
        among = None if candidates is None else self._items(candidates)
        if user is None and history is not None:
            return self._rank(self._newcomer(history), k, among, exclude_seen)[0]
        if user is None or history is not None:
            raise AdarError("recommend: give either a user, or several, or a history")
        if is_one(user):
            return self._rank(self._known([key_of(user)]), k, among, exclude_seen)[0]
        users = keys_of("user", user)
        return dict(zip(users, self._rank(self._known(users), k, among, exclude_seen), strict=True))

    def score(self, user: Id, items: Ids) -> list[Scored]:
        """The scores of the items for a user, by which `recommend` ranks them, in the order given."""
        item_N = self._items(items)
        (ranked,) = self._rank(self._known([user]), max(len(item_N), 1), item_N)
        score = dict(ranked)
        return [Scored(key, score[key]) for key in self._items.keys(item_N)]

    @cached_property
    def _titles(self) -> list[str | None] | None:
        titles = self.trained.item_titles()
        return None if titles is None else titles.to_pylist()

    @property
    def has_titles(self) -> bool:
        """Whether any item has a title."""
        return self._titles is not None

    def title(self, item: Id) -> str | None:
        """The title of an item; None if it has none."""
        number = int(self._items([item]))
        return self._titles[number] if self._titles is not None else None

    def similar_items(self, item: Id, k: int = 20) -> list[Scored]:
        """The k items whose vectors have the highest cosine with the item's."""
        return self._item_cosines(item, k)

    def similar_users(self, user: Id, k: int = 20) -> list[Scored]:
        """The k users whose vectors have the highest cosine with the user's."""
        return self._user_cosines(user, k)

    @torch.no_grad()
    def explain(self, user: Id, item: Id, k: int = 20) -> list[Scored]:
        """The k of the user's items that speak most for an item, each with how much it does.

        With a dot product, the vector that gives each of the user's items a score of one, by least squares
        with a ridge, gives any item a score that is a sum over them (Hu, Koren and Volinsky, "Collaborative
        Filtering for Implicit Feedback Datasets", ICDM 2008, section 5). An item speaks by its summand.

        With any other score, and with a sequential model, an item speaks by what the score loses if the
        history lacks it. A sequential model reads no more than the end of a history.
        """
        check_number("k", k, 1, LARGEST_K)
        user_1, item_1 = self._users([user]), self._items([item])
        if self._scores_by_dot_product and not self.trained.sequential:
            own_N, share_N = self._summands(user_1, item_1)
        else:
            own_N, share_N = self._lost_without(user_1, item_1)
        share_N, order_N = torch.sort(share_N, descending=True, stable=True)
        return self._items.scored(own_N[order_N[:k]], share_N[:k])

    def _summands(self, user_1: torch.Tensor, item_1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A user's items, and what each adds to the score of an item by least squares."""
        _, own_N = self._own.of(user_1)
        own_ND, item_D = (self.trained.item_vectors[number].double() for number in (own_N, item_1[0]))
        if not own_ND.any():  # nothing to fit: no ridge either
            return own_N, own_ND.sum(1)
        ridge_D = own_ND.square().sum(1).mean().mul(RIDGE).expand(own_ND.shape[1])
        return own_N, own_ND @ torch.linalg.solve(own_ND.T @ own_ND + ridge_D.diag(), item_D)

    def _lost_without(self, user_1: torch.Tensor, item_1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A user's items, and what the score of an item loses without each."""
        if self._history is None:
            item_L = self._own.of(user_1)[1]
        else:
            item_L = self._history(user_1)[0]
            item_L = item_L[item_L != PADDING]
        own_N = item_L.unique()
        # Users of whom the first has everything, and each other one lacks one item.
        has_BL = torch.cat([torch.ones(1, len(item_L), dtype=torch.bool), item_L != own_N[:, None]])
        user_E, at_E = has_BL.nonzero(as_tuple=True)
        answers = self._rank(self._newcomers(user_E, item_L[at_E], len(has_BL)), 1, item_1)
        score_B = torch.tensor([answer[0].score for answer in answers], dtype=torch.float64)
        return own_N, score_B[0] - score_B[1:]

    @property
    def _scores_by_dot_product(self) -> bool:
        return getattr(self.trained.snapshot, "scores_by_dot_product", False)

    @cached_property
    def _shortlist(self) -> Shortlist | None:
        """Of all items for a user; None if all are ranked."""
        if self._shortlists is None or not self._scores_by_dot_product:
            return None
        return self._shortlists(self.trained.item_vectors)

    @cached_property
    def _item_cosines(self) -> _Cosines:
        return _Cosines(self._items, self.trained.item_vectors, self._shortlists)

    @cached_property
    def _user_cosines(self) -> _Cosines:
        return _Cosines(self._users, self.trained.user_vectors, self._shortlists)

    def _known(self, users: Ids) -> _Asked:
        return self._asked(self._users(users), self._own, self._history)

    def _newcomer(self, history: Ids) -> _Asked:
        item_E = self._items(history)
        if not len(item_E):
            raise AdarError("history: holds no items; give at least one")
        return self._newcomers(torch.zeros_like(item_E), item_E, 1)

    def _newcomers(self, user_E: torch.Tensor, item_E: torch.Tensor, users: int) -> _Asked:
        """Users that the model has not seen, by their interactions, each user's in order of time."""
        user_B = torch.arange(users)
        own = UserItems(user_E, item_E, users, self.trained.n_items)
        if self._history is None:
            return _Asked(fold_in(self.trained, own), *own.of(user_B))
        length = self.trained.dataset.sequences.length
        return self._asked(user_B, own, Histories(user_E, item_E, users, length))

    @torch.no_grad()
    def _asked(self, user_B: torch.Tensor, own: UserItems, history: Histories | None) -> _Asked:
        # Whole tiles, as a ranking of all users has, but for a single user, who must not cost as much.
        filled_B = pad(user_B, (0, -len(user_B) % TILE)) if len(user_B) > 1 else user_B
        tiles = [user_vectors(self.trained.snapshot, tile_B, history) for tile_B in filled_B.split(TILE)]
        return _Asked(torch.cat(tiles)[: len(user_B)], *own.of(user_B))

    def _rank(
        self, asked: _Asked, k: int, among: torch.Tensor | None, exclude_seen: bool = False
    ) -> list[list[Scored]]:
        if not exclude_seen or self.trained.dataset.keeps_repeats:
            asked = _Asked(asked.user_BD, asked.row_E[:0], asked.item_E[:0])
        scored_by = (self._items, self.trained.item_vectors, self.trained.snapshot.score)
        if among is not None or self._shortlist is None:
            return _top(*scored_by, asked, k, None if among is None else among.unique())
        answers = []
        for one in asked.each():
            among_N = self._shortlist(one.user_BD[0], SPARE * (k + len(one.item_E)))
            answers.append(_top_of_few(*scored_by, one, k, among_N))
        return answers


@dataclass(frozen=True)
class _Asked:
    """Whom a question is about.

    Attributes:
        user_BD: their vectors.
        row_E, item_E: what they have interacted with, as their positions in the question and items.
    """

    user_BD: torch.Tensor
    row_E: torch.Tensor
    item_E: torch.Tensor

    def each(self) -> Iterator[_Asked]:
        """Everybody alone."""
        for row in range(len(self.user_BD)):
            item_N = self.item_E[self.row_E == row]
            yield _Asked(self.user_BD[row : row + 1], torch.zeros_like(item_N), item_N)


class _Ids:
    """The source's ids of users or items, and their numbers in the model.

    Args:
        kind: `user` or `item`, for messages.
        keys: the source's ids, by number.
        origin: where they come from, for messages.
    """

    def __init__(self, kind: str, keys: list[str], origin: str) -> None:
        self._kind, self._keys, self._origin = kind, keys, origin
        self._number = {key: number for number, key in enumerate(keys)}

    def __call__(self, keys: Ids) -> torch.Tensor:
        """The numbers of ids."""
        numbers = []
        for key in keys_of(self._kind, keys):
            if key not in self._number:
                remedy = "give an id of the source"
                if self._kind == "user":
                    remedy += ", or, in Python, a new user's items as history"
                message = f"{self._origin}: does not list the {self._kind} {key!r}; {remedy}"
                raise UnknownIdError(message, self._kind, key)
            numbers.append(self._number[key])
        return torch.tensor(numbers, dtype=torch.int64)

    def __contains__(self, key: str) -> bool:
        return key in self._number

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, number_N: torch.Tensor) -> list[str]:
        """The ids of numbers."""
        return [self._keys[number] for number in number_N.tolist()]

    def scored(self, number_N: torch.Tensor, score_N: torch.Tensor) -> list[Scored]:
        """An answer, without what has been left out."""
        pairs = zip(self.keys(number_N), score_N.tolist(), strict=True)
        return [Scored(key, score) for key, score in pairs if score > -torch.inf]


class _Cosines:
    """The users, or items, whose vectors have the highest cosine with that of one."""

    def __init__(
        self,
        ids: _Ids,
        vector_ND: torch.Tensor,
        shortlists: Callable[[torch.Tensor], Shortlist] | None,
    ) -> None:
        self._ids, self._unit_ND = ids, normalize(vector_ND, dim=1)
        self._shortlist = None if shortlists is None else shortlists(self._unit_ND)

    def __call__(self, one: Id, k: int) -> list[Scored]:
        """The k nearest others."""
        check_number("k", k, 1, LARGEST_K)
        number_1 = self._ids([one])
        itself = _Asked(self._unit_ND[number_1], torch.zeros_like(number_1), number_1)
        scored_by = (self._ids, self._unit_ND, dot_score)
        if self._shortlist is None:
            return _top(*scored_by, itself, k, None)[0]
        return _top_of_few(*scored_by, itself, k, self._shortlist(itself.user_BD[0], SPARE * (k + 1)))


@torch.no_grad()
def _top_of_few(
    ids: _Ids,
    item_ID: torch.Tensor,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    one: _Asked,
    k: int,
    among_N: torch.Tensor,
) -> list[Scored]:
    """A single user's k best items but for the user's own, out of a few, in ascending order.

    The same as `_top`, by a tenth of its calls of torch, in which it would spend all its time.
    """
    filled_N = pad(among_N, (0, max(BLOCK - len(among_N), 0)))
    score_N = score(one.user_BD.expand(TILE, -1), item_ID[filled_N][None])[0, : len(among_N)]
    score_N = score_N.masked_fill(torch.isin(among_N, one.item_E), -torch.inf)
    best_N, order_N = torch.sort(score_N, descending=True, stable=True)
    return ids.scored(among_N[order_N[:k]], best_N[:k])


def _top(
    ids: _Ids,
    item_ID: torch.Tensor,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    asked: _Asked,
    k: int,
    among_N: torch.Tensor | None,
) -> list[list[Scored]]:
    """Each user's k best items but for the user's own, out of all items or of some, in ascending order."""
    row_E, item_E, among_I = asked.row_E, asked.item_E, None
    if among_N is not None:
        # A block at least: a product of very few columns rounds differently.
        filled_N = pad(among_N, (0, max(BLOCK - len(among_N), 0)))
        among_I = torch.arange(len(filled_N)) < len(among_N)
        item_ID = item_ID[filled_N]
        at_E = torch.searchsorted(among_N, item_E)
        is_there_E = filled_N[at_E.clamp_max(len(filled_N) - 1)] == item_E
        row_E, item_E = row_E[is_there_E], at_E[is_there_E]
    model, user_B = Vectors(asked.user_BD, item_ID, score), torch.arange(len(asked.user_BD))
    left_out = UserItems(row_E, item_E, len(user_B), len(item_ID))
    answers = []
    for _, *tile in top_items(model, user_B, left_out, k, len(item_ID), among_I=among_I):
        for item_k, score_k in zip(*tile, strict=True):
            answers.append(ids.scored(item_k if among_N is None else filled_N[item_k], score_k))
    return answers

"""What a sampler is given and what it returns.

Legend: B rows of the batch, K negatives per row, H hops, D dimensions, P items of a shared pool, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import nn

from adar_ray import kernels
from adar_ray.errors import counted
from adar_ray.interactions.user_items import SeenItems
from adar_ray.models.protocol import dot_score
from adar_ray.models.table import TablePairs
from adar_ray.rng import RowRng


@dataclass(frozen=True)
class SamplingContext:
    """What a sampler may look up for a batch. The first two are always there, the others if they are known.

    Attributes:
        vectors: ids of any shape -> item representations with a last dimension D. With sharded tables all
            workers have to call it equally often.
        n_items: ids run from 0 to n_items - 1.
        score: (user_BD, item_BKD or item_1KD) -> score_BK.
        seen: ids `[B, K]` or, shared, `[P]` -> whether this batch's users interacted with them. What
            `UserItems.seen_by` gives is the fastest.
        seen_count_B: how many items each of this batch's users interacted with; None for sequential models,
            which predict the next item and not all that a user would like.
        user_B, positive_B: the rows' users and positives, as ids.
        popularity_I: interactions of each item.
        layers: ids of any shape -> representations `[..., H, D]` after each of a graph model's H hops; their
            mean is `vectors`.
        pairs: tables whose rows `user_B` and `positive_B` are the vectors of users and positives, if scores
            are dot products of rows. One of this library's samplers whose `reads_vectors` is False then
            gets vectors without dimensions.
        epoch: the pass over the data, from 1.
    """

    vectors: Callable[[torch.Tensor], torch.Tensor]
    n_items: int
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = dot_score
    seen: Callable[[torch.Tensor], torch.Tensor] | None = None
    seen_count_B: torch.Tensor | None = None
    user_B: torch.Tensor | None = None
    positive_B: torch.Tensor | None = None
    popularity_I: torch.Tensor | None = None
    layers: Callable[[torch.Tensor], torch.Tensor] | None = None
    pairs: TablePairs | None = None
    epoch: int = 1


@dataclass(frozen=True)
class Negatives:
    """A sampler's answer.

    Attributes:
        vector_BKD: representations; `[1, K, D]` if all rows share their negatives.
        mask_BK: False where a row has no negative, as for a user who has seen every item.
        item_BK: the items that the vectors are, `[1, K]` if shared; None if they are generated.
        timestep_BK: for ADAR, how far each negative is diffused, as a share of the whole way; else None.
        kept_B: for ADAR, the share of its candidates that an active user keeps; None if activity is not
            known.
        log_q_BK: natural logarithm of the probability of drawing each, less that of drawing the row's
            positive, `[B, K]`; None if all items are equally likely.
        loss_B: a loss for parameters of the sampler's own, `[B]`.
        source: for generated negatives, the items mixed into them; None if there are none.
        score_BK: their scores, with gradients, if the sampler has computed them.
    """

    vector_BKD: torch.Tensor
    mask_BK: torch.Tensor
    item_BK: torch.Tensor | None = None
    timestep_BK: torch.Tensor | None = None
    kept_B: torch.Tensor | None = None
    log_q_BK: torch.Tensor | None = None
    loss_B: torch.Tensor | None = None
    source: Source | None = None
    score_BK: torch.Tensor | None = None


@dataclass(frozen=True)
class Source:
    """Items that generated negatives are made of.

    Attributes:
        item_P, vector_PD: ids and representations of some items.
        at_BK: which of them is in each negative.
    """

    item_P: torch.Tensor
    vector_PD: torch.Tensor
    at_BK: torch.Tensor

    def means(self, value_P: torch.Tensor) -> torch.Tensor:
        """`[B]`: the mean over a row's negatives of a value of their items."""
        if kernels.runs_compiled(value_P, self.at_BK):
            return _Means.apply(value_P, self.at_BK)
        return value_P[self.at_BK].mean(1)


class _Means(torch.autograd.Function):
    """`Source.means`. Its gradient is for a few items, which autograd would sort."""

    @staticmethod
    def forward(ctx: Any, value_P: torch.Tensor, at_BK: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(at_BK)
        ctx.size = len(value_P)
        mean_B = value_P.new_empty(len(at_BK))
        kernels.means(*(tensor.detach().contiguous().numpy() for tensor in (value_P, at_BK, mean_B)))
        return mean_B

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_B: torch.Tensor) -> tuple[torch.Tensor, None]:
        (at_BK,) = ctx.saved_tensors
        gradient_P = gradient_B.new_zeros(ctx.size)
        kernels.means_backward(*(tensor.contiguous().numpy() for tensor in (gradient_B, at_BK, gradient_P)))
        return gradient_P, None


class LazyNegatives(Negatives):
    """Negatives whose vectors are only made if somebody asks for them."""

    _make_vectors: Callable[[], torch.Tensor]

    def __init__(
        self, vector_BKD: torch.Tensor | Callable[[], torch.Tensor], mask_BK: torch.Tensor, **known: Any
    ) -> None:
        """`vector_BKD` makes the vectors; `dataclasses.replace` passes the vectors themselves."""
        super().__init__(cast(torch.Tensor, vector_BKD), mask_BK, **known)
        if callable(vector_BKD):  # or it would hide the property
            self.__dict__["_make_vectors"] = self.__dict__.pop("vector_BKD")

    @property
    def is_unmade(self) -> bool:
        """Whether nobody has asked for the vectors, or replaced them by others."""
        return "vector_BKD" not in self.__dict__

    @cached_property
    def vector_BKD(self) -> torch.Tensor:
        return self._make_vectors()


def real_items(
    context: SamplingContext, item_BK: torch.Tensor, mask_BK: torch.Tensor, **known: Any
) -> LazyNegatives:
    """Negatives that are items, each row's own."""
    return LazyNegatives(lambda: context.vectors(item_BK), mask_BK=mask_BK, item_BK=item_BK, **known)


class Sampler(Protocol):
    """Gives negatives for a batch; never a seen item as a sure negative."""

    def __call__(
        self,
        user_BD: torch.Tensor,
        positive_BD: torch.Tensor,
        context: SamplingContext,
        rng: RowRng | None = None,
    ) -> Negatives: ...


class BaseSampler(nn.Module):
    """A sampler as a module: a subclass implements `sample`."""

    @kernels.untraced
    def forward(
        self,
        user_BD: torch.Tensor,
        positive_BD: torch.Tensor,
        context: SamplingContext,
        rng: RowRng | None = None,
    ) -> Negatives:
        """Negatives for a batch of users and their positives.

        Args:
            rng: random numbers that belong to the rows, so that several workers repeat what one would draw;
                by default they come from torch's own generator.

        Raises:
            ValueError: shapes, or numbers of items, do not fit each other.
        """
        shapes = list(user_BD.shape), list(positive_BD.shape)
        same_D = context.score is not dot_score or shapes[0] == shapes[1]
        if user_BD.dim() != 2 or positive_BD.dim() != 2 or len(user_BD) != len(positive_BD) or not same_D:
            raise ValueError(
                f"user_BD and positive_BD have the shapes {shapes[0]} and {shapes[1]}; give a positive for "
                "each user, [B, D] and [B, D]"
            )
        _check_context(context, len(user_BD))
        return self.sample(user_BD, positive_BD, context, rng or RowRng.fresh(len(user_BD), user_BD.device))

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        raise NotImplementedError


def _check_context(context: SamplingContext, rows: int) -> None:
    """Refuses what would make compiled loops read memory that is not theirs."""
    if isinstance(context.seen, SeenItems) and context.n_items > context.seen.observed.n_items:
        raise ValueError(
            f"SamplingContext.n_items is {context.n_items}, but its UserItems was made for "
            f"{context.seen.observed.n_items} items; give both the same number"
        )
    count_B = context.seen_count_B
    if count_B is not None and not (isinstance(count_B, torch.Tensor) and count_B.shape == (rows,)):
        is_tensor = isinstance(count_B, torch.Tensor)
        kind = f"has the shape {list(count_B.shape)}" if is_tensor else f"is a {type(count_B).__name__}"
        raise ValueError(
            f"SamplingContext.seen_count_B {kind} for {counted(rows, 'row')}; give the counts of the batch's "
            "users, such as observed.counts()[user]"
        )


def excluded_items(context: SamplingContext, item: torch.Tensor, rows: int) -> torch.Tensor:
    """`[B, K]`: which items, `[B, K]` or, shared, `[K]`, cannot be negatives of a row.

    These are the ones that its user has seen or, if that is not known, its positive.

    Raises:
        ValueError: `context.seen` returns another shape or type.
    """
    if context.seen is None:
        if context.positive_B is None:
            return torch.zeros(rows, item.shape[-1], dtype=torch.bool, device=item.device)
        return item == context.positive_B[:, None]
    seen_BK = context.seen(item)
    if seen_BK.dtype != torch.bool or list(seen_BK.shape) != [rows, item.shape[-1]]:
        kind = f"{str(seen_BK.dtype).removeprefix('torch.')} of shape {list(seen_BK.shape)}"
        raise ValueError(
            f"SamplingContext.seen returns {kind} for items of shape {list(item.shape)}; return bool of "
            f"shape {[rows, item.shape[-1]]}, a row for each user"
        )
    return seen_BK


def need(value: torch.Tensor | None, name: str) -> torch.Tensor:
    """A field of the context that a sampler cannot do without.

    Raises:
        ValueError: the context does not have it.
    """
    if value is None:
        raise ValueError(f"this sampler needs SamplingContext.{name}")
    return value

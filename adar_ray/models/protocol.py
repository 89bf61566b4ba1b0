"""What ADAR and the training service ask of a base model: three methods, no base class.

A model may have more methods, which are used if they are there; `BaseModel` lists them.

Legend: B rows of the batch, L positions of a history, N = L + 1, K items per row, D dimensions.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from adar_ray import kernels
from adar_ray.interactions import PADDING
from adar_ray.rng import RowRng


def dot_score(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
    """`[B, K]` dot products. Items that all users share come as `[1, K, D]` and cost one matrix product.

    Raises:
        ValueError: shapes do not fit each other. A compiled loop would read memory that is not theirs.
    """
    users, items = user_BD.shape, item_BKD.shape
    if len(users) != 2 or len(items) != 3 or items[0] not in (1, users[0]) or items[2] != users[1]:
        raise ValueError(
            f"user_BD and item_BKD have the shapes {list(users)} and {list(items)}; give [B, D] and "
            "[B, K, D], or [1, K, D] if all users share their items"
        )
    if items[0] == 1:
        return user_BD @ item_BKD[0].T
    if kernels.runs_compiled(user_BD, item_BKD):
        return _Dots.apply(user_BD, item_BKD)
    # Several times as fast as the B tiny matrix products of an einsum.
    return (user_BD[:, None] * item_BKD).sum(-1)


class _Dots(torch.autograd.Function):
    """Dot products without their factors' products in memory."""

    @staticmethod
    def forward(ctx: Any, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        user_BD, item_BKD = user_BD.contiguous(), item_BKD.contiguous()
        ctx.save_for_backward(user_BD, item_BKD)
        score_BK = user_BD.new_empty(item_BKD.shape[:2])
        kernels.dots(*(tensor.detach().numpy() for tensor in (user_BD, item_BKD, score_BK)))
        return score_BK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        user_BD, item_BKD = ctx.saved_tensors
        gradients = torch.empty_like(user_BD), torch.empty_like(item_BKD)
        tensors = (user_BD, item_BKD, gradient_BK.contiguous(), *gradients)
        kernels.dots_backward(*(tensor.detach().numpy() for tensor in tensors))
        return gradients


@runtime_checkable
class BaseModel(Protocol):
    """An `nn.Module` with these three methods.

    Optional attributes:
        `scores_by_dot_product`: True if `score` is nothing but `dot_score`, which is then computed faster.
        `item_tables`: names of the parameters with a row for each item, by default `("item.weight",)`. A warm
            start keeps rows of these and of `user_tables` by the ids of the source.
        `feature_tables`: names of the parameters with a row for each feature of the dataset's `Vocabulary`. A
            warm start keeps them by columns and categories.

    Optional methods:
        `snapshot() -> BaseModel`: the model at its present weights, with what all look-ups share computed
            once, such as a graph model's propagation. It must not outlive a change of the weights.
        `step_snapshot(rng) -> BaseModel`: the same as a training step has it, if that is drawn at random.
            What `rng` shares is the same on all workers.
        `l2_vectors(batch, item) -> (user_BD, item_vectors)`: the vectors that the L2 penalty applies to, for
            ids of any shape, if they are not the representations; or None. A sequential model's users are no
            parameters, and do not count.
        `ranking_items(item) -> [..., D]`: the vectors by which items are ranked and exported, for ids of any
            shape, if they are not the representations.
        `pairs`, a property: a `TablePairs` if the score is the dot product of rows of two tables, or None.
        `item_layers(item) -> [..., H, D]`: item representations after each of a graph model's H hops.
        `auxiliary_loss(batch, item_B, rng) -> [B]`: a term that the model adds to the loss.
        `cloze(sequence_BN, targets, rng) -> (history_BL, target_BL)`: for a sequential model that does not
            train on every next item: the history it sees and the items to predict, PADDING at other
            positions.
    """

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """User representations `[B, D]` for a batch, whose `batch["user"]` are ids `[B]`.

        A sequential model reads `batch["history"]`, items `[B, L]`, oldest first and padded with PADDING on
        the left. It returns `[B, L, D]`: the user as of each position. The last one is the user now.
        """
        ...

    def items(self, item: torch.Tensor) -> torch.Tensor:
        """Item representations `[..., D]` for ids of any shape."""
        ...

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        """Scores `[B, K]` of item vectors, real items or not; `[1, K, D]` if all users share them."""
        ...


def snapshot(model: Any) -> Any:
    """The model's snapshot, or the model itself if it has none to take."""
    take = getattr(model, "snapshot", None)
    return model if take is None else take()


def ranking_items(model: Any, item: torch.Tensor) -> torch.Tensor:
    """The vectors `[..., D]` by which items are ranked: `score` of a user and one of them is what counts."""
    vectors = getattr(model, "ranking_items", None) or model.items
    return vectors(item)


def training_positions(
    model: BaseModel, sequence_BN: torch.Tensor, targets: int, rng: RowRng
) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits sequence rows into histories for the model and the item to predict at each position, `[B, L]`.

    By default that is the next item, at the last `targets` positions that have a history.
    """
    cloze = getattr(model, "cloze", None)
    if cloze:
        return cloze(sequence_BN, targets, rng)
    history_BL, target_BL = sequence_BN[:, :-1], sequence_BN[:, 1:].clone()
    target_BL[history_BL == PADDING] = PADDING
    target_BL[:, :-targets] = PADDING
    return history_BL, target_BL

"""What ADAR and the training service ask of a base model: three methods, no base class.

Some more are used where a model has them; `BaseModel` lists them.

Legend: B rows of the batch, L positions of a history, K items a row, D dimensions.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from adar_ray.interactions import PADDING
from adar_ray.rng import RowRng


def dot_score(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
    """`[B, K]` dot products. Items that all users share come as `[1, K, D]`: one matrix product."""
    if item_BKD.shape[0] == 1:
        return user_BD @ item_BKD[0].T
    # On a CPU this is several times as fast as the B tiny matrix products of an einsum.
    return (user_BD[:, None] * item_BKD).sum(-1)


@runtime_checkable
class BaseModel(Protocol):
    """An `nn.Module` with these three methods.

    Optional methods:
        `l2_vectors(batch, item) -> (user_BD, item_vectors)`: the vectors that the L2 penalty is put on, for
            ids of any shape, where they are not the representations, as in a graph model; or None.
        `item_layers(item) -> [..., H, D]`: item representations after each of a graph model's H hops.
        `auxiliary_loss(batch, item_B, rng) -> [B]`: what the model wants minimized besides the loss.
        `cloze(sequence_BN, targets, rng) -> (history_BL, target_BL)`: what a sequential model that is not
            trained on every next item is shown, and what it is to find there; PADDING where nothing.
    """

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """User representations `[B, D]` for a batch, whose `batch["user"]` are ids `[B]`.

        A sequential model reads `batch["history"]`, items `[B, L]`, oldest first and padded with PADDING
        on the left, and gives `[B, L, D]`: for each position the user as of then. The last is the user now.
        """
        ...

    def items(self, item: torch.Tensor) -> torch.Tensor:
        """Item representations `[..., D]` for ids of any shape."""
        ...

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        """Scores `[B, K]` of item vectors, real items or not; `[1, K, D]` where all users share them."""
        ...


def training_positions(
    model: BaseModel, sequence_BN: torch.Tensor, targets: int, rng: RowRng
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sequence row as what the model is shown, `[B, L]`, and what it is to find at each position.

    By default the next item, at the last `targets` positions that have a history.
    """
    own = getattr(model, "cloze", None)
    if own:
        return own(sequence_BN, targets, rng)
    history_BL, target_BL = sequence_BN[:, :-1], sequence_BN[:, 1:].clone()
    target_BL[history_BL == PADDING] = PADDING
    target_BL[:, :-targets] = PADDING
    return history_BL, target_BL

"""What ADAR and the training service ask of a base model: three methods, no base class.

Legend: B rows of the batch, K items a row, D dimensions.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class BaseModel(Protocol):
    """An `nn.Module` with these three methods."""

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """User representations `[B, D]` for a batch, whose `batch["user"]` are ids `[B]`."""
        ...

    def items(self, item: torch.Tensor) -> torch.Tensor:
        """Item representations `[..., D]` for ids of any shape."""
        ...

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        """Scores `[B, K]` of item vectors, real items or not; `[1, K, D]` where all users share them."""
        ...


def l2_vectors(
    model: BaseModel, batch: dict[str, torch.Tensor], item: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors that the L2 penalty is put on: the representations, unless the model knows better.

    A graph model's parameters are not what it scores; it says so with a method `l2_vectors`.
    """
    own = getattr(model, "l2_vectors", None)
    return own(batch, item) if own else (model.users(batch), model.items(item))

"""Vectors for users whom a model has not seen in training, from what they have interacted with.

Legend: U users of the model, B new users, E their interactions, K negatives, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.inference.model import TrainedModel
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.dot_product import DotProductModel
from adar_ray.rng import RowRng
from adar_ray.training.build import build_loss
from adar_ray.training.optimizer import Adam

STEPS, RATE, NEGATIVES = 40, 0.1, 512
_TILE = 32  # users whose pairs of positives and negatives are in memory at a time


@torch.inference_mode(False)
@torch.enable_grad()
def fold_in(trained: TrainedModel, own: UserItems) -> torch.Tensor:
    """Vectors `[B, D]` for the users of `own`, whose items are all there is to know about them.

    Each starts as the mean of the model's users and takes 40 steps of Adam down the run's own loss, of all
    the user's items against up to 512 others that are drawn at random for each step. The learning rate is a
    tenth of the root mean square of the numbers in users' vectors. The model stays as it is, and the same
    items are drawn for everybody, whoever else is asked for.

    Args:
        trained: a model that reads no histories.
    """
    tiles = torch.arange(own.n_users).split(_TILE)
    return torch.cat([_fold_in_tile(trained, own, user_B) for user_B in tiles])


def _fold_in_tile(trained: TrainedModel, own: UserItems, user_B: torch.Tensor) -> torch.Tensor:
    model, user_UD = trained.snapshot, trained.user_vectors
    loss = build_loss(trained.config, trained.dataset.n_items, trained.dataset)
    row_E, item_E = own.of(user_B)
    share_E = own.counts()[user_B[row_E]].reciprocal()
    with torch.no_grad():
        positive_E1D = model.items(item_E)[:, None]
    vector_BD = nn.Parameter(user_UD.mean(0).repeat(len(user_B), 1))
    optimizer = Adam(nn.ParameterList([vector_BD]), RATE * float(user_UD.square().mean().sqrt()))
    for step in range(STEPS):
        item_K = RowRng(torch.zeros(1, dtype=torch.int64), step).shared_integers(own.n_items, NEGATIVES)
        mask_BK = ~own.contains_shared(user_B, item_K)
        with torch.no_grad():
            negative_1KD = model.items(item_K)[None]
        user_BD = _represent(trained, vector_BD)
        positive_E = model.score(user_BD[row_E], positive_E1D)[:, 0]
        score_EK = model.score(user_BD, negative_1KD)[row_E]
        total = (share_E * loss.function(positive_E, score_EK, mask_BK[row_E], None)).sum()
        (vector_BD.grad,) = torch.autograd.grad(total, [vector_BD])
        optimizer.step()
    return _represent(trained, vector_BD.detach())


def _represent(trained: TrainedModel, vector_BD: torch.Tensor) -> torch.Tensor:
    """Vectors as users' representations: of length one if the score is the cosine."""
    return trained.model.represent(vector_BD) if isinstance(trained.model, DotProductModel) else vector_BD

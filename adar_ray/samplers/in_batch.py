"""In-batch negatives: the positives of the other rows.

Legend: B rows of the batch held here, A rows of the batches of all workers, D dimensions, I items.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from adar_ray.distributed import gather_rows
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.popularity import log_q
from adar_ray.samplers.uniform import shared_negatives


class InBatchSampler(nn.Module):
    """Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations"
    (RecSys 2019): an item stands in a batch as often as it is popular, which `log_q_BK` tells a softmax.

    Departs from it by knowing each item's popularity, where the paper estimates it from a stream, and by
    leaving out what the user has interacted with. The batch is that of all workers: they exchange ids.
    """

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[1, A, D]`. Needs `items.positive_B`, and for `log_q_BK` also `items.popularity_I`."""
        negatives = shared_negatives(gather_rows(items.positive_B), len(user_BD), items)
        if items.popularity_I is None:
            return negatives
        return replace(negatives, log_q_BK=log_q(items.popularity_I.double(), negatives.item_BK, items))

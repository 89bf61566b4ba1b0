"""In-batch negatives: the positives of the other rows.

Legend: B rows of the batch held here, A rows of the batches of all workers, D dimensions, I items.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from adar_ray.component import SamplerComponent, Settings
from adar_ray.distributed import gather_rows
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, need
from adar_ray.samplers.popularity import ItemWeights
from adar_ray.samplers.uniform import shared_negatives


class InBatchSettings(Settings):
    """In-batch negatives (Yi et al., RecSys 2019): the positives of the other rows."""


class InBatchSampler(BaseSampler):
    """Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys
    2019): an item is in a batch as often as it is popular, and `log_q_BK` tells a softmax so.

    Departs from the paper in two ways: it knows each item's popularity, which the paper estimates from a
    stream, and it leaves out what the user has interacted with. The batch is that of all workers: they
    exchange ids.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: ItemWeights | None = None

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[1, A, D]`. Needs `context.positive_B`, and for `log_q_BK` also
        `context.popularity_I`."""
        positive_B = need(context.positive_B, "positive_B")
        negatives = shared_negatives(gather_rows(positive_B), len(user_BD), context)
        if context.popularity_I is None:
            return negatives
        self._weights = ItemWeights.of(context.popularity_I, 1.0, self._weights)
        item_BK = need(negatives.item_BK, "item_BK")
        return replace(negatives, log_q_BK=self._weights.log_q(item_BK, context))


COMPONENT = SamplerComponent(
    name="in_batch", settings=InBatchSettings, build=lambda inputs, settings: InBatchSampler()
)

"""Features of items, in memory: a sparse matrix with a row per item and a column per feature.

Legend: I items, E numbers that are not zero, item by item.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ItemFeatures:
    """Which features each item has, and how much of each.

    Attributes:
        start: where the numbers of each item begin, and where the last item's end, `[I + 1]`.
        feature_E, value_E: the features, and how much of each.
        n_features: how many features there are.
    """

    start: torch.Tensor
    feature_E: torch.Tensor
    value_E: torch.Tensor
    n_features: int

    @classmethod
    def none(cls, n_items: int) -> ItemFeatures:
        """Items without features."""
        none = torch.zeros(n_items + 1, dtype=torch.int64)
        return cls(none, none[:0], torch.empty(0), 0)

    def followed_by(self, others: ItemFeatures) -> ItemFeatures:
        """These items and then others, which have the same features."""
        start = torch.cat([self.start, others.start[1:] + self.start[-1]])
        feature_E = torch.cat([self.feature_E, others.feature_E])
        return ItemFeatures(start, feature_E, torch.cat([self.value_E, others.value_E]), self.n_features)

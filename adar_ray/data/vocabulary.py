"""The features that items of a dataset have, numbered, and the features of any items by these numbers.

Legend: I items, E features of items, item by item.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

_ROUNDING = 1e-12  # what rounding may add to the deviation of equal numbers, as a share of them


@dataclass(frozen=True)
class FeatureRows:
    """Features of items by their numbers (see `interactions.item_features.ItemFeatures`).

    Attributes:
        unknown: by column, the values that are categories which no number stands for.
    """

    start: np.ndarray
    feature_E: np.ndarray
    value_E: np.ndarray
    n_features: int
    unknown: dict[str, pa.Array]


@dataclass(frozen=True)
class Vocabulary:
    """The features of a dataset's items: categories, column by column, and one for each column of numbers.

    Attributes:
        categories: of each column that has some, sorted.
        scales: of each column of numbers, their mean and standard deviation.
        columns: the columns in order.
    """

    categories: dict[str, pa.Array]
    scales: dict[str, tuple[float, float]]
    columns: list[str]

    @classmethod
    def of(cls, features: pa.Table) -> Vocabulary:
        """The vocabulary of what `Dataset.item_features` returns."""
        categories, scales = {}, {}
        for name in features.column_names:
            column = features[name].combine_chunks()
            if pat.is_list(column.type):
                found = pc.unique(column.flatten())
                categories[name] = found.take(pc.sort_indices(found))
            else:
                scales[name] = _scale(column.drop_null().to_numpy())
        return cls(categories, scales, features.column_names)

    def __len__(self) -> int:
        """How many features there are."""
        return len(self.scales) + sum(map(len, self.categories.values()))

    def keys(self) -> pa.Array:
        """A text for each feature, by its number: the same for the same feature of any dataset."""
        keys = []
        for name in self.columns:
            of_column = [None] if name in self.scales else self.categories[name].to_pylist()
            keys += [json.dumps([name, category]) for category in of_column]
        return pa.array(keys, pa.string())

    def encode(self, features: pa.Table) -> FeatureRows:
        """Features of any items by their numbers.

        A category counts as its share of those that the item has in the column; what is not known of items is
        zero, as is a number that is the mean.

        Args:
            features: with columns as `Dataset.item_features` returns; those that are not there are not known.
        """
        items, numbers, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        unknown: dict[str, pa.Array] = {}
        first = 0
        for name in self.columns:
            size = 1 if name in self.scales else len(self.categories[name])
            if name in features.column_names:
                column = features[name].combine_chunks()
                if name in self.scales:
                    mean, deviation = self.scales[name]
                    item_E = np.flatnonzero(column.is_valid())
                    value_E = (column.drop_null().to_numpy() - mean) / deviation
                    number_E = np.zeros_like(item_E)
                else:
                    item_E, number_E, unknown[name] = self._known(name, column)
                    value_E = 1 / np.bincount(item_E, minlength=1)[item_E]
                items.append(item_E)
                numbers.append(first + number_E)
                values.append(value_E.astype(np.float32))
            first += size
        item_E = np.concatenate(items)
        order_E = np.argsort(item_E, kind="stable")
        count_I = np.bincount(item_E, minlength=len(features))
        return FeatureRows(
            start=np.concatenate([[0], np.cumsum(count_I)]),
            feature_E=np.concatenate(numbers)[order_E],
            value_E=np.concatenate(values)[order_E],
            n_features=len(self),
            unknown={name: values for name, values in unknown.items() if len(values)},
        )

    def _known(self, name: str, column: pa.ListArray) -> tuple[np.ndarray, np.ndarray, pa.Array]:
        """The items and numbers of a column's known categories, and the others, each once."""
        item_E, text_E = pc.list_parent_indices(column).to_numpy(), column.flatten()
        number_E = pc.index_in(text_E, value_set=self.categories[name])
        is_known_E = number_E.is_valid().to_numpy(zero_copy_only=False)
        number_known = number_E.drop_null().to_numpy().astype(np.int64)
        return item_E[is_known_E], number_known, text_E.filter(number_E.is_null()).unique()


def _scale(number: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation. Of numbers that are equal but for rounding, the deviation is 1."""
    if not len(number):
        return 0.0, 1.0
    mean, deviation = float(number.mean()), float(number.std())
    return mean, deviation if deviation > _ROUNDING * np.abs(number).max() else 1.0

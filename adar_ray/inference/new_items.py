"""Items that a model has not seen in training, from a file of their features.

Legend: N new items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.dataset import Dataset
from adar_ray.data.features import KINDS, find_features, read_features
from adar_ray.data.manifest import PreparedSource
from adar_ray.data.options import ReadOptions
from adar_ray.data.vocabulary import Vocabulary
from adar_ray.interactions.item_features import ItemFeatures
from adar_ray.training.build import to_item_features


@dataclass(frozen=True)
class NewItems:
    """Items that come after those of a dataset.

    Attributes:
        path: the file.
        keys: their ids, `[N]`.
        titles: theirs, null where one has none.
        features: by the numbers that the model has learned.
        known: how many items of the file the model knows from training, and so were left out.
        unplaced: how many have no feature that the model knows, and were left out.
        unknown: by column, how many values are categories that the model does not know.
        missing: columns that the model knows and the file does not have.
    """

    path: str
    keys: pa.Array
    titles: pa.Array
    features: ItemFeatures
    known: int
    unplaced: int
    unknown: dict[str, int]
    missing: list[str]

    def notes(self) -> list[str]:
        """What people should know about them."""
        name = self.path.rpartition("/")[2]
        notes = [f"{len(self.keys):,} new items from {name}"]
        if self.known:
            notes.append(f"{self.known:,} items of {name} are known from training, and stay as they are")
        if self.missing:
            notes.append(f"{name} lacks the columns {', '.join(self.missing)}")
        for column, count in self.unknown.items():
            notes.append(
                f"{count:,} values of {column} in {name} are categories that the model does not know"
            )
        if self.unplaced:
            notes.append(
                f"{self.unplaced:,} items of {name} have no feature that the model knows, and were left out"
            )
        return notes


def read_new_items(address: str | Path, dataset: Dataset) -> NewItems:
    """Reads the features of items that the dataset does not have. Their columns are called as in the file
    that `prepare` has read, and hold the same kinds of values.

    Args:
        dataset: with features of its own.

    Raises:
        AdarError: the file cannot be read, or has none of the columns.
    """
    before = dataset.item_features()
    assert before is not None
    vocabulary = Vocabulary.of(before)
    kinds = {name: KINDS[name in vocabulary.scales] for name in vocabulary.columns}
    source = dataset.manifest.source
    item = source.columns["item"] if isinstance(source, PreparedSource) else "item"
    file = find_features(str(address), item, kinds, ReadOptions(), all_there=False)
    table = read_features(file)
    is_known = pc.is_in(table.item, value_set=dataset.item_keys().combine_chunks()).to_numpy(False)
    rows = vocabulary.encode(table.features)
    is_new = ~is_known & (np.diff(rows.start) > 0)
    new = table.of(table.item.filter(pa.array(is_new)))
    return NewItems(
        path=table.path,
        keys=new.item,
        titles=pa.nulls(len(new.item), pa.string()) if new.titles is None else new.titles,
        features=to_item_features(vocabulary.encode(new.features)),
        known=int(is_known.sum()),
        unplaced=int((~is_known & ~is_new).sum()),
        unknown=rows.unknown,
        missing=[name for name in vocabulary.columns if name not in file.kinds],
    )

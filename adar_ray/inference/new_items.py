"""Items that a model has not seen in training, from a file of their features.

Legend: N new items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.data.features import KINDS, find_features, read_features
from adar_ray.data.manifest import PreparedSource
from adar_ray.data.options import ReadOptions
from adar_ray.errors import AdarError, counted, one_line
from adar_ray.interactions.item_features import ItemFeatures
from adar_ray.registry import MODELS
from adar_ray.training.build import to_item_features


class NoFeaturesError(AdarError):
    """A model that knows items by their ids alone, so that new ones have no vectors."""


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
        unknown: by column, the values that are categories which the model does not know.
        separators: of these columns, what separates several categories in a text; None if nothing does.
        missing: columns that the model knows and the file does not have.
    """

    path: str
    keys: pa.Array
    titles: pa.Array
    features: ItemFeatures
    known: int
    unplaced: int
    unknown: dict[str, pa.Array]
    separators: dict[str, str | None]
    missing: list[str]

    def notes(self) -> list[str]:
        """What people should know about them."""
        name = self.path.rpartition("/")[2]
        notes = [f"{counted(len(self.keys), 'new item')} from {name}"]
        if self.known:
            known = counted(self.known, f"item of {name} is", f"items of {name} are")
            notes.append(f"{known} known from training, and not changed")
        if self.missing:
            notes.append(f"{name} lacks {counted(len(self.missing), 'column')}: {', '.join(self.missing)}")
        for column, values in self.unknown.items():
            example, separator = one_line(repr(values[0].as_py()), 60), self.separators[column]
            several = "" if separator is None else f"; {separator!r} separates several"
            notes.append(
                f"the model does not know {counted(len(values), 'value')} of {column} in {name}, such as "
                f"{example}{several}"
            )
        if self.unplaced:
            notes.append(
                f"left out {counted(self.unplaced, 'item')} of {name} with no feature that the model knows"
            )
        return notes


def read_new_items(address: str | Path, config: Config, dataset: Dataset) -> NewItems:
    """Reads the features of items that the dataset does not have. Their columns are called as in the file
    that `prepare` has read, and hold the same kinds of values.

    Args:
        config: of the model that is to know them.
        dataset: that the model was trained on.

    Raises:
        NoFeaturesError: the model knows items by their ids alone.
        AdarError: the file cannot be read, or has none of the columns.
    """
    name = config.model.name
    if name not in MODELS or not MODELS[name].reads_features:
        raise NoFeaturesError(
            f"{address}: {name} knows items by their ids alone, so new ones have no vectors; "
            "train with --set model.name=twotower"
        )
    vocabulary = dataset.vocabulary
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
        separators={name: file.separators[name] for name in rows.unknown},
        missing=[name for name in vocabulary.columns if name not in file.kinds],
    )

"""What RecBole 1.2.1 needs to run beside us, and our datasets as it reads them.

It asks for a Ray of 2023 and other versions than ours, and needs none of them, so it is installed in two
steps:

    pip install 'adar-ray[recbole]'
    pip install --no-deps recbole==1.2.1
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError

NAME = "adar"  # of the dataset, as RecBole calls it
_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def import_recbole() -> None:
    """Imports RecBole 1.2.1 and makes it run beside today's numpy, scipy and torch.

    Raises:
        AdarError: it, or something that it needs, is not installed.
    """
    # Names that numpy 2 and scipy 1.15 no longer have, and which RecBole still asks for.
    for name, same in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if name not in np.__dict__:
            setattr(np, name, same)
    try:
        import recbole.quick_start  # noqa: F401
        from scipy.sparse import dok_matrix
    except ImportError as error:
        raise AdarError(
            f"RecBole cannot be imported ({error}); pip install 'adar-ray[recbole]' && "
            "pip install --no-deps recbole==1.2.1"
        ) from error
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


@contextlib.contextmanager
def at_home() -> Iterator[Path]:
    """A folder of its own for RecBole to work in, and what it needs of a process, all put back afterwards."""
    before = Path.cwd(), sys.argv, os.environ.get(_PICKLES), torch.is_anomaly_enabled()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and torch, about how RecBole calls them
        os.chdir(scratch)  # where RecBole leaves its TensorBoard files
        sys.argv = sys.argv[:1]  # which RecBole would read settings from
        os.environ[_PICKLES] = (
            "1"  # RecBole reads back the checkpoint that it wrote, which holds its settings
        )
        try:
            yield Path(scratch)
        finally:
            here, sys.argv, pickles, detects_anomalies = before
            os.chdir(here)
            torch.autograd.set_detect_anomaly(detects_anomalies)  # which RecBole's trainer switches on
            if pickles is None:
                del os.environ[_PICKLES]


def write_interactions(dataset: Dataset, folder: Path, sequential: bool) -> dict[str, Any]:
    """Writes the dataset as RecBole reads it, and returns the settings that make it read just that.

    A general model is given the split as three files. For a sequential model RecBole takes no split without
    ready histories, so it is given all interactions, each at the time that is its position in the user's
    history, and leaves the last two out itself: the same two.

    Raises:
        AdarError: the dataset's split is not one that RecBole can be given.
    """
    protocol = dataset.manifest.split.protocol
    if sequential and protocol != "leave-one-out":
        raise AdarError(
            f"{dataset.folder}: is split by {protocol}; RecBole's sequential models need leave-one-out"
        )
    pairs = {}
    for split in SPLITS:
        if not dataset.rows(split):
            raise AdarError(
                f"{dataset.folder}: has no {split} interactions; RecBole needs train, valid and test"
            )
        pairs[split] = np.column_stack(dataset.read_split(split))
    (folder / NAME).mkdir(parents=True)
    path = folder / NAME / NAME
    columns = ["user_id", "item_id"]
    if not sequential:
        for split, rows in pairs.items():
            _write(Path(f"{path}.{split}.inter"), "user_id:token\titem_id:token", rows)
        way = {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}}  # which the files overrule
        given = {"benchmark_filename": list(SPLITS)}
    else:
        rows = np.concatenate(list(pairs.values()))
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        user, first, count = np.unique(rows[:, 0], return_index=True, return_counts=True)
        if (count == 3).any():  # which RecBole would give no validation interaction
            raise AdarError(
                f"{dataset.folder}: user {user[count == 3][0]} has 3 interactions, of which RecBole "
                "would validate on none; prepare with --core 4"
            )
        position = np.arange(len(rows)) - np.repeat(first, count)
        header = "user_id:token\titem_id:token\ttimestamp:float"
        _write(Path(f"{path}.inter"), header, np.column_stack([rows, position]))
        columns.append("timestamp")
        way, given = {"order": "TO", "split": {"LS": "valid_and_test"}}, {}
    evaluation = {"eval_args": {"mode": "full", "group_by": "user", **way}}
    return {"data_path": str(folder), "load_col": {"inter": columns}, **evaluation, **given}


def training_pairs(train_loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items, by RecBole's ids, that a loader trains on, repeated or not.

    A user's first item is no target of a sequential model, it stands in histories alone.
    """
    features = train_loader._dataset.inter_feat
    user, item = features["user_id"], features["item_id"]
    if "item_id_list" not in features:
        return user, item
    history = features["item_id_list"]
    in_history = user[:, None].expand_as(history)[history > 0]
    return torch.cat([user, in_history]), torch.cat([item, history[history > 0]])


def _write(path: Path, header: str, rows: np.ndarray) -> None:
    np.savetxt(path, rows, fmt="%d", delimiter="\t", header=header, comments="")

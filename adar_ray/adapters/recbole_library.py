"""What RecBole 1.2.1 needs to run in this environment, and our datasets in its format.

RecBole's package demands a Ray from 2023 and other old versions, but runs without them. So it is installed in
two steps:

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
from adar_ray.process import environment_kept

NAME = "adar"  # RecBole's name of the dataset


def import_recbole() -> None:
    """Import RecBole 1.2.1 and make it run with current versions of numpy, scipy and torch.

    Raises:
        AdarError: RecBole, or something that it needs, is not installed.
    """
    # RecBole uses names that numpy 2 and scipy 1.15 have removed.
    for name, same in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if name not in np.__dict__:
            setattr(np, name, same)
    try:
        import recbole.quick_start  # noqa: F401
        from scipy.sparse import dok_matrix
    except ImportError as error:
        raise AdarError(
            f"RecBole cannot be imported ({error}); run pip install 'adar-ray[recbole]' && "
            "pip install --no-deps recbole==1.2.1"
        ) from error
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


@contextlib.contextmanager
def at_home() -> Iterator[Path]:
    """Run RecBole in a temporary folder with the process settings it needs; restore them afterwards."""
    here, arguments, detects_anomalies = Path.cwd(), sys.argv, torch.is_anomaly_enabled()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), environment_kept():
        warnings.simplefilter("ignore")  # pandas and torch warn about how RecBole calls them
        os.chdir(scratch)  # RecBole leaves its TensorBoard files in the working directory
        sys.argv = arguments[:1]  # RecBole would read settings from the arguments
        # RecBole reads back its own checkpoint, with pickled settings in it.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        try:
            yield Path(scratch)
        finally:
            os.chdir(here)
            sys.argv = arguments
            torch.autograd.set_detect_anomaly(detects_anomalies)  # RecBole's trainer turns it on


def write_interactions(dataset: Dataset, folder: Path, sequential: bool) -> dict[str, Any]:
    """Write the dataset in RecBole's format, and return the settings that make RecBole read it.

    A general model gets the split as three files. For a sequential model, RecBole accepts no split without
    ready-made histories. So it gets all interactions, each with its position in the user's history as its
    time, and holds out the last two itself: the same two as ours.

    Raises:
        AdarError: RecBole cannot reproduce the dataset's split.
    """
    protocol = dataset.manifest.split.protocol
    if sequential and protocol != "leave-one-out":
        raise AdarError(
            f"{dataset.folder}: is split by {protocol}, but RecBole's sequential models need leave-one-out; "
            "prepare with --split leave-one-out"
        )
    pairs = {}
    for split in SPLITS:
        if not dataset.rows(split):
            raise AdarError(
                f"{dataset.folder}: has no {split} interactions, but RecBole needs train, valid and test; "
                "prepare with another --split"
            )
        pairs[split] = np.column_stack(dataset.read_split(split))
    (folder / NAME).mkdir(parents=True)
    path = folder / NAME / NAME
    columns = ["user_id", "item_id"]
    if not sequential:
        for split, rows in pairs.items():
            _write(Path(f"{path}.{split}.inter"), "user_id:token\titem_id:token", rows)
        way = {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}}  # the files take precedence
        given = {"benchmark_filename": list(SPLITS)}
    else:
        rows = np.concatenate(list(pairs.values()))
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        user, first, count = np.unique(rows[:, 0], return_index=True, return_counts=True)
        if (count == 3).any():
            raise AdarError(
                f"{dataset.folder}: user {user[count == 3][0]} has 3 interactions, too few for RecBole to "
                "hold one out for validation; prepare with --core 4"
            )
        position = np.arange(len(rows)) - np.repeat(first, count)
        header = "user_id:token\titem_id:token\ttimestamp:float"
        _write(Path(f"{path}.inter"), header, np.column_stack([rows, position]))
        columns.append("timestamp")
        way, given = {"order": "TO", "split": {"LS": "valid_and_test"}}, {}
    evaluation = {"eval_args": {"mode": "full", "group_by": "user", **way}}
    return {"data_path": str(folder), "load_col": {"inter": columns}, **evaluation, **given}


def training_pairs(train_loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items that a loader trains on, by RecBole's ids; pairs may be repeated.

    In a sequential model, a user's first item is never a target: it occurs only in histories.
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

"""`RUN/model/`: a model and everything that it takes to use it, whatever becomes of its dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_safetensors

from adar_ray.config import Config, recorded_config
from adar_ray.custom import is_custom, refuse_foreign_code
from adar_ray.data.dataset import MANIFEST, Dataset
from adar_ray.data.write import copy_interactions
from adar_ray.documents import damaged
from adar_ray.errors import one_line
from adar_ray.storage import Folder
from adar_ray.training.build import is_sequential, reads_features
from adar_ray.training.records import ModelInfo

INFO = "model.json"
WEIGHTS = "weights.safetensors"
_REMEDY = "restore the model, or train again"


@dataclass(frozen=True)
class SavedModel:
    """What a model folder holds.

    Attributes:
        config: of the run.
        dataset: the ids and interactions of the run's dataset.
        weights: of the best epoch.
    """

    config: Config
    dataset: Dataset
    weights: dict[str, torch.Tensor]

    @classmethod
    def open(cls, folder: Folder, *, trust: bool = False) -> SavedModel | None:
        """Opens a model folder; None if the folder is none, or is not complete.

        Args:
            trust: whether code that it names may run.
        """
        if not holds_model(folder):
            return None
        info = read_info(folder)
        origin = f"{folder}/{INFO}"
        config = recorded_config(info.settings, origin)
        refuse_foreign_code(config.component_names(), origin, trust)
        return cls(config, Dataset.open(folder.address, _REMEDY), _read_weights(folder, info))


def holds_model(folder: Folder) -> bool:
    """Whether a folder is a complete model folder."""
    return folder.exists(INFO) and folder.exists(MANIFEST)


def version_of(folder: Folder) -> str:
    """A text that differs for model folders whose content or address differs."""
    records = folder.read_bytes(INFO), folder.read_bytes(MANIFEST)  # with the checksums of everything else
    return hashlib.sha256(b"\0".join([folder.address.encode(), *records])).hexdigest()[:12]


def save_model(folder: Folder, config: Config, dataset: Dataset, weights: bytes) -> None:
    """Writes a model folder; the manifest of the interactions completes it.

    A custom model may build itself from anything in the dataset, so it gets times as well.
    """
    info = ModelInfo(
        settings=config.used(),
        users=dataset.n_users,
        items=dataset.n_items,
        history_length=dataset.sequences.length if is_sequential(config) else None,
        dataset=dataset.name,
        dataset_checksum=dataset.checksum,
        weights=hashlib.sha256(weights).hexdigest(),
    )
    folder.write_bytes(WEIGHTS, weights)
    folder.write_record(INFO, info)
    copy_interactions(
        dataset, folder, with_times=is_custom(config.model.name), with_features=reads_features(config)
    )


def read_info(folder: Folder) -> ModelInfo:
    """What a model folder says of its model."""
    return folder.read_record(INFO, ModelInfo, _REMEDY)


def read_weights(folder: Folder) -> dict[str, torch.Tensor]:
    """The weights in a model folder."""
    return _read_weights(folder, read_info(folder))


def _read_weights(folder: Folder, info: ModelInfo) -> dict[str, torch.Tensor]:
    try:
        return load_tensors(folder.read_bytes(WEIGHTS), info.weights)
    except (OSError, ValueError) as error:
        raise damaged(f"{folder}/{WEIGHTS}", one_line(error, 120), _REMEDY) from error


def load_tensors(content: bytes, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is damaged, or its checksum is another.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("wrong checksum")
    try:
        return load_safetensors(content)
    except Exception as error:  # torch raises others than SafetensorError for types that it does not know
        raise ValueError(one_line(error)) from error

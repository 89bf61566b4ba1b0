"""Finds the model behind an address: a run's, a copy of one, or the published one."""

from __future__ import annotations

from pathlib import Path

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.published import Published
from adar_ray.training.run import MODEL, Run
from adar_ray.training.saved_model import SavedModel, holds_model


def find_model(run: str | Path | Run, data: str | Path | None = None, *, trust: bool = False) -> SavedModel:
    """The best model of a run, or of a copy of its `model/`, or the published one of a folder.

    Args:
        data: where the run's dataset is now, if the model needs it and it has moved. A finished run has all
            it needs in its `model/`; an unfinished one needs it.
        trust: whether custom components that the folder names may run. A `Run` knows it by itself.

    Raises:
        AdarError: it is none of these, or what is published is gone, or the dataset is not there or has
            changed since training.
    """
    trust = run.trust if isinstance(run, Run) else trust
    folder = model_folder(run)
    if data is None:
        if folder is not None and (saved := SavedModel.open(folder, trust=trust)):
            return saved
    elif not isinstance(run, Run) and folder not in (None, Folder.at(run).folder(MODEL)):
        raise AdarError(f"{run}: is a model without its run, and has what it needs; leave out --data")
    run = Run.open(run, trust=trust)
    return SavedModel(run.config, run.dataset(data), run.weights())


def model_folder(run: str | Path | Run) -> Folder | None:
    """The folder of a finished model; None if there is none.

    Raises:
        AdarError: a model is published, but its folder holds none.
    """
    folder = run.folder if isinstance(run, Run) else Folder.at(run)
    for place in (folder, folder.folder(MODEL)):
        if holds_model(place):
            return place
    published = Published(folder).model()
    if published is not None and not holds_model(published):
        raise AdarError(
            f"{published}: is published, but holds no model; restore it, or publish a run with --force"
        )
    return published

"""The model that answers requests, and each that takes its place.

Legend: N items or users, D dimensions.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.errors import AdarError, error_line
from adar_ray.inference.model import TrainedModel
from adar_ray.inference.new_items import NoFeaturesError, read_new_items
from adar_ray.inference.recommender import Recommender, Shortlist
from adar_ray.storage import Folder
from adar_ray.training.find_model import find_model, model_folder
from adar_ray.training.saved_model import version_of

LOOK_SECONDS = 2.0
MOST_EXACT = 200_000
"""Vectors up to which a shortlist is exact: one core takes about 11 ms for that many of 64 dimensions."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A loaded model.

    Attributes:
        name: differs from that of any other model.
    """

    name: str
    recommender: Recommender


class ServedModel:
    """The model in a folder. While it is followed, another that is put there takes its place.

    Whoever has taken `current` keeps that version for as long as needed.

    Args:
        address: a run, a copy of its `model/`, or what `publish` fills.
        new_items: a file of items that were not there in training, with their features. It is read with each
            model. One that knows items by their ids alone is served without.
        trust: whether custom components that the folder names may run.

    Attributes:
        current: the loaded model.
        problem: why the model that is now in the folder is not the loaded one; None if it is.

    Raises:
        AdarError: there is no model, or it is damaged, or the new items cannot be read.
    """

    def __init__(self, address: str, *, new_items: str | None = None, trust: bool = False) -> None:
        self._address, self._new_items, self._trust = address, new_items, trust
        self.current = self._load(*self._found())
        self.problem: str | None = None

    def look(self) -> None:
        """Loads the model that is in the folder, unless it is loaded."""
        try:
            name, folder = self._found()
            if name != self.current.name:
                self.current = self._load(name, folder)
                logger.warning("%s: now serves model %s", self._address, name)
            self.problem = None
        except Exception as error:  # whatever is wrong with the new one, the old one goes on
            problem = error_line(error)
            if problem != self.problem:
                logger.warning("%s; still serves model %s", problem, self.current.name)
            self.problem = problem

    def follow(self, ended: threading.Event) -> None:
        """Looks every few seconds, in a thread, until the event is set."""

        def look_on() -> None:
            while not ended.wait(LOOK_SECONDS):
                self.look()

        threading.Thread(target=look_on, daemon=True).start()

    def _found(self) -> tuple[str, Folder]:
        """The name of the model that is at the address now, and its folder."""
        folder = _folder(self._address)
        return version_of(folder), folder

    def _load(self, name: str, folder: Folder) -> Version:
        # Not from the address: another model may have been published there meanwhile.
        try:
            trained = TrainedModel.load(folder.address, new_items=self._new_items, trust=self._trust)
        except NoFeaturesError as error:
            logger.warning("%s; served without them", error)
            trained = TrainedModel.load(folder.address, trust=self._trust)
        if version_of(folder) != name:
            raise AdarError(f"{folder}: another model was put there while this one was read; try again")
        recommender = Recommender(trained, shortlists)
        for note in [] if trained.new_items is None else trained.new_items.notes():
            logger.warning("note: %s", note)
        # What questions share is computed now, not when somebody waits for an answer.
        item = trained.dataset.item_keys()[0].as_py()
        user = trained.dataset.user_keys()[0].as_py()
        recommender.recommend(user, 1)
        recommender.recommend(k=1, history=[item])
        recommender.similar_items(item, 1)
        recommender.similar_users(user, 1)
        return Version(name, recommender)


def check_model(address: str, *, new_items: str | None = None, trust: bool = False) -> list[str]:
    """Refuses what cannot be served, without taking the time to build the model.

    Returns:
        What people should know about the new items.

    Raises:
        AdarError: there is no model, or it is damaged, or it cannot take new items.
    """
    _folder(address)
    saved = find_model(address, trust=trust)
    if new_items is None:
        return []
    return read_new_items(new_items, saved.config, saved.dataset).notes()


def _folder(address: str) -> Folder:
    folder = model_folder(address)
    if folder is None:
        raise AdarError(
            f"{address}: holds no model; give a finished run, a copy of its model/, or what `publish` fills"
        )
    return folder


def _best(score_N: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the highest scores, in ascending order, with all that equal the lowest but for rounding."""
    least = torch.topk(score_N, count).values[-1] - 1e-5 * score_N.abs().max()
    return (score_N >= least).nonzero()[:, 0]


def shortlists(vector_ND: torch.Tensor) -> Shortlist:
    """Shortlists of these vectors: exact, or of very many by FAISS, in half precision.

    A product for a single user takes the time in which the vectors are read. Half precision halves it, and a
    list with some to spare still lacks none of the best in practice.
    """
    N = len(vector_ND)
    if N <= MOST_EXACT:
        return lambda vector_D, count: _best(vector_ND @ vector_D, min(count, N))

    import faiss

    index = faiss.index_factory(vector_ND.shape[1], "SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.add(vector_ND.numpy())

    def search(vector_D: torch.Tensor, count: int) -> torch.Tensor:
        _, number_1N = index.search(vector_D[None].numpy(), min(count, N))
        return torch.from_numpy(np.sort(number_1N[0]))

    return search

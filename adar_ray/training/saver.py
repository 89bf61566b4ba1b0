"""Saves epochs while the next one trains.

Legend: S bytes of a worker's part of a checkpoint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save as save_safetensors

from adar_ray.training.records import EpochRecord, TrainingState
from adar_ray.training.run import Run


class Saver:
    """Saves the epochs of a run, one at a time: copies a worker's part, and writes the copy in a thread.

    An epoch is saved once all workers have written their parts and worker 0 the epoch's metrics and, last,
    that the checkpoint counts. Whatever is cut off before that is as if the epoch had not been trained.

    Leaving the context waits for an epoch that is still being written. Of several workers none waits, because
    those that it would wait for may have failed.

    Args:
        rank, size: this worker, and how many there are. All of them make their savers at the same time.
        parts: of the checkpoint that training goes on from (see `TrainingState`).
    """

    def __init__(self, run: Run, rank: int, size: int, parts: dict[int, list[str]]) -> None:
        self._run, self._rank, self._size, self._parts = run, rank, size, parts
        self._copy_S = torch.empty(0, dtype=torch.uint8)
        self._saving: Future[EpochRecord] | None = None
        # Threads have to agree without coming between what the training steps exchange.
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        if self._saving is not None and self._size == 1:
            wait([self._saving])

    def start(self, state: TrainingState, record: EpochRecord, part: Mapping[str, torch.Tensor]) -> None:
        """Copies `part` and begins to save the epoch. `saved` must have returned the one before.

        Args:
            part: what this worker has to save, on any device. It may change once this returns.
        """
        assert self._saving is None
        saving: Future[EpochRecord] = Future()
        state, content = state.model_copy(), self._copy(part)

        def save() -> None:
            try:
                self._save(state, record, content)
                saving.set_result(record)
            except BaseException as error:
                saving.set_exception(error)

        threading.Thread(target=save, name="saver", daemon=True).start()
        self._saving = saving

    def saved(self, *, waits: bool) -> EpochRecord | None:
        """The epoch that has been saved since this was last asked; None if there is none.

        Args:
            waits: whether to wait for an epoch that is being written.

        Raises:
            AdarError, OSError: it could not be saved.
        """
        saving = self._saving
        if saving is None or not (waits or saving.done()):
            return None
        record = saving.result()
        self._saving = None
        return record

    def _copy(self, part: Mapping[str, torch.Tensor]) -> memoryview:
        """The bytes of the safetensors file that holds `part`.

        They are in memory of the saver's own: to get fresh memory takes longer than to copy.
        """
        head, places = _layout(part)
        size = len(head) + max((end for _, end in places.values()), default=0)
        if len(self._copy_S) != size:
            self._copy_S = torch.empty(size, dtype=torch.uint8)
        self._copy_S[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        data_S = self._copy_S[len(head) :]
        for name, (start, end) in places.items():
            data_S[start:end].view(part[name].dtype).view(part[name].shape).copy_(part[name])
        return self._copy_S.numpy().data

    def _save(self, state: TrainingState, record: EpochRecord, content: memoryview) -> None:
        digest = self._run.write_part(state.epoch, self._rank, self._size, content)
        parts = self._of_all_workers(digest)  # once all of them have written
        state.parts = {
            epoch: parts if epoch == state.epoch else self._parts[epoch]
            for epoch in (state.best_epoch, state.epoch)
        }
        if self._rank == 0:
            self._run.write_epochs([*self._run.epochs(), record])
            self._run.commit_checkpoint(state)
        if self._group is not None:
            dist.barrier(self._group)
        self._parts = state.parts

    def _of_all_workers(self, digest: bytes) -> list[str]:
        if self._group is None:
            return [digest.hex()]
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        gathered = [torch.empty_like(own) for _ in range(self._size)]
        dist.all_gather(gathered, own, self._group)
        return [bytes(other.tolist()).hex() for other in gathered]


def _layout(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """What a safetensors file of these tensors begins with, and where in the bytes that follow each one is.

    The format: https://huggingface.co/docs/safetensors/index#format.
    """
    # The library names the types, and orders tensors so that each is aligned.
    empty = {name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()}
    entries: dict[str, dict[str, Any]] = json.loads(save_safetensors(empty)[8:])
    places, end = {}, 0
    for name, entry in entries.items():
        start, end = end, end + tensors[name].nbytes
        places[name] = (start, end)
        entry |= {"shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places

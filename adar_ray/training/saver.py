"""Saves checkpoints while training goes on.

Legend: S bytes of a worker's part of a checkpoint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save as save_safetensors

from adar_ray.training.records import EpochRecord, TrainingState
from adar_ray.training.run import Run


class Saver:
    """Saves checkpoints of a run, one at a time: copies a worker's part, and writes the copy in a thread.

    A checkpoint is saved once all workers have written their parts and worker 0 the epoch's metrics, if it
    ends one, and last that the checkpoint counts. Whatever is cut off before that is as if it had not been
    trained.

    Leaving the context waits for a checkpoint that is still being written. Of several workers none waits,
    because those that it would wait for may have failed.

    Args:
        rank, size: this worker, and how many there are. All of them make their savers at the same time.
    """

    def __init__(self, run: Run, rank: int, size: int) -> None:
        self._run, self._rank, self._size = run, rank, size
        self._copy_S = torch.empty(0, dtype=torch.uint8)
        self._saving: Future[EpochRecord | None] | None = None
        # Threads have to agree without coming between what the training steps exchange.
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        if self._saving is not None and self._size == 1:
            wait([self._saving])

    def start(
        self,
        state: TrainingState,
        record: EpochRecord | None,
        part: Mapping[str, torch.Tensor],
        sums: Sequence[float] = (),
    ) -> None:
        """Copies `part` and begins to save it. `saved` must have told of the checkpoint before.

        Args:
            record: of the epoch that this ends; None within an epoch.
            part: what this worker has to save, on any device. It may change once this returns.
            sums: the worker's own, over the steps of the epoch under way.
        """
        assert self._saving is None
        saving: Future[EpochRecord | None] = Future()
        state, content = state.model_copy(), self._copy(part)

        def save() -> None:
            try:
                self._save(state, record, content, sums)
                saving.set_result(record)
            except BaseException as error:
                saving.set_exception(error)

        threading.Thread(target=save, name="saver", daemon=True).start()
        self._saving = saving

    def saved(self, *, waits: bool) -> EpochRecord | None:
        """The epoch that has been saved since this was last asked; None if there is none.

        Args:
            waits: whether to wait for a checkpoint that is being written.

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

    def _save(
        self, state: TrainingState, record: EpochRecord | None, content: memoryview, sums: Sequence[float]
    ) -> None:
        digest = self._run.write_part(state.place, self._rank, self._size, content)
        own = bytes.fromhex(digest) + np.array(sums, dtype=np.float64).tobytes()
        of_all = self._gathered(own)  # once all of them have written
        state.files = [each[: len(digest) // 2].hex() for each in of_all]
        state.sums = [np.frombuffer(each[len(digest) // 2 :]).tolist() for each in of_all]
        if self._rank == 0:
            if record is not None:
                self._run.write_epochs([*self._run.epochs(), record])
            self._run.commit_checkpoint(state)
        if self._group is not None:
            dist.barrier(self._group)

    def _gathered(self, own: bytes) -> list[bytes]:
        """What all workers have, equally long."""
        if self._group is None:
            return [own]
        part = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        parts = [torch.empty_like(part) for _ in range(self._size)]
        dist.all_gather(parts, part, self._group)
        return [each.numpy().tobytes() for each in parts]


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

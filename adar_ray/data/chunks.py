"""One worker's rows of a dataset, chunk by chunk: from memory, or read again each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.data.lanes import lane_range
from adar_ray.data.manifest import number_of
from adar_ray.data.order import Rows, arrange, shard_order
from adar_ray.storage import FileEntry


class WorkerRows:
    """The rows of one worker's lanes. Travels to the tasks that read them.

    Args:
        kind: `train` or `SEQUENCES`.
        by_shard: the rows by name of their shard, if they are in memory; None if they are to be read again
            each epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        kind: str,
        seed: int,
        worker: int,
        workers: int,
        by_shard: Mapping[str, Rows] | None = None,
    ) -> None:
        self.dataset, self.kind, self.seed = dataset, kind, seed
        self.worker, self.workers, self.by_shard = worker, workers, by_shard
        self.users = dataset.user_range(worker, workers)
        self._shards = dataset.shards_of(kind, worker, workers)
        lanes = np.concatenate([[0], np.cumsum(dataset.lanes.users)])
        self.first_lane, last = lane_range(worker, workers, len(lanes) - 1)
        self.bounds = lanes[self.first_lane : last + 1]

    @cached_property
    def _groups(self) -> list[list[FileEntry]]:
        """The shards of each group of lanes, in order of the lanes."""
        groups: dict[int, list[FileEntry]] = {}
        for shard in self._shards:
            groups.setdefault(number_of(shard) % self.dataset.lanes.groups, []).append(shard)
        return [groups[number] for number in sorted(groups)]

    @property
    def chunks(self) -> int:
        """The number of chunks of an epoch."""
        return max(map(len, self._groups), default=0)

    def chunk(self, epoch: int, chunk: int) -> Rows:
        """One chunk of an epoch: a shard of every group of lanes that still has one."""
        parts = []
        for shards in self._groups:
            if chunk >= len(shards):
                continue
            group = number_of(shards[0]) % self.dataset.lanes.groups
            shard = shards[shard_order(len(shards), self.seed, epoch, group)[chunk]]
            parts.append(
                arrange(*self._read(shard), self.bounds, self.first_lane, self.seed, epoch, number_of(shard))
            )
        user, item = (np.concatenate(part) for part in zip(*parts, strict=True))
        return user, item

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """All chunks of an epoch, in order."""
        return (self.chunk(epoch, chunk) for chunk in range(self.chunks))

    def all_rows(self) -> Rows:
        """All rows at once, in order of the shards."""
        parts = [self._read(shard) for shard in self._shards]
        if not parts:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        user, item = (np.concatenate(part) for part in zip(*parts, strict=True))
        return user, item

    def all_weights(self) -> np.ndarray:
        """The weights of `all_rows`, of a dataset that has weights."""
        parts = (self.dataset.read_weights(shard, self.users) for shard in self._shards)
        return np.concatenate([np.empty(0, np.float32), *parts])

    def _read(self, shard: FileEntry) -> Rows:
        if self.by_shard is not None:
            return self.by_shard[shard.name]
        read = self.dataset.read_sequences if self.kind == SEQUENCES else self.dataset.read_shard
        return read(shard, self.users)

    def kept(self) -> WorkerRows:
        """The same rows, in memory from now on."""
        rows = {shard.name: self._read(shard) for shard in self._shards}
        return WorkerRows(self.dataset, self.kind, self.seed, self.worker, self.workers, rows)

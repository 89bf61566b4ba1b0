"""What workers tell each other, against plain indexing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import get_context, start_processes

from adar_ray import distributed
from adar_ray.distributed import gather_rows

PARTS = [slice(0, 4), slice(4, 4), slice(4, 7)]  # unequally many rows, and none
ROWS = {
    "ids": torch.arange(7) * 3 - 5,
    "vectors": torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "flags": torch.arange(7) % 3 == 0,
}


def work(rank: int, folder: str) -> None:
    """One of several workers, with its part of the rows, whose gradients it asks for where there are any."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(PARTS))
    parts = {name: rows[PARTS[rank]] for name, rows in ROWS.items()}
    parts["vectors"].requires_grad_()
    torch.save({name: gather_rows(part) for name, part in parts.items()}, Path(folder, str(rank)))
    dist.destroy_process_group()


def test_every_worker_gets_the_rows_of_all_in_order(tmp_path: Path) -> None:
    get_context("forkserver").set_forkserver_preload([distributed.__name__])
    start_processes(work, (str(tmp_path),), len(PARTS), start_method="forkserver")
    for rank in range(len(PARTS)):
        gathered = torch.load(tmp_path / str(rank))
        for name, rows in ROWS.items():
            assert torch.equal(gathered[name], rows)
            assert not gathered[name].requires_grad


@pytest.mark.parametrize("name", ROWS)
def test_a_worker_alone_has_all_rows(name: str) -> None:
    assert torch.equal(gather_rows(ROWS[name]), ROWS[name])


def test_rows_are_gathered_without_gradients_however_many_workers_there_are() -> None:
    assert not gather_rows(ROWS["vectors"].clone().requires_grad_()).requires_grad

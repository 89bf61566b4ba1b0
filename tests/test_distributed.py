"""What workers tell each other, against plain indexing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from adar_ray import distributed
from adar_ray.distributed import (
    exchange,
    gather_rows,
    gather_rows_with_gradients,
    memory_shared,
    share,
    sum_over_workers,
    wait_for_all,
)
from tests.processes import run_in_processes

PARTS = [slice(0, 4), slice(4, 4), slice(4, 7)]  # unequally many rows, and none
ROWS = {
    "ids": torch.arange(7) * 3 - 5,
    "vectors": torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "flags": torch.arange(7) % 3 == 0,
}


SUMS = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
CALLS = 5  # more than a slot of shared memory lasts


def work(rank: int, folder: str, shares_memory: bool) -> None:
    """One of several workers, with its part of the rows, whose gradients it asks for where there are any."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(PARTS))
    with memory_shared() if shares_memory else contextlib.nullcontext():
        assert (distributed._memory is not None) == shares_memory
        torch.save([everything(rank, call) for call in range(CALLS)], Path(folder, str(rank)))
    dist.destroy_process_group()


def everything(rank: int, call: int) -> dict[str, Any]:
    """What the worker gets from each function."""
    parts = {name: rows[PARTS[rank]] for name, rows in ROWS.items()}
    parts["vectors"].requires_grad_()
    gathered = {name: gather_rows(part) for name, part in parts.items()}
    # Worker w is sent as many rows as its number, of what is told apart by sender and receiver.
    sent = [
        (torch.full((w,), call * 100 + rank * 10 + w), torch.full((w + 1, 2), float(rank)))
        for w in range(len(PARTS))
    ]
    received = [[tensor.clone() for tensor in tensors] for tensors in exchange(sent)]
    leaf = torch.arange(2.0 * (rank + 1)).view(-1, 2).requires_grad_()
    (gather_rows_with_gradients(leaf) * (rank + 1)).sum().backward()
    one, pair = SUMS[rank].clone(), [SUMS[rank].clone().T, SUMS[rank][:1].clone()]
    sum_over_workers([one])
    sum_over_workers(pair)
    table = torch.full((4, 2), 7.0)
    if share(table):
        table[rank] = rank  # which the others see
        wait_for_all()
    return {
        "gathered": gathered,
        "received": received,
        "gradient": leaf.grad,
        "sums": [one, *pair],
        "table": table.clone(),
    }


@pytest.mark.parametrize("shares_memory", [False, True])
def test_what_workers_tell_each_other(tmp_path: Path, shares_memory: bool) -> None:
    run_in_processes(work, len(PARTS), str(tmp_path), shares_memory)
    total = sum(tensor.double() for tensor in SUMS)
    answers = [torch.load(tmp_path / str(rank)) for rank in range(len(PARTS))]
    for rank, calls in enumerate(answers):
        for call, answer in enumerate(calls):
            for name, rows in ROWS.items():
                assert torch.equal(answer["gathered"][name], rows)
                assert not answer["gathered"][name].requires_grad
            for sender, (numbers, vectors) in enumerate(answer["received"]):
                assert numbers.tolist() == [call * 100 + sender * 10 + rank] * rank
                assert torch.equal(vectors, torch.full((rank + 1, 2), float(sender)))
            assert torch.equal(answer["gradient"], torch.full((rank + 1, 2), 6.0))  # 1 + 2 + 3
            for ours, expected in zip(answer["sums"], (total, total.T, total[:1]), strict=True):
                torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6)
            for ours, first in zip(answer["sums"], answers[0][call]["sums"], strict=True):
                assert torch.equal(ours, first)  # workers may not drift apart
            if shares_memory:
                assert answer["table"].tolist() == [[0, 0], [1, 1], [2, 2], [7, 7]]
            else:
                assert answer["table"].tolist() == [[7, 7]] * 4


def leave(rank: int, folder: str) -> None:
    """Worker 1 goes; the others wait for what it never sends."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=3)
    with memory_shared():
        if rank == 1:
            os._exit(0)
        try:
            gather_rows(torch.zeros(1))
        except ConnectionError as error:
            Path(folder, str(rank)).write_text(str(error))
        os._exit(0)


def test_a_worker_that_is_gone_is_named(tmp_path: Path) -> None:
    run_in_processes(leave, 3, str(tmp_path))
    for rank in (0, 2):
        assert (tmp_path / str(rank)).read_text() in ("worker 1 is gone", f"worker {2 - rank} is gone")


@pytest.mark.parametrize("name", ROWS)
def test_a_worker_alone_has_all_rows(name: str) -> None:
    assert torch.equal(gather_rows(ROWS[name]), ROWS[name])


def test_rows_are_gathered_without_gradients_however_many_workers_there_are() -> None:
    assert not gather_rows(ROWS["vectors"].clone().requires_grad_()).requires_grad

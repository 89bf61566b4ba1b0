"""Tables that workers share out: their rows, look-ups and rankings are those of whole tables.

Legend: R rows of a table, D dimensions.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from adar_ray.component import ModelInputs
from adar_ray.config import load_config
from adar_ray.distributed import memory_shared
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import MF, SASRec, table
from adar_ray.models.sasrec import SASRecSettings
from adar_ray.models.table import Table, TablePairs, is_sharded
from adar_ray.ranking import top_items as ranking
from adar_ray.ranking.top_items import TILE, top_items
from adar_ray.registry import MODELS, SAMPLERS
from adar_ray.training.build import build_loss, build_samplers
from adar_ray.training.optimizer import Adam
from adar_ray.training.step import TrainingStep
from tests.processes import run_in_processes

WORKERS, DIM, BLOCK = 3, 5, 32
SIZES = [1, 2, 3, 7, BLOCK, BLOCK + 15, BLOCK + 16, 3 * BLOCK + 1]
FILLS = {
    "uniform": lambda rows: rows.uniform_(-1, 1),
    "normal": lambda rows: rows.normal_(std=0.1),
}
ITEMS, LENGTH = 700, 4
# Of each worker: some have more tiles of users than others, or none.
USERS = {"mf": [2 * TILE + 3, 0, 7], "sasrec": [5, TILE + 1, 0]}


def filled(rows: int, fill: str, sharded: bool) -> Table:
    torch.manual_seed(rows)
    made = Table(rows, DIM, sharded=sharded)
    made.draw(FILLS[fill])
    return made


def asked(worker: int, rows: int) -> list[torch.Tensor]:
    """Rows that a worker looks up, several times and of any shape: a third of them, none, and all."""
    draw = torch.Generator().manual_seed(worker)
    shapes = [[(4, 3), (2,), ()], [(0,), (0, 2), ()], [(2, rows), (3, 1, 2), ()]][worker]
    return [torch.randint(rows, shape, generator=draw) for shape in shapes]


def ranked(kind: str, worker: int, sharded: bool) -> list[tuple[torch.Tensor, ...]]:
    """The top items of a worker's users."""
    torch.manual_seed(7)
    n_users, draw = USERS[kind][worker], torch.Generator().manual_seed(worker)
    if kind == "mf":
        model: nn.Module = MF(n_users, ITEMS, DIM, sharded=sharded)
        nn.init.normal_(model.user.weight, generator=draw)
    else:
        model = SASRec(ITEMS, LENGTH, 8, SASRecSettings(layers=1), sharded=sharded)
    user = torch.arange(n_users).repeat_interleave(6)
    item = torch.randint(ITEMS, (len(user),), generator=draw)
    seen = UserItems(user, item, n_users, ITEMS)
    history = Histories(user, item, n_users, LENGTH) if kind == "sasrec" else None
    return list(top_items(model.eval(), torch.arange(n_users), seen, 9, ITEMS, history))


def work(worker: int, folder: str, shares_memory: bool) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=worker, world_size=WORKERS)
    table._BLOCK, ranking.CHUNK = BLOCK, 256
    answers: dict[str, Any] = {}
    with memory_shared() if shares_memory else contextlib.nullcontext():
        for fill in FILLS:
            for rows in SIZES:
                made = filled(rows, fill, sharded=True)
                found = [made(row) for row in asked(worker, rows)]
                answers[f"{fill} {rows}"] = made.weight.detach(), found
        for kind in USERS:
            answers[kind] = ranked(kind, worker, sharded=True)
        adam = Adam(filled(90, "normal", sharded=True), lr=0.1)
        answers["held"] = sum(tensor.untyped_storage().nbytes() for tensor in adam.tensors().values())
    torch.save(answers, Path(folder, str(worker)))
    dist.destroy_process_group()


@pytest.mark.parametrize("shares_memory", [False, True])
def test_workers_with_a_share_each_find_what_one_with_the_whole_table_does(
    tmp_path: Path, shares_memory: bool
) -> None:
    run_in_processes(work, WORKERS, str(tmp_path), shares_memory)
    for worker in range(WORKERS):
        answers = torch.load(tmp_path / str(worker))
        for fill in FILLS:
            for rows in SIZES:
                whole_RD = filled(rows, fill, sharded=False).weight
                held, found = answers[f"{fill} {rows}"]
                assert torch.equal(held, whole_RD[worker::WORKERS])
                for row, vector in zip(asked(worker, rows), found, strict=True):
                    assert torch.equal(vector, whole_RD[row])
        for kind in USERS:
            expected = ranked(kind, worker, sharded=False)
            for ours, theirs in zip(answers[kind], expected, strict=True):
                for mine, other in zip(ours, theirs, strict=True):
                    # Matrix products of other sizes round scores in another way; users and items are exact.
                    torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)
        assert answers["held"] == 2 * 30 * DIM * 4  # two moments of a third of 90 rows


# Look-ups are calls that all workers make together, with rows of the batch or without.

EVERYONE, CATALOG = 12, 40
SHARDING = [name for name, model in MODELS.items() if model.shards_items]
SMALL = ["adar.pool=30", "adar.candidates=2", "adar.gamma=0.5", "sampled_softmax.shared_negatives=20"]


def look_ups(rows: int, *settings: str) -> int:
    """How many look-ups of items a step with so many rows of the batch makes."""
    config = load_config(settings=[*SMALL, *settings])
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(EVERYONE, (90,), generator=draw), torch.randint(CATALOG, (90,), generator=draw)
    seen = UserItems(*pairs, EVERYONE, CATALOG)
    component = MODELS[config.model.name]
    model: Any = component.build(
        ModelInputs(seen, 8, config.model.cosine, LENGTH), config.settings_of(component.name)
    )
    model.item.is_sharded = True  # among one worker
    samplers = build_samplers(config, model, seen)
    optimizer = Adam(nn.ModuleDict({"model": model, "samplers": samplers}), 0.1)
    step = TrainingStep(
        config, model, build_loss(config, seen.n_items), samplers, seen, seen.item_counts(), LENGTH
    )
    calls: list[torch.Tensor] = []
    look_up = model.item.look_up
    model.item.look_up = lambda row: calls.append(row) or look_up(row)
    user, item = (column[:rows] for column in seen.pairs())
    if component.is_sequential:
        item = torch.randint(CATALOG, (rows, LENGTH + 1), generator=draw)
    loss, _ = step(user, item, torch.arange(rows), (0, 1, 2))
    loss.backward()
    optimizer.step()
    return len(calls)


@pytest.mark.parametrize("loss", ["bpr", "bce", "sampled_softmax"])
@pytest.mark.parametrize("model", SHARDING)
@pytest.mark.parametrize("sampler", [name for name, known in SAMPLERS.items() if not known.takes_all_items])
def test_a_worker_without_rows_makes_as_many_look_ups_as_the_others(model, sampler, loss):
    for cosine in [False, True] if MODELS[model].has_cosine else [False]:
        settings = (
            f"model.name={model}",
            f"sampler.name={sampler}",
            f"loss.name={loss}",
            f"model.cosine={cosine}",
        )
        assert look_ups(0, *settings) == look_ups(7, *settings) > 0


@pytest.mark.parametrize("noise", ["catalog", "isotropic"])
@pytest.mark.parametrize("l2", [0, 0.1])
def test_adar_makes_as_many_look_ups_whatever_its_settings(noise, l2):
    for model in ("mf", "neumf"):
        settings = f"model.name={model}", f"adar.noise={noise}", f"loss.l2={l2}"
        assert look_ups(0, *settings) == look_ups(7, *settings)


def test_a_sharded_table_is_no_factor_of_pairs_and_tells_what_needs_to_know():
    model = MF(3, 4, DIM)
    Adam(model, 0.1)
    assert TablePairs.of(model.user, model.item)
    assert not is_sharded(model)
    model.item.is_sharded = True
    assert TablePairs.of(model.user, model.item) is None
    assert is_sharded(model)

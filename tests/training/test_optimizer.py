"""Adam by rows and for whole parameters, against torch's; and over several processes, against one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from adar_ray.distributed import memory_shared
from adar_ray.models.table import Table
from adar_ray.training.optimizer import Adam
from tests.processes import run_in_processes

USERS, ITEMS, DIM, STEPS = 7, 9, 5, 4
OPTIONS = {"clip": 0.5, "weight_decay": 0.3}


class Net(nn.Module):
    """Tables of users and items, and a layer."""

    def __init__(
        self,
        table: type[nn.Embedding] = Table,
        users: slice = slice(USERS),
        items: slice = slice(None),
        **options: bool,
    ) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        user_UD = torch.randn(USERS, DIM, generator=draw)[users]
        item_ID = torch.randn(ITEMS, DIM, generator=draw)[items]
        self.user = table(len(user_UD), DIM, **options)
        self.item = Table(ITEMS, DIM, sharded=True) if items != slice(None) else table(ITEMS, DIM, **options)
        self.layer = nn.Linear(DIM, DIM)
        with torch.no_grad():
            self.user.weight.copy_(user_UD)
            self.item.weight.copy_(item_ID)
            for weight in (self.layer.weight, self.layer.bias):
                weight.copy_(torch.randn(weight.shape, generator=draw))

    def loss(self, user_B: torch.Tensor, item_B: torch.Tensor) -> torch.Tensor:
        score_B = (self.layer(self.user(user_B)) * self.item(item_B)).sum(1)
        return nn.functional.softplus(-score_B).sum()


def rows_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randint(USERS, (6,), generator=draw), torch.randint(ITEMS, (6,), generator=draw)


def train(model: Net, ours: Adam, steps: int = STEPS) -> dict[str, torch.Tensor]:
    for step in range(steps):
        ours.zero_grad()
        model.loss(*(column.clone() for column in rows_of(step))).backward()
        ours.step()
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "plain"])
def test_tables_are_trained_like_sparse_adam_and_all_else_like_adam(dtype):
    model = Net().to(dtype)
    trained = train(model, Adam(model, 0.05))
    theirs = Net(nn.Embedding, sparse=True).double()
    optimizers = [
        torch.optim.SparseAdam([theirs.user.weight, theirs.item.weight], lr=0.05),
        torch.optim.Adam(theirs.layer.parameters(), lr=0.05),
    ]
    for step in range(STEPS):
        theirs.zero_grad()
        theirs.loss(*rows_of(step)).backward()
        for one in optimizers:
            one.step()
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(trained[name].double(), weight.detach(), rtol=1e-4, atol=1e-5)


def test_without_rows_all_parameters_are_trained_like_adam():
    model, theirs = Net(), Net(nn.Embedding)
    trained = train(model, Adam(model, 0.05, by_rows=False))
    adam = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for step in range(STEPS):
        adam.zero_grad()
        theirs.loss(*rows_of(step)).backward()
        adam.step()
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(trained[name], weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "plain"])
def test_steps_that_use_all_rows_are_clipped_and_decay_like_torchs(dtype):
    model, theirs = Net().to(dtype), Net(nn.Embedding).double()
    ours = Adam(model, 0.05, **OPTIONS)
    weights = [theirs.user.weight, theirs.item.weight, theirs.layer.weight]
    groups = [{"params": weights}, {"params": [theirs.layer.bias], "weight_decay": 0}]
    adam_w = torch.optim.AdamW(groups, lr=0.05, weight_decay=OPTIONS["weight_decay"])
    user_B, item_B = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    for _ in range(STEPS):
        ours.zero_grad()
        model.loss(user_B, item_B).backward()
        ours.step()
        adam_w.zero_grad()
        theirs.loss(user_B, item_B).backward()
        assert nn.utils.clip_grad_norm_(theirs.parameters(), OPTIONS["clip"]) > OPTIONS["clip"]
        adam_w.step()
    for weight, expected in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_below_the_limit_stay_as_they_are():
    first, second = Net(), Net()
    expected = train(first, Adam(first, 0.05))
    for name, weight in train(second, Adam(second, 0.05, clip=1e3)).items():
        assert torch.equal(weight, expected[name])


def test_forgotten_gradients_move_nothing():
    model = Net()
    before, adam = [weight.detach().clone() for weight in model.parameters()], Adam(model, 0.05)
    model.loss(*rows_of(0)).backward()
    adam.zero_grad()
    adam.step()
    assert all(map(torch.equal, before, model.parameters()))


def test_a_table_used_as_a_whole_and_by_row_makes_one_step_of_all_its_rows():
    """As in a graph model, whose propagation uses the whole table and whose L2 penalty some rows."""
    weights = []
    for table in (Table, nn.Embedding):
        model = Net(table)
        adam = Adam(model, 0.05) if table is Table else torch.optim.Adam(model.parameters(), lr=0.05)
        for step in range(STEPS):
            adam.zero_grad()
            (
                model.loss(*rows_of(step)) + sum(weight.pow(2).sum() for weight in model.parameters())
            ).backward()
            adam.step()
        weights.append([weight.detach() for weight in model.parameters()])
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_what_has_no_gradient_stays_as_it_is(weight_decay):
    model = Net()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adam = Adam(model, 0.05, weight_decay=weight_decay)
    model.loss(torch.tensor([2]), torch.tensor([3])).backward()
    adam.step()
    for name, row in (("user.weight", 2), ("item.weight", 3)):
        changed = (model.get_parameter(name) != before[name]).any(1).nonzero()[:, 0].tolist()
        assert changed == [row]
    adam.zero_grad()
    bias = model.layer.bias.detach().clone()
    adam.step()
    assert torch.equal(model.layer.bias, bias)


def test_moments_and_steps_are_all_that_an_optimizer_remembers():
    whole, model = Net(), Net()
    straight = train(whole, Adam(whole, 0.05), 4)
    first = Adam(model, 0.05)
    train(model, first, 2)
    second = Adam(model, 0.05)
    assert sorted(second.tensors()) == sorted(
        f"{moment}:{name}" for moment in ("mean", "square") for name, _ in model.named_parameters()
    )
    for name, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[name])
    second.steps = first.steps
    for step in (2, 3):
        second.zero_grad()
        model.loss(*rows_of(step)).backward()
        second.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, straight[name])


PARTS = [slice(0, 3), slice(3, 3), slice(3, USERS)]  # the users of each process; one has none


def work(rank: int, folder: str, shares_memory: bool, sharded: bool) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(PARTS))
    mine = PARTS[rank]
    with memory_shared() if shares_memory else contextlib.nullcontext():
        model = Net(users=mine, items=slice(rank, None, len(PARTS)) if sharded else slice(None))
        adam = Adam(model, 0.05, own=["user.weight"], **OPTIONS)
        for step in range(STEPS):
            user_B, item_B = rows_of(step)
            here = (user_B >= mine.start) & (user_B < mine.stop)
            adam.zero_grad()
            model.loss(user_B[here] - mine.start, item_B[here]).backward()
            adam.step()
    torch.save(dict(model.named_parameters()), Path(folder, str(rank)))
    dist.destroy_process_group()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_processes_with_users_of_their_own_train_the_model_of_one_process(
    tmp_path: Path, shares_memory: bool, sharded: bool
) -> None:
    run_in_processes(work, len(PARTS), str(tmp_path), shares_memory, sharded)
    alone = Net()
    expected = train(alone, Adam(alone, 0.05, **OPTIONS))
    parts = [torch.load(tmp_path / str(rank)) for rank in range(len(PARTS))]
    users = torch.cat([part.pop("user.weight") for part in parts])
    torch.testing.assert_close(users, expected["user.weight"], rtol=1e-5, atol=1e-6)
    for rank, part in enumerate(parts if sharded else []):
        ours, theirs = part.pop("item.weight"), expected["item.weight"][rank :: len(PARTS)]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for part in parts:
        for name, weight in part.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(weight, parts[0][name])  # replicas may not drift apart

"""Tables whose gradients come by row, against torch's own embedding."""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.models.table import Table


def filled(table: nn.Embedding) -> nn.Embedding:
    nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    return table


def test_a_table_is_torchs_embedding_until_it_collects():
    table, theirs = filled(Table(6, 3)), filled(nn.Embedding(6, 3))
    row = torch.tensor([[4, 0], [4, 1]])
    for module in (table, theirs):
        module(row).pow(2).sum().backward()
    assert torch.equal(table(row), theirs(row))
    assert torch.equal(table.weight.grad, theirs.weight.grad)
    assert [*table.state_dict()] == [*theirs.state_dict()] == ["weight"]


def test_collected_gradients_add_up_to_the_dense_one():
    table, theirs = filled(Table(6, 3)), filled(nn.Embedding(6, 3))
    table.collect()
    for module in (table, theirs):
        first, second = module(torch.tensor([[4, 0], [4, 1]])), module(torch.tensor(5))
        (first.pow(2).sum() + (second * first[1, 0]).sum()).backward()
    assert table.weight.grad is None
    gradients = table.take_gradients()
    assert sorted(len(row_R) for row_R, _ in gradients) == [1, 4]
    total = torch.zeros(6, 3)
    for row_R, gradient_RD in gradients:
        assert gradient_RD.shape == (len(row_R), 3)
        total.index_add_(0, row_R, gradient_RD)
    torch.testing.assert_close(total, theirs.weight.grad)
    assert table.take_gradients() == []


def test_a_look_up_that_leads_to_no_loss_or_needs_none_collects_nothing():
    table = filled(Table(6, 3))
    table.collect()
    table(torch.tensor([1]))
    with torch.no_grad():
        assert not table(torch.tensor([1])).requires_grad
    table(torch.tensor([2])).sum().backward()
    assert [row.tolist() for row, _ in table.take_gradients()] == [[2]]


def test_a_table_used_as_a_whole_has_its_own_gradient_beside_the_rows():
    table = filled(Table(6, 3))
    table.collect()
    (table.weight.sum() + table(torch.tensor([2])).sum()).backward()
    assert torch.equal(table.weight.grad, torch.ones(6, 3))
    assert [row.tolist() for row, _ in table.take_gradients()] == [[2]]


def test_no_rows_are_looked_up():
    table = filled(Table(6, 3))
    table.collect()
    vectors = table(torch.empty(0, dtype=torch.int64))
    vectors.sum().backward()
    assert vectors.shape == (0, 3)
    assert sum(len(row) for row, _ in table.take_gradients()) == 0

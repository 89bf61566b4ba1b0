"""Tables whose gradients come by row, against torch's own embedding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adar_ray.models.table import Products, Table, TablePairs


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


@pytest.mark.parametrize("K", [0, 1, 2])
def test_scores_by_row_numbers_and_their_gradients_are_those_of_looked_up_rows(K):
    """Products stand for gradients: multiples of rows of the other table, and of the row itself."""
    users, items = filled(Table(4, 3)), filled(Table(6, 3))
    theirs = [filled(nn.Embedding(4, 3)), filled(nn.Embedding(6, 3))]
    for table in (users, items):
        table.collect()
    pairs = TablePairs.of(users, items)
    user_B, positive_B = torch.tensor([3, 0, 3]), torch.tensor([2, 5, 2])
    negative_BK = torch.tensor([[5, 1], [1, 1], [0, 5]])[:, :K]
    weights = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.1]])[:, :K]
    terms = pairs.terms(user_B, positive_B, negative_BK)

    user_BD, positive_BD, negative_BKD = theirs[0](user_B), theirs[1](positive_B), theirs[1](negative_BK)
    penalty_B = (user_BD.square().sum(1) + positive_BD.square().sum(1)) / 2
    if K:
        penalty_B = penalty_B + negative_BKD.square().sum(2).mean(1) / 2
    by_hand = (user_BD * positive_BD).sum(1), (user_BD[:, None] * negative_BKD).sum(2), penalty_B
    for ours, expected in zip(terms, by_hand, strict=True):
        torch.testing.assert_close(ours, expected)
    for score_B, score_BK, square_B in (terms, by_hand):
        ((score_B + square_B * 2) * weights[0] + (score_BK * weights[1]).sum(1)).sum().backward()
    for table, embedding in zip((users, items), theirs, strict=True):
        total = torch.zeros_like(embedding.weight)
        for part in table.take_gradients():
            assert isinstance(part, Products)
            other_RJD = part.table.weight.detach()[part.of_RJ]
            own_RD = part.own_R[:, None] * table.weight.detach()[part.row_R]
            total.index_add_(0, part.row_R, (part.factor_RJ[..., None] * other_RJD).sum(1) + own_RD)
        torch.testing.assert_close(total, embedding.weight.grad)


def test_half_squares_of_items_and_their_gradients():
    users, items, theirs = filled(Table(4, 3)), filled(Table(6, 3)), filled(nn.Embedding(6, 3))
    for table in (users, items):
        table.collect()
    item_BK, weight_BK = torch.tensor([[5, 1], [1, 1]]), torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    square_BK = TablePairs.of(users, items).item_squares(item_BK)
    expected_BK = theirs(item_BK).square().sum(2) / 2
    torch.testing.assert_close(square_BK, expected_BK)
    for square in (square_BK, expected_BK):
        (square * weight_BK).sum().backward()
    (part,) = items.take_gradients()
    total = torch.zeros(6, 3).index_add_(
        0, part.row_R, part.own_R[:, None] * items.weight.detach()[part.row_R]
    )
    assert part.factor_RJ.shape == (4, 0)
    torch.testing.assert_close(total, theirs.weight.grad)


def test_pairs_of_tables_need_collected_gradients_in_single_precision():
    users, items = Table(4, 3), Table(6, 3)
    assert TablePairs.of(users, items) is None
    users.collect()
    items.collect()
    assert TablePairs.of(users, items) is not None
    assert TablePairs.of(users.double(), items) is None

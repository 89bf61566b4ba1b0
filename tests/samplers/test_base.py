"""Uniform negatives: never a seen item, every unseen one equally likely."""

import pytest
import torch
from scipy.stats import chisquare

from adar_ray.rng import RowRng
from adar_ray.samplers import UniformSampler
from adar_ray.samplers.base import SamplingContext
from adar_ray.samplers.uniform import UniformSettings

ITEMS = 30
TABLE = torch.arange(ITEMS)[:, None] * torch.ones(3)


def ask(sampler: UniformSampler, seen_BI: torch.Tensor, key: int = 0):
    """Negatives of as many users as `seen_BI` has rows, which says what each has seen."""
    rows = len(seen_BI)

    def seen(item: torch.Tensor) -> torch.Tensor:
        return seen_BI[:, item] if item.dim() == 1 else seen_BI.gather(1, item)

    vectors = torch.zeros(rows, 3)
    return sampler(
        vectors,
        vectors,
        SamplingContext(lambda i: TABLE[i], ITEMS, seen=seen),
        RowRng(torch.arange(rows), key),
    )


def random_seen(rows: int, share: float) -> torch.Tensor:
    return torch.rand(rows, ITEMS, generator=torch.Generator().manual_seed(0)) < share


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_no_sure_negative_is_seen(share):
    seen_BI = random_seen(200, share)
    negatives = ask(UniformSampler(UniformSettings(negatives=8)), seen_BI)
    assert not seen_BI.gather(1, negatives.item_BK)[negatives.mask_BK].any()
    assert negatives.mask_BK.float().mean() > 0.5


def test_only_a_negative_that_was_not_found_is_masked():
    seen_BI = random_seen(300, 0.9)
    negatives = ask(UniformSampler(UniformSettings(negatives=8)), seen_BI)
    assert (~negatives.mask_BK).any()
    assert seen_BI.gather(1, negatives.item_BK)[~negatives.mask_BK].all()


def test_negatives_are_uniform_over_the_unseen():
    seen_BI = torch.zeros(4000, ITEMS, dtype=torch.bool)
    seen_BI[:, :20] = True
    negatives = ask(UniformSampler(UniformSettings(negatives=5)), seen_BI)
    counts = torch.bincount(negatives.item_BK[negatives.mask_BK], minlength=ITEMS)
    assert counts[:20].sum() == 0
    assert chisquare(counts[20:].numpy()).pvalue > 1e-3


def test_without_knowledge_of_the_seen_negatives_are_uniform_over_all_items():
    vectors = torch.zeros(4000, 3)
    negatives = UniformSampler(UniformSettings(negatives=5))(
        vectors, vectors, SamplingContext(lambda i: TABLE[i], ITEMS), RowRng(torch.arange(4000), 0)
    )
    assert negatives.mask_BK.all()
    assert chisquare(torch.bincount(negatives.item_BK.flatten(), minlength=ITEMS).numpy()).pvalue > 1e-3


def test_a_user_who_has_seen_all_items_is_masked():
    seen_BI = torch.zeros(3, ITEMS, dtype=torch.bool)
    seen_BI[1] = True
    assert ask(UniformSampler(UniformSettings(negatives=6)), seen_BI).mask_BK.tolist() == [
        [True] * 6,
        [False] * 6,
        [True] * 6,
    ]


def test_vectors_are_those_of_the_items():
    negatives = ask(UniformSampler(UniformSettings(negatives=4)), random_seen(10, 0.5))
    assert negatives.vector_BKD.shape == (10, 4, 3)
    assert torch.equal(negatives.vector_BKD, TABLE[negatives.item_BK])
    assert negatives.timestep_BK is None


def test_a_rows_negatives_do_not_depend_on_the_rows_beside_it():
    seen_BI = random_seen(40, 0.6)
    whole = ask(UniformSampler(UniformSettings(negatives=4)), seen_BI)
    alone = UniformSampler(UniformSettings(negatives=4))(
        torch.zeros(1, 3),
        torch.zeros(1, 3),
        SamplingContext(lambda i: TABLE[i], ITEMS, seen=lambda item: seen_BI[17:18].gather(1, item)),
        RowRng(torch.tensor([17]), 0),
    )
    assert torch.equal(alone.item_BK[0][alone.mask_BK[0]], whole.item_BK[17][whole.mask_BK[17]])
    assert torch.equal(alone.mask_BK[0], whole.mask_BK[17])


def test_shared_negatives_are_the_same_for_all_and_masked_for_those_who_have_seen_them():
    seen_BI = random_seen(20, 0.4)
    negatives = ask(UniformSampler(shared=50), seen_BI)
    assert negatives.vector_BKD.shape == (1, 50, 3)
    assert negatives.item_BK.shape == (1, 50)
    assert torch.equal(negatives.vector_BKD[0], TABLE[negatives.item_BK[0]])
    assert torch.equal(negatives.mask_BK, ~seen_BI[:, negatives.item_BK[0]])


def test_shared_negatives_are_uniform_and_differ_from_step_to_step():
    seen_BI = torch.zeros(1, ITEMS, dtype=torch.bool)
    first, second = (ask(UniformSampler(shared=9000), seen_BI, key).item_BK[0] for key in (0, 1))
    assert chisquare(torch.bincount(first, minlength=ITEMS).numpy()).pvalue > 1e-3
    assert (first == second).float().mean() < 0.05


def test_shared_negatives_without_knowledge_of_the_seen_are_all_sure():
    vectors = torch.zeros(3, 3)
    negatives = UniformSampler(shared=7)(vectors, vectors, SamplingContext(lambda i: TABLE[i], ITEMS))
    assert negatives.mask_BK.tolist() == [[True] * 7] * 3

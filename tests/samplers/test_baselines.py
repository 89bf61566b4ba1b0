"""The samplers that ADAR is measured against: what all have in common, then each one by hand.

Legend: B rows of the batch, K negatives a row, N candidates a negative, I items, U users, H hops,
S items of a user's memory, D dimensions.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2_contingency, chisquare
from torch import nn
from torch.nn.functional import one_hot

from adar_ray.models.protocol import dot_score
from adar_ray.rng import RowRng
from adar_ray.samplers import (
    AHNSSampler,
    DENSSampler,
    DNSSampler,
    InBatchSampler,
    MixGCFSampler,
    PopularitySampler,
    SRNSSampler,
)
from adar_ray.samplers.ahns import AHNSSettings
from adar_ray.samplers.base import LazyNegatives, Negatives, SamplingContext
from adar_ray.samplers.candidates import uniform_candidates
from adar_ray.samplers.dens import DENSSettings
from adar_ray.samplers.dns import DNSSettings
from adar_ray.samplers.mixgcf import MixGCFSettings
from adar_ray.samplers.popularity import PopularitySettings
from adar_ray.samplers.srns import SRNSSettings

USERS, ITEMS, DIM = 40, 12, 4
EVERY = 400  # candidates: of twelve items none is ever missing among so many
MANY = 4000  # rows, to tell a distribution
UNSEEN = [1, 2, 3, 5, 7, 8, 9, 10]  # of the one user that all those rows are of
POPULARITY_I = torch.tensor([0, 2, 2, 3, 5, 8, 13, 21, 34, 0, 55, 89])


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


USER_UD, ITEM_ID = numbers(USERS, DIM, seed=1), numbers(ITEMS, DIM, seed=2)
POSITIVE_U = torch.arange(USERS) % ITEMS
HIDDEN, OUT = numbers(20, 16, seed=3), numbers(16, seed=4)


def network(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
    """A score that is no product: a perceptron of both vectors with one hidden layer."""
    both_BKD = torch.cat(torch.broadcast_tensors(user_BD[:, None], item_BKD), -1)
    return torch.tanh(both_BKD @ HIDDEN[: both_BKD.shape[-1]]) @ OUT


SCORES = pytest.mark.parametrize("score", [dot_score, network], ids=["product", "network"])

SAMPLERS: dict[str, Callable[[int], nn.Module]] = {
    "popularity": lambda K: PopularitySampler(PopularitySettings(negatives=K)),
    "popularity shared": lambda K: PopularitySampler(shared=K),
    "in_batch": lambda K: InBatchSampler(),
    "dns": lambda K: DNSSampler(DNSSettings(negatives=K, candidates=5)),
    "dns of top 3": lambda K: DNSSampler(DNSSettings(negatives=K, candidates=5, top=3)),
    "mixgcf": lambda K: MixGCFSampler(MixGCFSettings(negatives=K, candidates=5)),
    "dens": lambda K: DENSSampler(DIM, DENSSettings(negatives=K, candidates=5)).double(),
    "ahns": lambda K: AHNSSampler(AHNSSettings(negatives=K, candidates=5)),
    "srns": lambda K: SRNSSampler(USERS, ITEMS, SRNSSettings(negatives=K, candidates=5, memory=8)),
}
ITEMS_GIVEN = [name for name in SAMPLERS if name != "mixgcf"]
SHARED = ["popularity shared", "in_batch"]


def build(name: str, K: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return SAMPLERS[name](K)


def random_seen(share: float) -> torch.Tensor:
    """Every user has seen a share of the items, and their positive."""
    seen_UI = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < share
    seen_UI[torch.arange(USERS), POSITIVE_U] = True
    return seen_UI


def seen_but(*unseen: int, rows: int = MANY) -> torch.Tensor:
    """Rows of users who have seen everything but these items."""
    seen_BI = torch.ones(rows, ITEMS, dtype=torch.bool)
    seen_BI[:, unseen] = False
    return seen_BI


def ask(
    sampler: nn.Module,
    seen_BI: torch.Tensor,
    user_BD: torch.Tensor | None = None,
    positive_B: torch.Tensor | None = None,
    table_ID: torch.Tensor = ITEM_ID,
    row_B: torch.Tensor | None = None,
    key: int = 0,
    **more,
) -> Negatives:
    """Negatives of as many users as `seen_BI` has rows, which says what each has seen."""

    def seen(item: torch.Tensor) -> torch.Tensor:
        return seen_BI[:, item] if item.dim() == 1 else seen_BI.gather(1, item)

    every_B = torch.arange(len(seen_BI))
    user_BD = USER_UD[every_B] if user_BD is None else user_BD
    positive_B = POSITIVE_U[every_B] if positive_B is None else positive_B
    known = {"seen": seen, "user_B": every_B, "positive_B": positive_B, "popularity_I": POPULARITY_I}
    items = SamplingContext(lambda item: table_ID[item], len(table_ID), **known | more)
    rng = RowRng(every_B if row_B is None else row_B, key)
    return sampler(user_BD, table_ID[positive_B], items, rng)


def ask_many(sampler: nn.Module, *unseen: int, **more) -> Negatives:
    """Negatives of many rows of one user, who has not seen these items."""
    rows = {"user_BD": USER_UD[:1].expand(MANY, -1), "positive_B": torch.zeros(MANY, dtype=torch.int64)}
    return ask(sampler, seen_but(*unseen), **rows | more)


def made_of(negatives: Negatives) -> tuple[torch.Tensor, torch.Tensor]:
    """The items mixed into generated negatives, `[B, K]`, and their vectors."""
    source = negatives.source
    return source.item_P[source.at_BK], source.vector_PD[source.at_BK]


def value(score: Callable, user_D: torch.Tensor, item_D: torch.Tensor) -> float:
    return score(user_D[None], item_D[None, None]).item()


def unseen_of(seen_I: torch.Tensor) -> list[int]:
    return (~seen_I).nonzero()[:, 0].tolist()


# Unseen items


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.97])
def test_a_candidate_is_the_first_unseen_item_of_its_streams(share):
    seen_UI, looked_up = random_seen(share), 0

    def seen(item_BK: torch.Tensor) -> torch.Tensor:
        nonlocal looked_up
        looked_up += item_BK.numel()
        return seen_UI.gather(1, item_BK)

    rng, N = RowRng(torch.arange(USERS), 0), 30
    item_BN, mask_BN = uniform_candidates(
        SamplingContext(lambda item: ITEM_ID[item], ITEMS, seen=seen), rng, N
    )
    streams_SBN = torch.stack([rng.integers(ITEMS, N, stream) for stream in range(9)])
    for user, column in product(range(USERS), range(N)):
        unseen = [item for item in streams_SBN[:, user, column].tolist() if not seen_UI[user, item]]
        assert mask_BN[user, column] == bool(unseen)
        assert not unseen or item_BN[user, column] == unseen[0]
    assert looked_up <= USERS * N * (2 if share < 0.5 else 9)  # redrawn ones, and no others


# Every sampler


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
@pytest.mark.parametrize("name", ITEMS_GIVEN)
def test_no_sure_negative_is_seen(name, share):
    sampler, seen_UI = build(name, K=3), random_seen(share)
    for key in range(4):  # memories change
        negatives = ask(sampler, seen_UI, key=key)
        item_BK = negatives.item_BK.expand(USERS, -1)
        assert negatives.mask_BK.any()
        assert not seen_UI.gather(1, item_BK)[negatives.mask_BK].any()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_user_who_has_seen_all_items_is_masked_and_nobody_else_is(name):
    seen_UI = random_seen(0.1)
    seen_UI[[3, 8]] = True
    negatives = ask(build(name, K=8), seen_UI)
    assert (~negatives.mask_BK.any(1)).nonzero()[:, 0].tolist() == [3, 8]
    assert negatives.vector_BKD.isfinite().all()
    if name not in [*SHARED, "srns"]:  # whose negatives some users have seen
        assert negatives.mask_BK.all(1).sum() == USERS - 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_shapes_are_those_of_rows_and_negatives(name):
    negatives = ask(build(name, K=3), random_seen(0.3))
    K = USERS if name == "in_batch" else 3
    shape = (1 if name in SHARED else USERS, K)
    assert negatives.vector_BKD.shape == (*shape, DIM)
    assert negatives.mask_BK.shape == (USERS, K)
    assert negatives.timestep_BK is None
    if name == "mixgcf":
        assert negatives.item_BK is None
    else:
        assert negatives.item_BK.shape == shape


@pytest.mark.parametrize("name", ITEMS_GIVEN)
def test_vectors_are_those_of_the_items_and_lead_gradients_to_them(name):
    table_ID = ITEM_ID.clone().requires_grad_()
    negatives = ask(build(name, K=3), random_seen(0.3), table_ID=table_ID)
    assert torch.equal(negatives.vector_BKD, ITEM_ID[negatives.item_BK])
    negatives.vector_BKD.sum().backward()
    count_I = torch.bincount(negatives.item_BK.flatten(), minlength=ITEMS).double()
    assert torch.equal(table_ID.grad, count_I[:, None].expand(-1, DIM))


@pytest.mark.parametrize("rows", [[17], [30, 3, 17]])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "in_batch"])
def test_a_rows_negatives_do_not_depend_on_the_rows_beside_it(name, rows):
    seen_UI, rows = random_seen(0.6), torch.tensor(rows)
    whole = ask(build(name), seen_UI)
    part = ask(
        build(name), seen_UI[rows], USER_UD[rows], POSITIVE_U[rows], row_B=rows, user_B=rows
    )  # another sampler of the same seed, whose memories are as they were
    assert torch.equal(part.mask_BK, whole.mask_BK[rows])
    for ours, theirs in (
        (part.vector_BKD, whole.vector_BKD),
        (part.item_BK, whole.item_BK),
        (part.log_q_BK, whole.log_q_BK),
        (part.loss_B, whole.loss_B),
    ):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs if len(theirs) == 1 else theirs[rows])


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("in_batch", "srns")])
def test_another_step_draws_other_negatives(name):
    first, second = (ask(build(name), random_seen(0.3), key=key) for key in (0, 1))
    assert torch.equal(first.vector_BKD, ask(build(name), random_seen(0.3)).vector_BKD)
    assert not torch.equal(first.vector_BKD, second.vector_BKD)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_without_rows_has_no_negatives(name):
    negatives = ask(build(name), random_seen(0.3)[:0])
    assert negatives.mask_BK.shape == (0, 0 if name == "in_batch" else 2)
    assert negatives.vector_BKD.numel() == (2 * DIM if name == "popularity shared" else 0)
    if name == "dens":
        assert negatives.loss_B.shape == (0,)


def test_negatives_whose_vectors_are_made_on_demand_are_like_others():
    """A sampler that wraps another changes a field, and a misspelled one is an error."""
    made = []

    def make():
        made.append(1)
        return torch.ones(2, 1, 3)

    mask_BK = torch.tensor([[True], [False]])
    lazy = LazyNegatives(make, mask_BK=mask_BK, item_BK=torch.tensor([[4], [5]]))
    assert (lazy.mask_BK is mask_BK, lazy.source, made) == (True, None, [])
    changed = replace(lazy, log_q_BK=torch.zeros(2, 1))
    assert torch.equal(changed.vector_BKD, torch.ones(2, 1, 3))
    assert torch.equal(changed.item_BK, lazy.item_BK)
    assert torch.equal(changed.log_q_BK, torch.zeros(2, 1))
    assert torch.equal(lazy.vector_BKD, changed.vector_BKD)
    assert made == [1]
    with pytest.raises(TypeError, match="mask"):
        LazyNegatives(make, mask=mask_BK)
    with pytest.raises(TypeError, match="items"):
        LazyNegatives(make, mask_BK=mask_BK, items=None)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in [*SHARED, "srns"]])
def test_without_knowledge_of_the_seen_all_but_the_positive_may_be_negatives(name):
    negatives = ask(build(name, K=9), random_seen(0.3), seen=None)
    assert negatives.mask_BK.all()
    if negatives.item_BK is not None:
        items_B = [set(row) for row in negatives.item_BK.tolist()]
        assert not any(
            positive in items for positive, items in zip(POSITIVE_U.tolist(), items_B, strict=True)
        )
        assert set.union(*items_B) >= {item for item in range(ITEMS) if POPULARITY_I[item]}


@pytest.mark.parametrize(
    "sampler",
    [
        PopularitySampler(PopularitySettings(negatives=2)),
        DNSSampler(DNSSettings(negatives=2, candidates=2)),
        DNSSampler(DNSSettings(negatives=2, candidates=3, top=2)),
        DENSSampler(DIM, DENSSettings(negatives=2, candidates=2)).double(),
        AHNSSampler(AHNSSettings(negatives=2, candidates=2)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_negatives_of_one_row_are_drawn_independently(sampler):
    negatives = ask_many(sampler, *UNSEEN)
    item_B2 = negatives.item_BK[negatives.mask_BK.all(1)]
    assert len(item_B2) > 0.99 * MANY
    group_B2 = item_B2 // 3  # two unseen items each
    count = torch.bincount(group_B2[:, 0] * 4 + group_B2[:, 1], minlength=16).view(4, 4).numpy()
    assert chi2_contingency(count).pvalue > 1e-3
    assert chi2_contingency([count.sum(0), count.sum(1)]).pvalue > 1e-3


# Popularity


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
def test_popular_negatives_are_as_frequent_as_a_power_of_their_popularity(alpha):
    negatives = ask_many(PopularitySampler(PopularitySettings(negatives=3, alpha=alpha)), *UNSEEN)
    count_I = torch.bincount(negatives.item_BK[negatives.mask_BK], minlength=ITEMS).numpy()
    wanted_I = np.array([POPULARITY_I[i].item() ** alpha if i in UNSEEN else 0 for i in range(ITEMS)])
    possible_I = wanted_I > 0
    assert count_I[~possible_I].sum() == 0  # the seen, and item 9, which nobody took
    expected_I = wanted_I / wanted_I.sum() * count_I.sum()
    assert chisquare(count_I[possible_I], expected_I[possible_I]).pvalue > 1e-3


def test_with_an_alpha_of_zero_items_that_nobody_took_are_as_likely_as_all():
    negatives = ask_many(PopularitySampler(PopularitySettings(negatives=3, alpha=0.0)), *UNSEEN)
    count_I = torch.bincount(negatives.item_BK[negatives.mask_BK], minlength=ITEMS)
    assert chisquare(count_I[UNSEEN].numpy()).pvalue > 1e-3
    assert not negatives.log_q_BK.any()


def test_popular_negatives_that_all_share_are_masked_for_those_who_have_seen_them():
    seen_UI = random_seen(0.4)
    negatives = ask(PopularitySampler(PopularitySettings(alpha=0.5), shared=5000), seen_UI)
    item_K = negatives.item_BK[0]
    assert torch.equal(negatives.mask_BK, ~seen_UI[:, item_K])
    count_I = torch.bincount(item_K, minlength=ITEMS)
    taken_I = POPULARITY_I > 0
    assert count_I[~taken_I].sum() == 0
    wanted_I = POPULARITY_I[taken_I].double().sqrt()
    assert chisquare(count_I[taken_I].numpy(), (wanted_I / wanted_I.sum() * 5000).numpy()).pvalue > 1e-3


def test_shared_popular_negatives_are_never_the_rows_own_positive():
    negatives = ask(PopularitySampler(shared=50), random_seen(0), seen=None)
    assert torch.equal(negatives.mask_BK, negatives.item_BK != POSITIVE_U[:, None])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("alpha", [0.75, 1.0])
def test_log_q_tells_how_much_likelier_a_popular_negative_is_than_the_positive(shared, alpha):
    negatives = ask(
        PopularitySampler(PopularitySettings(negatives=6, alpha=alpha), shared=6 if shared else None),
        random_seen(0.2),
    )
    item_BK = negatives.item_BK.expand(USERS, -1)
    for row, positive in enumerate(POSITIVE_U.tolist()):
        # A positive that nobody took counts as the rarest item, which two took.
        drawn = max(POPULARITY_I[positive].item(), 2) ** alpha
        expected = [math.log(POPULARITY_I[item].item() ** alpha / drawn) for item in item_BK[row].tolist()]
        torch.testing.assert_close(negatives.log_q_BK[row], torch.tensor(expected))


@pytest.mark.parametrize("shared", [False, True])
def test_log_q_of_popular_negatives_is_unknown_without_the_positives(shared):
    sampler = PopularitySampler(PopularitySettings(negatives=6), shared=6 if shared else None)
    vectors = torch.zeros(3, DIM)
    items = SamplingContext(lambda item: ITEM_ID[item], ITEMS, popularity_I=POPULARITY_I)
    assert sampler(vectors, vectors, items).log_q_BK is None


@pytest.mark.parametrize("name", ["popularity", "popularity shared", "in_batch"])
def test_a_sampler_that_is_asked_about_another_catalog_follows_its_popularity(name):
    sampler, vectors, positive_B = build(name), torch.zeros(2, DIM), torch.tensor([3, 5])
    for popularity_I in (one_hot(torch.tensor(3), ITEMS) + 1, one_hot(torch.tensor(5), ITEMS) * 99 + 1):
        items = SamplingContext(
            lambda item: ITEM_ID[item], ITEMS, positive_B=positive_B, popularity_I=popularity_I
        )
        negatives = sampler(vectors, vectors, items)
        alpha = 1 if name == "in_batch" else PopularitySettings().alpha
        weight_I = popularity_I.double() ** alpha
        expected_BK = weight_I[negatives.item_BK].log() - weight_I[positive_B].log()[:, None]
        torch.testing.assert_close(negatives.log_q_BK, expected_BK.float())


# In-batch


def in_batch(**more) -> Negatives:
    """Four rows, of which two have the same positive, and of which two have seen another's."""
    seen_BI = torch.zeros(4, ITEMS, dtype=torch.bool)
    seen_BI[0, [2, 7, 11]] = True
    seen_BI[1, 5] = seen_BI[2, [5, 2]] = seen_BI[3, 7] = True
    return ask(InBatchSampler(), seen_BI, positive_B=torch.tensor([2, 5, 5, 7]), **more)


def test_in_batch_negatives_are_the_other_rows_positives():
    negatives = in_batch()
    assert negatives.item_BK.tolist() == [[2, 5, 5, 7]]
    assert torch.equal(negatives.vector_BKD, ITEM_ID[[2, 5, 5, 7]][None])
    assert negatives.mask_BK.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]


def test_in_batch_negatives_are_never_the_rows_own_positive_even_if_nothing_is_known_of_the_seen():
    mask_BK = in_batch(seen=None).mask_BK
    assert mask_BK.int().tolist() == [[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]]


def test_log_q_of_in_batch_negatives_is_that_of_popularity_itself():
    popularity = {2: 2, 5: 8, 7: 21}
    expected = [[math.log(popularity[i] / popularity[j]) for i in (2, 5, 5, 7)] for j in (2, 5, 5, 7)]
    torch.testing.assert_close(in_batch().log_q_BK, torch.tensor(expected))
    assert in_batch(popularity_I=None).log_q_BK is None


# DNS


@SCORES
def test_dns_of_very_many_candidates_is_the_best_unseen_item(score):
    seen_UI = random_seen(0.5)
    negatives = ask(DNSSampler(DNSSettings(negatives=2, candidates=EVERY)), seen_UI, score=score)
    for user in range(USERS):
        best = max(unseen_of(seen_UI[user]), key=lambda item: value(score, USER_UD[user], ITEM_ID[item]))
        assert negatives.item_BK[user].tolist() == [best, best]


def share_of_rank(items: int, N: int, M: int) -> np.ndarray:
    """How likely DNS(M, N) takes the hardest item, the second hardest, ..., in closed form.

    The m-th hardest of N candidates is among the r hardest items if at least m of the candidates are.
    """
    rank = np.arange(items + 1)
    below = np.mean([binom.sf(m - 1, N, rank / items) for m in range(1, M + 1)], axis=0)
    return np.diff(below)


@SCORES
@pytest.mark.parametrize(("N", "M"), [(1, 1), (3, 1), (3, 2), (3, 3), (8, 5)])
def test_dns_is_one_of_the_m_hardest_of_n_each_as_likely(N, M, score):
    negatives = ask_many(DNSSampler(DNSSettings(negatives=1, candidates=N, top=M)), *UNSEEN, score=score)
    hardest_first = sorted(UNSEEN, key=lambda item: -value(score, USER_UD[0], ITEM_ID[item]))
    count = torch.bincount(negatives.item_BK[negatives.mask_BK], minlength=ITEMS)[hardest_first].numpy()
    assert chisquare(count, share_of_rank(8, N, M) * count.sum()).pvalue > 1e-3


def test_dns_takes_one_of_the_unseen_if_they_are_fewer_than_m():
    negatives = ask_many(DNSSampler(DNSSettings(negatives=2, candidates=4, top=4)), 6)
    assert 0.5 < negatives.mask_BK.float().mean() < 1
    assert (negatives.item_BK[negatives.mask_BK] == 6).all()


# MixGCF


def mixed_by_hand(
    score: Callable,
    user_D: torch.Tensor,
    positive_HD: torch.Tensor,
    candidate_NHD: torch.Tensor,
    share_H: list[float],
) -> torch.Tensor:
    """Eq. 5 to 7 hop by hop: the mean of each hop's best mixture."""
    best = []
    for hop, share in enumerate(share_H):
        mixtures = [share * positive_HD[hop] + (1 - share) * vector_HD[hop] for vector_HD in candidate_NHD]
        best.append(max(mixtures, key=lambda mixture_D: value(score, user_D, mixture_D)))
    return torch.stack(best).mean(0)


def hops_with_marks(H: int) -> torch.Tensor:
    """`[I, H, 3 + D]`: of item 0, the positive, hop h has a one at place h, where all others have none.

    What a mixture has at that place is the positive's share.
    """
    hop_IHD = torch.cat([torch.zeros(ITEMS, H, 3), numbers(ITEMS, H, DIM, seed=5)], 2)
    hop_IHD[0, :, :3] = torch.eye(3)[:H]
    return hop_IHD


@SCORES
@pytest.mark.parametrize("H", [1, 3])
def test_mixgcf_mixes_at_each_hop_the_positive_and_what_makes_the_hardest_mixture(H, score):
    hop_IHD = hops_with_marks(H).requires_grad_()
    user_BD, rows, seen_BI = numbers(8, 3 + DIM, seed=6), 8, random_seen(0.5)[:8]
    seen_BI[:, 0] = True
    negatives = ask(
        MixGCFSampler(MixGCFSettings(negatives=2, candidates=EVERY)),
        seen_BI,
        user_BD,
        torch.zeros(rows, dtype=torch.int64),
        hop_IHD.mean(1),
        layers=(lambda item: hop_IHD[item]) if H > 1 else None,
        score=score,
    )
    share_BKH = negatives.vector_BKD[..., :H].detach() * H
    expected = torch.stack(
        [
            torch.stack(
                [
                    mixed_by_hand(score, user_BD[row], hop_IHD[0], hop_IHD[unseen_of(seen_BI[row])], share_H)
                    for share_H in share_BKH[row].tolist()
                ]
            )
            for row in range(rows)
        ]
    )
    torch.testing.assert_close(negatives.vector_BKD, expected)
    # The positive learns through its share, and each chosen item at the hop that it was chosen for.
    weight_BKD = numbers(*expected.shape, seed=7)
    ours, theirs = (
        torch.autograd.grad((vector_BKD * weight_BKD).sum(), hop_IHD, retain_graph=True)[0]
        for vector_BKD in (negatives.vector_BKD, expected)
    )
    torch.testing.assert_close(ours, theirs)
    assert theirs[0].abs().sum() > 0
    # L2 is for the first hop of the item chosen there.
    item_BK, vector_BKD = made_of(negatives)
    first_BK1 = share_BKH[..., :1]
    mixed_BKID = first_BK1[..., None] * hop_IHD[0, 0] + (1 - first_BK1[..., None]) * hop_IHD[:, 0]
    score_BKI = torch.stack([score(user_BD, mixed_BID) for mixed_BID in mixed_BKID.unbind(1)], 1)
    assert torch.equal(item_BK, score_BKI.masked_fill(seen_BI[:, None], -torch.inf).argmax(2))
    assert torch.equal(vector_BKD, hop_IHD[item_BK, 0])


def test_mixgcf_mixes_the_positive_with_the_hardest_of_n_unseen_items():
    """Of items that are ones at places of their own a mixture tells what it was mixed of."""
    taste_I = numbers(ITEMS, seed=8)
    negatives = ask_many(
        MixGCFSampler(MixGCFSettings(negatives=2, candidates=2)),
        *UNSEEN,
        user_BD=taste_I.expand(MANY, -1),
        table_ID=torch.eye(ITEMS, dtype=torch.float64),
    )
    vector_BKD = negatives.vector_BKD[negatives.mask_BK.all(1)]
    share_B2, rest_BKI = vector_BKD[..., 0], vector_BKD[..., 1:]
    torch.testing.assert_close(rest_BKI.sum(2), 1 - share_B2)
    assert ((rest_BKI > 0).sum(2) == 1).all()
    item_B2 = rest_BKI.argmax(2) + 1

    hardest_first = sorted(UNSEEN, key=lambda item: -taste_I[item])
    rank_I = torch.full((ITEMS,), -1)
    rank_I[hardest_first] = torch.arange(8)
    rank_B2 = rank_I[item_B2]
    assert len(rank_B2) > 0.99 * MANY
    assert (rank_B2 >= 0).all()
    source_BK, source_BKI = (part[negatives.mask_BK.all(1)] for part in made_of(negatives))
    assert torch.equal(source_BK, item_B2)
    assert torch.equal(source_BKI, torch.eye(ITEMS, dtype=torch.float64)[item_B2])
    for rank_B in rank_B2.T:
        count = torch.bincount(rank_B, minlength=8).numpy()
        assert chisquare(count, share_of_rank(8, 2, 1) * count.sum()).pvalue > 1e-3
    pair_B = rank_B2[:, 0] // 2 * 4 + rank_B2[:, 1] // 2
    assert chi2_contingency(torch.bincount(pair_B, minlength=16).view(4, 4).numpy()).pvalue > 1e-3


def test_shares_of_mixgcf_are_uniform_and_each_hops_and_each_negatives_own():
    hop_IHD = one_hot(torch.arange(2 * ITEMS)).double().view(2, ITEMS, 2 * ITEMS).transpose(0, 1)
    negatives = ask_many(
        MixGCFSampler(MixGCFSettings(negatives=2, candidates=2)),
        *UNSEEN,
        user_BD=numbers(2 * ITEMS, seed=8).expand(MANY, -1),
        table_ID=hop_IHD.mean(1),
        layers=lambda item: hop_IHD[item],
    )
    vector_BKD = negatives.vector_BKD[negatives.mask_BK.all(1)]
    share_BX = 2 * vector_BKD[..., [0, ITEMS]].flatten(1)  # two negatives of two hops
    assert share_BX.min() > 0
    assert share_BX.max() < 1
    bin_BX = (share_BX * 5).long()
    for one, other in combinations(range(4), 2):
        count = torch.bincount(bin_BX[:, one] * 5 + bin_BX[:, other], minlength=25)
        assert chisquare(count.numpy()).pvalue > 1e-3


# DENS


def dens(**more) -> DENSSampler:
    """Gates that are far from equal, so that they matter."""
    sampler = DENSSampler(DIM, DENSSettings(**more)).double()
    for seed, parameter in enumerate(sampler.parameters()):
        nn.init.normal_(parameter, std=1.5, generator=torch.Generator().manual_seed(seed))
    return sampler


def gated(
    sampler: DENSSampler, user_D: np.ndarray, positive_D: np.ndarray, negative_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of positive and negative that are relevant to the choice."""
    weight = {name: tensor.detach().numpy() for name, tensor in sampler.named_parameters()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return weight[f"{name}.weight"] @ x + weight[f"{name}.bias"]

    gate = linear("item_gate", positive_D) + linear("user_gate", user_D)
    relevant_D = positive_D / (1 + np.exp(-gate))
    gate = linear("negative_gate", negative_D) + linear("positive_gate", relevant_D)
    return relevant_D, negative_D / (1 + np.exp(-gate))


@SCORES
def test_dens_takes_the_hardest_irrelevant_factors_at_first_and_the_easiest_relevant_ones_later(score):
    sampler, seen_UI = dens(negatives=2, candidates=EVERY, warmup=10), random_seen(0.4)[:10]
    chosen = []
    for epoch, left in ((1, 0.9), (5, 0.5), (10, 0.0), (30, 0.0)):
        negatives = ask(sampler, seen_UI, score=score, epoch=epoch)
        chosen.append(negatives.item_BK)
        for user in range(10):
            judged = {}
            for item in unseen_of(seen_UI[user]):
                positive_D, item_D = ITEM_ID[POSITIVE_U[user]].numpy(), ITEM_ID[item].numpy()
                _, relevant_D = gated(sampler, USER_UD[user].numpy(), positive_D, item_D)
                judged[item] = value(score, USER_UD[user], torch.from_numpy(left * item_D - relevant_D))
            best = max(judged, key=judged.get)
            assert negatives.item_BK[user].tolist() == [best, best]
    assert not torch.equal(chosen[0], chosen[2])
    assert torch.equal(chosen[2], chosen[3])


@SCORES
def test_dens_has_four_contrasts_and_masked_negatives_have_none(score):
    sampler, seen_UI = dens(negatives=3, candidates=1, gamma=0.7), random_seen(0.85)
    seen_UI[7] = True
    negatives = ask(sampler, seen_UI, score=score)
    partly_B = negatives.mask_BK.any(1) & ~negatives.mask_BK.all(1)
    assert partly_B.any()
    for user in range(USERS):
        losses = []
        for item in negatives.item_BK[user][negatives.mask_BK[user]].tolist():
            positive_D, negative_D = ITEM_ID[POSITIVE_U[user]].numpy(), ITEM_ID[item].numpy()
            parts = gated(sampler, USER_UD[user].numpy(), positive_D, negative_D)
            vectors = (parts[0], positive_D - parts[0], parts[1], negative_D - parts[1])
            positive, positive_rest, negative, negative_rest = (
                value(score, USER_UD[user], torch.from_numpy(vector_D)) for vector_D in vectors
            )
            ordered = [
                (positive, positive_rest),
                (negative_rest, negative),
                (positive, negative),
                (negative_rest, positive_rest),
            ]
            losses.append(sum(math.log1p(math.exp(low - high)) for high, low in ordered) / 4)
        expected = 0.7 * sum(losses) / max(len(losses), 1)
        assert negatives.loss_B[user].item() == pytest.approx(expected, rel=1e-6)
    assert negatives.loss_B[7] == 0


def test_the_contrasts_of_dens_teach_all_gates_and_the_vectors():
    sampler = dens(negatives=2, candidates=3)
    table_ID, user_BD = ITEM_ID.clone().requires_grad_(), USER_UD.clone().requires_grad_()
    ask(sampler, random_seen(0.3), user_BD, table_ID=table_ID).loss_B.sum().backward()
    for learned in (*sampler.parameters(), table_ID, user_BD):
        assert learned.grad.isfinite().all()
        assert learned.grad.abs().sum() > 0


def test_dens_judges_its_candidates_once():
    widths: list[int] = []

    def score(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        widths.append(item_BKD.shape[1])
        return dot_score(user_BD, item_BKD)

    ask(dens(negatives=2, candidates=5), random_seen(0.3), score=score)
    assert widths.count(10) == 1


# AHNS


def test_the_target_of_ahns_falls_as_the_positives_score_rises():
    """With alpha 1, beta 0.1 and p -2 it is 0.1 / (s + 1)."""
    table_ID = torch.tensor([0.0, 0.05, 0.1, 0.2, 1.0, -0.5, -1.0, -2.0])[:, None]
    nearest = {0: 2, 4: 1, 5: 3, 6: 4, 7: 4}  # positives of scores 0, 1, -0.5; and -1, -2, which are no base
    positive_B = torch.tensor(list(nearest))
    seen_BI = one_hot(positive_B, len(table_ID)).bool()
    negatives = ask(
        AHNSSampler(AHNSSettings(negatives=1, candidates=EVERY)),
        seen_BI,
        torch.ones(5, 1),
        positive_B,
        table_ID,
    )
    assert negatives.item_BK[:, 0].tolist() == list(nearest.values())


def test_ahns_tells_the_hardest_candidate_however_far_the_target_is():
    """Single precision tells 1 from 1.00001, but not their distances from a million."""
    table_ID = torch.tensor([1.0, 1.00001, 1.00002, 0.99999, -1.0, -1 + 1e-7, -5.0])[:, None]
    positive_B = torch.tensor([4, 5, 6])  # s + alpha is 0, next to 0, and -4
    seen_BI = one_hot(positive_B, len(table_ID)).bool()
    negatives = ask(
        AHNSSampler(AHNSSettings(negatives=3, candidates=EVERY)),
        seen_BI,
        torch.ones(3, 1),
        positive_B,
        table_ID,
    )
    assert negatives.item_BK.tolist() == [[2] * 3] * 3


@SCORES
@pytest.mark.parametrize("p", [-1.1, -2.0, -3.0])
def test_ahns_takes_the_unseen_item_whose_score_is_nearest_to_the_target(p, score):
    seen_UI = random_seen(0.4)
    sampler = AHNSSampler(AHNSSettings(negatives=2, candidates=EVERY, alpha=1.5, beta=0.4, p=p))
    negatives = ask(sampler, seen_UI, score=score)
    hardest = []
    for user in range(USERS):
        base = value(score, USER_UD[user], ITEM_ID[POSITIVE_U[user]]) + 1.5
        score_of = {i: value(score, USER_UD[user], ITEM_ID[i]) for i in unseen_of(seen_UI[user])}
        if base > 0:
            expected = min(score_of, key=lambda item: abs(score_of[item] - 0.4 * base ** (p + 1)))
        else:
            expected = max(score_of, key=score_of.get)
        hardest.append(expected == max(score_of, key=score_of.get))
        assert negatives.item_BK[user].tolist() == [expected, expected]
    assert 0 < sum(hardest) < USERS


def test_ahns_with_p_of_minus_1_has_the_same_target_whatever_the_positives_score():
    table_ID = torch.tensor([1.0, 0.5, 0.3, -2.0, 3.0])[:, None]
    positive_B = torch.tensor([0, 3, 4])  # s + alpha is 2, -1 and 4
    seen_BI = one_hot(positive_B, len(table_ID)).bool()
    sampler = AHNSSampler(AHNSSettings(negatives=1, candidates=EVERY, beta=0.45, p=-1.0))
    assert ask(sampler, seen_BI, torch.ones(3, 1), positive_B, table_ID).item_BK.tolist() == [[1]] * 3


# SRNS


def remembering(K: int = 2, S: int = 6, N: int = 5, alpha: float = 2.0) -> SRNSSampler:
    """Memories as after some epochs: items seen or not, a few of them twice, some never visited."""
    sampler = SRNSSampler(
        USERS,
        ITEMS,
        SRNSSettings(negatives=K, candidates=N, memory=S, alpha=alpha, warmup=50, temperature=0.7),
    )
    draw = torch.Generator().manual_seed(9)
    mean_US, deviation_US = torch.rand(2, USERS, S, generator=draw)
    sampler.item_US[:] = torch.randint(ITEMS, (USERS, S), generator=draw)
    sampler.moments_US2[:] = torch.stack([mean_US, mean_US**2 + deviation_US**2], 2)
    sampler.moments_US2[torch.rand(USERS, S, generator=draw) < 0.2] = torch.nan
    return sampler


def chance(score: Callable, user: int, item: int) -> float:
    """`P`, that the item is as good as the positive."""
    positive = value(score, USER_UD[user], ITEM_ID[POSITIVE_U[user]])
    return 1 / (1 + math.exp(positive - value(score, USER_UD[user], ITEM_ID[item])))


def moments_by_hand(sampler: SRNSSampler, score: Callable, user: int) -> dict[int, tuple[float, float]]:
    """Of each remembered item the running mean of P and of its square, with this visit in."""
    moments = {}
    for item, (mean, square) in zip(
        sampler.item_US[user].tolist(), sampler.moments_US2[user].tolist(), strict=True
    ):
        P = chance(score, user, item)
        before = (P, P**2) if math.isnan(mean) else (mean, square)
        after = (before[0] + (P - before[0]) / 5, before[1] + (P**2 - before[1]) / 5)
        moments.setdefault(item, after)
    return moments


@SCORES
@pytest.mark.parametrize(("epoch", "alpha_t"), [(1, 0.04), (25, 1.0), (50, 2.0), (200, 2.0)])
def test_srns_takes_of_the_memory_what_scores_high_and_keeps_changing(epoch, alpha_t, score):
    sampler, seen_UI = remembering(), random_seen(0.5)
    by_hand = [moments_by_hand(sampler, score, user) for user in range(USERS)]
    negatives = ask(sampler, seen_UI, score=score, epoch=epoch)
    for user, moments in enumerate(by_hand):
        wish = {
            item: chance(score, user, item) + alpha_t * math.sqrt(max(square - mean**2, 0))
            for item, (mean, square) in moments.items()
            if not seen_UI[user, item]
        }
        expected = sorted(wish, key=wish.get, reverse=True)[:2]
        assert negatives.mask_BK[user].sum() == len(expected)
        assert negatives.item_BK[user][negatives.mask_BK[user]].tolist() == expected
    assert 0 < negatives.mask_BK.sum() < negatives.mask_BK.numel()


@SCORES
def test_srns_remembers_moments_and_no_item_that_is_seen_or_there_already(score):
    sampler, seen_UI = remembering(S=4, N=60), random_seen(0.3)
    by_hand = [moments_by_hand(sampler, score, user) for user in range(USERS)]
    ask(sampler, seen_UI, score=score)
    fresh = 0
    for user, before in enumerate(by_hand):
        kept = sampler.item_US[user].tolist()
        assert len(set(kept)) == 4
        assert not seen_UI[user, kept].any()
        for item, moments in zip(kept, sampler.moments_US2[user], strict=True):
            P = chance(score, user, item)
            torch.testing.assert_close(moments, torch.tensor(before.get(item, (P, P**2))))
            fresh += item not in before
    assert 0 < fresh < 4 * USERS


def test_srns_remembers_nothing_in_evaluation():
    sampler = remembering()
    before = {name: buffer.clone() for name, buffer in sampler.named_buffers()}
    trained, evaluated = ask(remembering(), random_seen(0.3)), ask(sampler.eval(), random_seen(0.3))
    assert torch.equal(trained.item_BK, evaluated.item_BK)
    for name, buffer in sampler.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_what_srns_remembers_is_drawn_with_weights_and_without_replacement(temperature):
    """Of four unseen items two stay, whatever their number among the candidates."""
    unseen, rows = [2, 5, 7, 10], torch.arange(MANY)
    sampler = SRNSSampler(
        MANY, ITEMS, SRNSSettings(negatives=1, candidates=60, memory=2, temperature=temperature)
    )
    sampler.item_US[:] = torch.tensor([7, 7])
    ask_many(sampler, *unseen, user_B=rows)
    weight = {i: math.exp(value(dot_score, USER_UD[0], ITEM_ID[i]) / temperature) for i in unseen}
    total = sum(weight.values())
    pairs = list(combinations(unseen, 2))
    expected = [
        sum(weight[i] / total * weight[j] / (total - weight[i]) for i, j in permutations(pair))
        for pair in pairs
    ]
    kept = [tuple(sorted(items)) for items in sampler.item_US.tolist()]
    count = np.array([kept.count(pair) for pair in pairs])
    assert count.sum() == MANY
    assert chisquare(count, np.array(expected) * MANY).pvalue > 1e-3


def test_a_user_in_several_rows_has_one_memory_whatever_the_order_of_the_rows():
    user_B, seen_UI = torch.tensor([3, 5, 3, 3, 8]), random_seen(0.3)

    def remembered(rows: list[int]) -> torch.Tensor:
        sampler, user = remembering(), user_B[rows]
        ask(sampler, seen_UI[user], USER_UD[user], POSITIVE_U[user], user_B=user, row_B=torch.tensor(rows))
        return sampler.item_US

    after_US = remembered([0, 1, 2, 3, 4])
    for rows in ([4, 3, 2, 1, 0], [2, 4, 0, 3, 1], [3, 2, 1, 0, 4]):
        assert torch.equal(remembered(rows), after_US)
    assert after_US[3].tolist() in [remembered([row])[3].tolist() for row in (0, 2, 3)]
    others = [user for user in range(USERS) if user not in (3, 5, 8)]
    assert torch.equal(after_US[others], remembering().item_US[others])

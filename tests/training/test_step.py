"""From a batch to its loss: pairs and sequence rows, every loss, every way in which ADAR joins them."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from adar_ray.config import load_config
from adar_ray.errors import AdarError
from adar_ray.interactions.pair_weights import PairWeights
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import MF, GRU4Rec, NeuMF
from adar_ray.models.gru4rec import GRU4RecSettings
from adar_ray.models.neumf import NeuMFSettings
from adar_ray.models.protocol import dot_score
from adar_ray.rng import RowRng
from adar_ray.samplers import UniformSampler
from adar_ray.samplers.base import Negatives, SamplingContext, real_items
from adar_ray.training.build import build_loss, build_samplers, is_sequential
from adar_ray.training.step import TrainingStep

USERS, ITEMS, DIM, LENGTH = 12, 40, 6, 5
KEY = (3, 1, 4)


def random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(USERS, (90,), generator=draw), torch.randint(ITEMS, (90,), generator=draw)


def observed() -> UserItems:
    return UserItems(*random_pairs(), USERS, ITEMS)


class MeanOfHistory(nn.Module):
    """At each position the user is the mean of the items so far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ITEMS, DIM, dtype=torch.float64)

    def users(self, batch):
        history_BL = batch["history"]
        is_item_BL1 = (history_BL >= 0)[..., None]
        vector_BLD = self.table(history_BL.clamp_min(0)) * is_item_BL1
        return vector_BLD.cumsum(1) / is_item_BL1.cumsum(1).clamp_min(1)

    def items(self, item):
        return self.table(item)

    def score(self, user_BD, item_BKD):
        return dot_score(user_BD, item_BKD)


def mf() -> MF:
    torch.manual_seed(1)
    return MF(USERS, ITEMS, DIM).double()


def step_of(model: nn.Module, *settings: str, targets: int = LENGTH) -> TrainingStep:
    config = load_config(
        settings=[
            "adar.pool=30",
            "adar.candidates=2",
            "sampled_softmax.shared_negatives=20",
            "loss.l2=0",
            *settings,
        ]
    )
    seen = observed()
    samplers = build_samplers(config, model, seen)
    return TrainingStep(
        config, model, build_loss(config, seen.n_items), samplers, seen, seen.item_counts(), targets
    )


def sequence_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    item_BN = torch.randint(ITEMS, (8, LENGTH + 1), generator=draw)
    for row, padding in enumerate([0, 1, 2, 3, 4, 0, 0, 2]):
        item_BN[row, :padding] = -1
    return torch.arange(8), item_BN, torch.arange(8) + 100


def pair_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    user, item = observed().pairs()
    return user, item, torch.arange(len(user)) + 100


# Weights


@pytest.mark.parametrize("l2", [0, 0.1])
@pytest.mark.parametrize("loss", ["bpr", "bce", "sampled_softmax", "cross_entropy"])
@pytest.mark.parametrize("kind", ["pairs", "sequences"])
def test_a_weight_of_two_is_the_pair_twice(kind, loss, l2):
    """With the same negatives: rows with the same number draw the same."""
    model = mf() if kind == "pairs" else MeanOfHistory()
    sampler = "all" if loss == "cross_entropy" else "uniform"
    user_B, item, row_B = pair_rows() if kind == "pairs" else sequence_rows()
    user_E, item_E = observed().pairs()
    if kind == "sequences":  # every pair is an interaction that was seen
        user_E, item_E = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    step = step_of(model, f"loss.name={loss}", f"sampler.name={sampler}", f"loss.l2={l2}")
    weight_E = (user_E % 2 + 1).double()
    step.weights = PairWeights(UserItems(user_E, item_E, USERS, ITEMS), user_E, item_E, weight_E, 1.5)

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    weighted, statistics = step(user_B, item, row_B, KEY)
    of_weighted = gradient(weighted)
    step.weights = None
    twice_B = torch.arange(len(user_B)).repeat_interleave(user_B % 2 + 1)
    repeated, its_statistics = step(user_B[twice_B], item[twice_B], row_B[twice_B], KEY)
    torch.testing.assert_close(weighted * 1.5, repeated)
    torch.testing.assert_close(of_weighted * 1.5, gradient(repeated))
    torch.testing.assert_close(statistics[:2] * 1.5, its_statistics[:2])


def test_interactions_of_a_pair_share_their_weight():
    user_E, item_E = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 2, 0, 2])
    weights = PairWeights(
        UserItems(user_E, item_E, 2, 3), user_E, item_E, torch.tensor([1.0, 7.0, 4.0, 4.0]), mean=4.0
    )
    assert weights(user_E, item_E).tolist() == [2.5 / 4, 7 / 4, 1, 2.5 / 4]


# What samplers see


class AsksTwice(UniformSampler):
    """A sampler that asks for the positives' scores twice."""

    def sample(self, user_BD, positive_BD, context, rng):
        with torch.no_grad():
            self.choosing = [context.score(user_BD, positive_BD[:, None]) for _ in range(2)]
        self.learning = [context.score(user_BD, positive_BD[:, None]) for _ in range(2)]
        return super().sample(user_BD, positive_BD, context, rng)


def test_samplers_choose_without_dropout():
    """Or ADAR's transition point would be that of another network than the next score's."""
    torch.manual_seed(0)
    model = NeuMF(USERS, ITEMS, DIM, NeuMFSettings(dropout=0.5)).double()
    model.perceptron[-1].eval()  # frozen by its owner
    modes = [part.training for part in model.modules()]
    step = step_of(model, "loss.name=bpr", "sampler.name=uniform")
    sampler = AsksTwice()
    step.samplers = nn.ModuleList([sampler])
    step(*pair_rows(), KEY)
    assert torch.equal(*sampler.choosing)
    assert not torch.equal(*sampler.learning)
    assert [part.training for part in model.modules()] == modes


# The L2 penalty


def test_the_l2_penalty_of_cosines_is_on_the_rows_of_a_sequential_models_items():
    """On representations, which are of length one, it would do nothing."""
    torch.manual_seed(0)
    model = GRU4Rec(ITEMS, LENGTH, DIM, GRU4RecSettings(dropout=0), cosine=True).double()
    gradients, settings = [], ("model.name=gru4rec", "loss.name=bce", "sampler.name=uniform")
    for l2 in (0, 0.1):
        step = step_of(model, *settings, f"loss.l2={l2}")
        model.zero_grad()
        step(*sequence_rows(), KEY)[0].backward()
        gradients.append(model.item.weight.grad.clone())
    difference_ID, row_ID = gradients[1] - gradients[0], model.item.weight.detach()
    share_I = (difference_ID * row_ID).sum(1) / row_ID.square().sum(1)
    torch.testing.assert_close(difference_ID, share_I[:, None] * row_ID)
    _, item_BN, _ = sequence_rows()
    positives = item_BN[:, 1:][item_BN[:, :-1] >= 0]
    assert (share_I >= 0.1 * positives.bincount(minlength=ITEMS) - 1e-6).all()
    torch.testing.assert_close(share_I.sum(), torch.tensor(0.1 * 2 * len(positives)).double())


# Sequence rows


@pytest.mark.parametrize("targets", [1, 2, LENGTH])
def test_every_position_of_a_sequence_row_is_a_pair_of_the_user_then_and_the_next_item(targets):
    model = MeanOfHistory()
    step = step_of(
        model, "loss.name=cross_entropy", "sampler.name=all", "cross_entropy.temperature=1", targets=targets
    )
    user_B, item_BN, row_B = sequence_rows()
    loss, statistics = step(user_B, item_BN, row_B, KEY)

    expected, pairs = 0.0, 0
    for sequence in item_BN.tolist():
        items = [item for item in sequence if item >= 0]
        for at in list(range(1, len(items)))[-targets:]:
            user_D = model.table.weight[items[:at]].mean(0)
            expected += cross_entropy(model.table.weight @ user_D, torch.tensor(items[at]))
            pairs += 1
    torch.testing.assert_close(loss, expected)
    assert statistics[2] == pairs


def test_no_position_takes_what_its_user_has_seen_for_a_negative():
    step, seen = step_of(MeanOfHistory(), "sampler.name=uniform", "uniform.negatives=9"), observed()
    step.samplers[0] = recorder = Recorder()
    user_B, item_BN, row_B = sequence_rows()
    step(user_B, item_BN, row_B, KEY)
    user_N, drawn, shared = recorder.items.user_B, recorder.drawn, torch.arange(ITEMS)
    assert not seen.contains(user_N, drawn.item_BK)[drawn.mask_BK].any()
    assert torch.equal(recorder.items.seen(shared), seen.contains_shared(user_N, shared))


class Recorder(nn.Module):
    """A sampler that keeps what it is told of the items, and its answer."""

    def forward(self, user_BD, positive_BD, items, rng):
        self.items, self.drawn = items, UniformSampler()(user_BD, positive_BD, items, rng)
        return self.drawn


@pytest.mark.parametrize(("model", "rows"), [(mf, pair_rows), (MeanOfHistory, sequence_rows)])
def test_samplers_learn_how_much_a_user_has_seen_unless_the_next_item_is_to_be_found(model, rows):
    step = step_of(model(), "sampler.name=uniform", "loss.name=bpr")
    step.samplers[0] = Recorder()
    step(*rows(), KEY)
    count_N = step.samplers[0].items.seen_count_B
    if rows is sequence_rows:
        assert count_N is None
    else:
        assert torch.equal(count_N, observed().counts()[rows()[0]])


# Custom samplers


class Answers(nn.Module):
    """A sampler of the user's own, for what it answers alone."""

    reads_vectors = False

    def __init__(self, answer: Callable[[SamplingContext], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, user_BD, positive_BD, context, rng):
        return self.answer(context)


def custom_step(answer: Callable[[SamplingContext], object], *settings: str) -> TrainingStep:
    """With tables whose rows are read by id."""
    torch.manual_seed(1)
    model = MF(USERS, ITEMS, DIM)
    model.user.collect()
    model.item.collect()
    step = step_of(model, "loss.name=bpr", "sampler.name=uniform", *settings)
    step.samplers, step.sampler_names = nn.ModuleList([Answers(answer)]), ["my:sampler"]
    return step


ROWS = len(observed())
ITEM_BK = torch.randint(ITEMS, (ROWS, 3), generator=torch.Generator().manual_seed(5))
TRUE_BK = torch.ones(ROWS, 3, dtype=torch.bool)
GIVEN = {"vector_BKD": torch.zeros(ROWS, 3, DIM), "mask_BK": TRUE_BK, "item_BK": ITEM_BK}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"mask_BK": None},
            f"has a mask_BK of NoneType; return bool of shape [{ROWS}, K], and K of 1 or more",
        ),
        ({"mask_BK": TRUE_BK.float()}, f"has a mask_BK of float32 of shape [{ROWS}, 3]; return bool"),
        ({"mask_BK": TRUE_BK[:1]}, "has a mask_BK of bool of shape [1, 3]; return bool"),
        (
            {name: value[:, :0] for name, value in GIVEN.items()},
            f"has a mask_BK of bool of shape [{ROWS}, 0]",
        ),
        ({"item_BK": ITEM_BK[0]}, "for an item_BK of int64 of shape [3]; return [B, K] for int64"),
        ({"item_BK": ITEM_BK[:2]}, "for an item_BK of int64 of shape [2, 3]; return"),
        ({"item_BK": ITEM_BK.int()}, f"for an item_BK of int32 of shape [{ROWS}, 3]; return"),
        ({"item_BK": ITEM_BK.tolist()}, "for an item_BK of list; return"),
        (
            {"vector_BKD": torch.zeros(ROWS, DIM)},
            f"for a vector_BKD of float32 of shape [{ROWS}, {DIM}]; ret",
        ),
        ({"item_BK": ITEM_BK + ITEMS}, "in item_BK where mask_BK is True; ids run from 0 to 39"),
        ({"item_BK": ITEM_BK.where(ITEM_BK != 7, 10**9)}, "has item 1000000000 in item_BK where mask_BK"),
        ({"item_BK": torch.tensor([[1, -1, 2]])}, "has item -1 in item_BK where mask_BK is True"),
    ],
)
def test_a_custom_samplers_answer_that_is_not_one_is_refused(change, says):
    """Compiled loops would read memory that is not theirs, or torch would name no sampler."""
    step = custom_step(lambda context: Negatives(**(GIVEN | change)))
    with pytest.raises(AdarError, match=re.escape(says)) as caught:
        step(*pair_rows(), KEY)
    assert str(caught.value).startswith("sampler.name my:sampler: has ")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_masked_negative_of_a_custom_sampler_may_have_any_id(lazy, shared):
    item_BK, mask_BK = ITEM_BK[:1] if shared else ITEM_BK, TRUE_BK.clone()
    mask_BK[:, 1] = False

    def loss(id: int) -> torch.Tensor:
        given_BK = item_BK.clone()
        given_BK[:, 1] = id

        def answer(context: SamplingContext) -> Negatives:
            if lazy:
                return real_items(context, given_BK, mask_BK)
            return Negatives(context.vectors(given_BK.clamp(0, ITEMS - 1)), mask_BK, given_BK)

        return custom_step(answer, "loss.l2=0")(*pair_rows(), KEY)[0]

    assert loss(-1) == loss(10**9) == loss(0)


@pytest.mark.parametrize("l2", [0, 0.1])
def test_a_custom_samplers_vectors_count_where_tables_are_read_by_id(l2):
    weight_D = nn.Parameter(torch.linspace(0.5, 2, DIM))
    step = custom_step(
        lambda context: Negatives(context.vectors(ITEM_BK) * weight_D, TRUE_BK, ITEM_BK), f"loss.l2={l2}"
    )
    user_B, positive_B, row_B = pair_rows()
    assert step.model.pairs is not None
    loss, _ = step(user_B, positive_B, row_B, KEY)
    loss.backward()
    user_BD, positive_BD = (
        step.model.user.weight[user_B].detach(),
        step.model.item.weight[positive_B].detach(),
    )
    item_BKD, expected_D = step.model.item.weight[ITEM_BK].detach(), weight_D.detach().requires_grad_()
    negative_BK = torch.einsum("bd,bkd->bk", user_BD, item_BKD * expected_D)
    expected = softplus(negative_BK - (user_BD * positive_BD).sum(1, keepdim=True)).mean(1).sum()
    squares = (user_BD.square().sum() + positive_BD.square().sum()) + item_BKD.square().sum() / 3
    expected = expected + l2 * squares / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(weight_D.grad, torch.autograd.grad(expected, expected_D)[0])
    assert weight_D.grad.any()


def test_real_items_of_a_custom_sampler_are_scored_like_their_vectors():
    answers = (
        lambda context: real_items(context, ITEM_BK, TRUE_BK),
        lambda context: Negatives(context.vectors(ITEM_BK), TRUE_BK, ITEM_BK),
    )
    by_id, by_vectors = (custom_step(answer, "loss.l2=0.1")(*pair_rows(), KEY) for answer in answers)
    torch.testing.assert_close(by_id, by_vectors)


# Workers

EVERYTHING = [
    (loss, sampler)
    for loss in ("bpr", "bce", "sampled_softmax", "cross_entropy")
    for sampler in ("uniform", "popularity", "dns", "mixgcf", "ahns", "dens", "adar", "all")
    if (loss == "cross_entropy" and sampler in ("all", "adar"))
    or (loss != "cross_entropy" and sampler != "all")
]


@pytest.mark.parametrize("rows", [pair_rows, sequence_rows], ids=["pairs", "sequences"])
@pytest.mark.parametrize(("loss", "sampler"), EVERYTHING)
def test_workers_sums_of_losses_and_gradients_are_those_of_the_whole_batch(loss, sampler, rows):
    model = mf() if rows is pair_rows else MeanOfHistory()
    settings = [f"loss.name={loss}", f"sampler.name={sampler}"]
    parts = [slice(0, None, 2), slice(0, 0), slice(1, None, 2)]

    def total(slices: list[slice]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        step = step_of(model, *settings).double()
        model.zero_grad()
        value, statistics = 0.0, 0.0
        for part in slices:
            loss, sums = step(*(column[part] for column in rows()), KEY)
            loss.backward()
            value, statistics = value + loss.detach(), statistics + sums
        return value, statistics, [p.grad for p in model.parameters()]

    torch.manual_seed(0)
    whole = total([slice(None)])
    torch.manual_seed(0)
    for ours, expected in zip(total(parts), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


# Losses


def test_bce_with_adar_is_the_uniform_negatives_and_weighted_pairs_with_the_generated_ones():
    model = mf()
    step = step_of(
        model,
        "loss.name=bce",
        "sampler.name=adar",
        "uniform.negatives=2",
        "adar.weight=0.7",
        "adar.negatives=3",
        "adar.candidates=9",
    )
    user_B, item_B, row_B = pair_rows()
    loss, _ = step(user_B, item_B, row_B, KEY)
    user_BD, positive_BD = model.users({"user": user_B}), model.items(item_B)
    seen = observed()
    items = SamplingContext(
        model.items,
        ITEMS,
        seen=seen.seen_by(user_B),
        seen_count_B=seen.counts()[user_B],
    )
    uniform, adar = (
        sampler(user_BD, positive_BD, items, RowRng(row_B, *KEY, stream))
        for stream, sampler in enumerate(step.samplers)
    )
    assert uniform.mask_BK.all()
    assert adar.mask_BK.all()
    positive_B1 = (user_BD * positive_BD).sum(1, keepdim=True)
    expected = softplus(-positive_B1).sum()
    expected += softplus(dot_score(user_BD, uniform.vector_BKD)).mean(1).sum()
    expected += 0.7 * softplus(dot_score(user_BD, adar.vector_BKD) - positive_B1).mean(1).sum()
    torch.testing.assert_close(loss, expected)


def test_in_batch_softmax_is_that_of_corrected_scores_over_the_batch():
    """Yi et al. (RecSys 2019): logits less the logarithm of an item's share of all interactions."""
    model = mf()
    step = step_of(
        model, "loss.name=sampled_softmax", "sampler.name=in_batch", "sampled_softmax.temperature=0.5"
    )
    user_B, item_B, row_B = pair_rows()
    loss, _ = step(user_B, item_B, row_B, KEY)
    seen, count_I = observed(), observed().item_counts()
    expected = 0.0
    for user, positive in zip(user_B.tolist(), item_B.tolist(), strict=True):
        corrected_I = (model.item.weight @ model.user.weight[user]) / 0.5 - (count_I / count_I.sum()).log()
        others = [
            i for i in item_B.tolist() if not seen.contains(torch.tensor([user]), torch.tensor([[i]])).item()
        ]
        logits = torch.cat([corrected_I[positive][None], corrected_I[others]])
        expected += cross_entropy(logits, torch.tensor(0))
    torch.testing.assert_close(loss, expected)
    plain, _ = step_of(
        model,
        "loss.name=sampled_softmax",
        "sampler.name=in_batch",
        "sampled_softmax.temperature=0.5",
        "sampled_softmax.log_q=false",
    )(user_B, item_B, row_B, KEY)
    assert not torch.isclose(plain, loss)


def test_generated_negatives_join_the_softmax_with_their_weight_and_its_temperature():
    model = mf()
    rows = pair_rows()

    def gradients(loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss, tuple(model.parameters()), retain_graph=True)

    settings = (
        "loss.name=cross_entropy",
        "cross_entropy.temperature=0.5",
        "adar.candidates=6",
        "adar.hidden_positives=1.1",
    )
    without, _ = step_of(model, *settings, "sampler.name=all")(*rows, KEY)
    light, heavy = (step_of(model, *settings, f"adar.weight={weight}")(*rows, KEY)[0] for weight in (0.5, 1))
    user_BD, positive_BD = model.users({"user": rows[0]}), model.items(rows[1])
    seen = observed()
    items = SamplingContext(
        model.items, ITEMS, seen=seen.seen_by(rows[0]), seen_count_B=seen.counts()[rows[0]]
    )
    sampler = step_of(model, *settings).samplers[-1]
    made = sampler(user_BD, positive_BD, items, RowRng(rows[2], *KEY, 1))
    assert made.mask_BK.all()
    # For who has seen little the pair pushes and does not pull: no gradient through the positive's score.
    assert {kept == 1 for kept in made.kept_B.tolist()} == {True, False}
    positive_B = (user_BD * positive_BD).sum(1)
    beside_B = torch.where(made.kept_B < 1, positive_B, positive_B.detach())
    gap_BK = dot_score(user_BD, made.vector_BKD) - beside_B[:, None]
    joined = (made.kept_B * softplus(gap_BK / 0.5).mean(1)).sum()
    torch.testing.assert_close(heavy - without, joined)
    torch.testing.assert_close(light - without, joined / 2)
    for ours, expected in zip(gradients(heavy - without), gradients(joined), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_only_models_that_read_histories_are_sequential():
    assert is_sequential(load_config(settings=["model.name=sasrec"]))
    assert not is_sequential(load_config(settings=["model.name=neumf"]))

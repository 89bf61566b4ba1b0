"""Models of histories: one suite for all, each against an independent computation, and learning a world.

Legend: B rows of the batch, L positions of a history, N = L + 1, K items a row, I items, D dimensions.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, layer_norm, softplus

from adar_ray.config import load_config
from adar_ray.interactions import PADDING
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel, BERT4Rec, FMLPRec, GRU4Rec, SASRec
from adar_ray.models.bert4rec import BERT4RecSettings
from adar_ray.models.fmlprec import Filter
from adar_ray.models.protocol import dot_score, training_positions
from adar_ray.models.sequence import Packing, SelfAttention
from adar_ray.registry import MODELS as REGISTRY
from adar_ray.rng import RowRng
from adar_ray.samplers.base import SamplingContext
from adar_ray.training.build import build_loss, build_samplers
from adar_ray.training.step import TrainingStep

ITEMS, LENGTH, DIM = 13, 6, 8
KINDS = {"gru4rec": GRU4Rec, "sasrec": SASRec, "bert4rec": BERT4Rec, "fmlprec": FMLPRec}
MODELS = [*KINDS, *(f"{name} cosine" for name in KINDS)]
NEXT_ITEM = ["gru4rec", "sasrec"]
LAST_ONLY = ["bert4rec", "fmlprec"]


def build(name: str, seed: int = 0, dropout: float = 0.0, **more) -> nn.Module:
    """A model whose weights are large enough for every one of them to matter."""
    torch.manual_seed(seed)
    family, _, cosine = name.partition(" ")
    settings = REGISTRY[family].settings(layers=2, dropout=dropout, **more)
    model = KINDS[family](ITEMS, LENGTH, DIM, settings, cosine=bool(cosine))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def histories(rows: int = 5) -> torch.Tensor:
    """Rows of 6, 5, 4, ... random items; item 0 occurs in none."""
    item_BL = torch.randint(1, ITEMS, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    return item_BL.masked_fill(torch.arange(LENGTH) < torch.arange(rows)[:, None], PADDING)


def users(model: nn.Module, item_BL: torch.Tensor) -> torch.Tensor:
    return model.users({"user": torch.arange(len(item_BL)), "history": item_BL})


def all_scores(model: BaseModel, item_BL: torch.Tensor) -> torch.Tensor:
    return model.score(users(model, item_BL)[:, -1], model.items(torch.arange(ITEMS))[None])


# Every model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_vectors_for_positions_and_for_items_of_any_shape(name):
    model = build(name).eval()
    assert isinstance(model, BaseModel)
    item = torch.randint(ITEMS, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    assert model.items(item).shape == (2, 3, 4, DIM)
    assert torch.equal(model.items(item)[1, 2, 3], model.items(item[1, 2, 3]))
    assert users(model, histories()).shape == (5, LENGTH, DIM)


@pytest.mark.parametrize("name", MODELS)
def test_a_score_is_the_product_of_the_vectors_whose_length_is_one_with_cosine(name):
    model = build(name).eval()
    user_BD, item_ID = users(model, histories())[:, -1], model.items(torch.arange(ITEMS))
    by_hand = [[sum((u * i).tolist()) for i in item_ID] for u in user_BD]
    torch.testing.assert_close(all_scores(model, histories()), torch.tensor(by_hand))
    own_BKD = item_ID.expand(5, -1, -1).contiguous()
    torch.testing.assert_close(model.score(user_BD, own_BKD), torch.tensor(by_hand))
    length = torch.cat([user_BD, item_ID]).norm(dim=1)
    assert torch.allclose(length, torch.ones(())) == name.endswith("cosine")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_that_comes_after_a_position_changes_it(name, training):
    model, before = build(name).train(training), histories()
    for position in range(LENGTH - 1):
        after = before.clone()
        after[:, position + 1 :] = (after[:, position + 1 :] + 5) % ITEMS
        kept = slice(None, position + 1)
        assert torch.equal(users(model, after)[:, kept], users(model, before)[:, kept])


@pytest.mark.parametrize("name", MODELS)
def test_every_item_of_a_history_changes_the_user_now(name):
    model, before = build(name).eval(), histories(1)
    for position in range(LENGTH):
        after = before.clone()
        after[:, position] = (after[:, position] + 5) % ITEMS
        assert not torch.allclose(users(model, after)[:, -1], users(model, before)[:, -1], atol=1e-3)


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_a_position_is_what_the_user_is_if_the_history_ends_there(name):
    model, item_BL = build(name), histories()
    user_BLD = users(model, item_BL)
    for position in range(LENGTH):
        beginning = torch.full_like(item_BL, PADDING)
        beginning[:, LENGTH - position - 1 :] = item_BL[:, : position + 1]
        real_B = item_BL[:, position] != PADDING
        torch.testing.assert_close(users(model, beginning)[real_B, -1], user_BLD[real_B, position])


@pytest.mark.parametrize("name", LAST_ONLY)
def test_positions_that_know_their_future_give_nothing_to_be_trained_on(name):
    model = build(name).eval()
    assert not users(model, histories())[:, :-1].any()
    assert users(model, histories())[:, -1].any(1).all()


@pytest.mark.parametrize("name", MODELS)
def test_more_padding_before_a_history_changes_nothing(name):
    model, item_BL = build(name).eval(), histories(4)[3:, 3:]
    expected_LD = users(model, item_BL)[0]
    for more in range(1, 4):
        padded_BL = torch.nn.functional.pad(item_BL, (more, 0), value=PADDING)
        torch.testing.assert_close(users(model, padded_BL)[0, more:], expected_LD)


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_no_item_and_learns_nothing(name):
    model = build(name).eval()
    user_BLD = users(model, histories())
    model.zero_grad()
    user_BLD[:, -1].square().sum().backward()
    assert not model.item.weight.grad[0].any()
    with torch.no_grad():
        model.item.weight[0] += 1.0
    assert torch.equal(users(model, histories()), user_BLD)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_user_without_a_history_has_finite_vectors_and_disturbs_nobody(name, training):
    model = build(name).train(training)
    nobody = torch.full((1, LENGTH), PADDING)
    together = users(model, torch.cat([histories(), nobody]))
    assert together.isfinite().all()
    torch.testing.assert_close(together[:-1], users(model, histories()))
    together.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_row_is_the_same_in_any_batch(name):
    model, item_BL = build(name).eval(), histories()
    together = users(model, item_BL)
    for row in range(len(item_BL)):
        torch.testing.assert_close(users(model, item_BL[row : row + 1]), together[row : row + 1])
    torch.testing.assert_close(users(model, item_BL.flip(0)), together.flip(0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_rows_gives_a_gradient_of_zero(name, training):
    model = build(name).train(training)
    history_BL, target_BL = training_positions(
        model, torch.empty(0, LENGTH + 1, dtype=torch.int64), LENGTH, RowRng.fresh(0)
    )
    assert target_BL.shape == history_BL.shape
    if not training:
        history_BL = history_BL[:, -LENGTH:]
    user_BLD = users(model, history_BL)
    assert user_BLD.shape == (*history_BL.shape, DIM)
    user_BLD.sum().backward()
    assert not any(parameter.grad.any() for parameter in model.parameters())
    with torch.no_grad():
        assert users(model, history_BL).shape == user_BLD.shape


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_and_every_item_and_position_shown(name):
    model = build(name).eval()
    weight = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    (users(model, histories())[:, -1] * weight).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    shown = histories().unique()
    assert model.item.weight.grad[shown[shown != PADDING]].any(1).all()
    if hasattr(model, "position"):
        assert model.position.weight.grad.any(1).all()


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_scores_to_a_model_that_had_others(name):
    saved, other = build(name).eval(), build(name, seed=1).eval()
    assert not torch.allclose(all_scores(other, histories()), all_scores(saved, histories()))
    other.load_state_dict(saved.state_dict())
    assert torch.equal(all_scores(other, histories()), all_scores(saved, histories()))


def test_attention_drops_its_share_of_weights_in_training_alone():
    """Of positions that see themselves alone, with a weight of one, and values of one."""
    torch.manual_seed(0)
    attention, mixed = SelfAttention(4, 2, 0.25), []
    with torch.no_grad():
        attention.query_key_value.weight.zero_()
        attention.query_key_value.bias.fill_(1)
    attention.output.register_forward_pre_hook(lambda _, given: mixed.append(given[0]))
    alone_RWW = torch.ones(2000, 1, 1, dtype=torch.bool)
    for is_training in (True, False):
        attention.train(is_training)(torch.zeros(2000, 1, 4), alone_RWW)
    first_R2, second_R2 = mixed[0].view(2000, 2, 2).unbind(2)  # of each head
    assert torch.equal(first_R2, second_R2)
    assert first_R2.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (first_R2 == 0).double().mean().item() == pytest.approx(
        0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000)
    )
    assert (mixed[1] == 1).all()


@pytest.mark.parametrize("name", KINDS)
def test_dropout_is_of_training_alone(name):
    model, plain = build(name, dropout=0.5), build(name)
    item_BL = histories()
    if name == "bert4rec":
        item_BL[:, -1] = ITEMS  # the mask: what is asked for
    assert not torch.equal(users(model, item_BL), users(model, item_BL))
    assert torch.equal(users(model.eval(), histories()), users(plain.eval(), histories()))


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "fmlprec"])
def test_weights_start_as_in_the_reference(name):
    torch.manual_seed(0)
    for parameter_name, parameter in KINDS[name](500, 50, 64).named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(parameter.mean().item()) < 0.002
        else:
            assert (parameter == parameter_name.endswith("norm.weight")).all()


# A world in which the next item is known


def walks() -> tuple[torch.Tensor, torch.Tensor]:
    """From each of twelve items users go round one by one or five at a time, seven steps or five; `[B, N]`
    and the item after each walk, `[B]`, which other users' walks tell.

    Where a walk goes can be told from two of its items, not from one.
    """
    start_B, step_B, items_B = torch.cartesian_prod(
        torch.arange(12), torch.tensor([1, 5]), torch.tensor([LENGTH + 1, LENGTH - 1])
    ).T
    position_BN = torch.arange(LENGTH + 1) - (LENGTH + 1 - items_B)[:, None]
    walk_BN = ((start_B[:, None] + step_B[:, None] * position_BN) % 12).masked_fill(position_BN < 0, PADDING)
    return walk_BN, (start_B + step_B * items_B) % 12


@pytest.mark.parametrize("name", MODELS)
def test_the_next_step_of_every_walk_is_found(name):
    walk_BN, wanted_B = walks()
    torch.manual_seed(1)
    family, _, cosine = name.partition(" ")
    settings = REGISTRY[family].settings(layers=1, dropout=0)
    model = KINDS[family](12, LENGTH, 32, settings, cosine=bool(cosine))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    temperature = 0.1 if cosine else 1.0
    for step in range(200):
        rng = RowRng(torch.arange(len(walk_BN)), 0, step)
        history_BL, target_BL = training_positions(model, walk_BN, LENGTH, rng)
        score_BLI = users(model, history_BL) @ model.items(torch.arange(12)).T / temperature
        loss = cross_entropy(score_BLI.flatten(0, 1), target_BL.flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    score_BI = model.score(users(model, walk_BN[:, 1:])[:, -1], model.items(torch.arange(12))[None])
    assert score_BI.argmax(1).tolist() == wanted_B.tolist()


# The training step


@pytest.mark.parametrize("name", MODELS)
def test_workers_sums_of_losses_and_gradients_are_those_of_the_whole_batch(name):
    model, sequence_BN = build(name).double(), sequences(12)
    user_B = torch.arange(len(sequence_BN))
    of_E, at_E = (sequence_BN != PADDING).nonzero(as_tuple=True)
    observed = UserItems(of_E, sequence_BN[of_E, at_E], len(sequence_BN), ITEMS)
    # Every item but the positive, and ADAR's negatives.
    config = load_config(
        settings=[
            "loss.name=cross_entropy",
            "sampler.name=adar",
            "adar.pool=9",
            "adar.candidates=2",
            "loss.l2=0.01",
        ]
    )
    step = TrainingStep(
        config,
        model,
        build_loss(config, observed.n_items),
        build_samplers(config, model, observed).double(),
        observed,
        LENGTH,
    )

    def total(parts: list[slice]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        value, statistics = 0.0, 0.0
        for part in parts:
            loss, sums = step(user_B[part], sequence_BN[part], user_B[part] + 100, (3, 1, 4))
            loss.backward()
            value, statistics = value + loss.detach(), statistics + sums
        return value, statistics, [parameter.grad for parameter in model.parameters()]

    whole = total([slice(None)])
    assert whole[1][2] > 0  # pairs
    assert all(gradient.any() for gradient in whole[2])
    three = total([slice(0, None, 2), slice(0, 0), slice(1, None, 2)])
    for ours, expected in zip(three, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_beside_a_softmax_the_pair_with_a_generated_negative_pulls_as_well():
    model, sequence_BN = build("gru4rec"), torch.full((12, LENGTH + 1), PADDING)
    sequence_BN[:, -2:] = torch.randint(ITEMS, (12, 2), generator=torch.Generator().manual_seed(0))
    user_B, row_B = torch.arange(12), torch.arange(12) + 100
    seen = UserItems(user_B.repeat(2), sequence_BN[:, -2:].T.flatten(), 12, ITEMS)

    def step(weight: float) -> TrainingStep:
        settings = ["loss.name=cross_entropy", "cross_entropy.temperature=0.5", f"adar.weight={weight}"]
        config = load_config(settings=settings)
        torch.manual_seed(0)
        return TrainingStep(
            config, model, build_loss(config, seen.n_items), build_samplers(config, model, seen), seen, LENGTH
        )

    light, heavy = (step(weight)(user_B, sequence_BN, row_B, (3, 1, 4))[0] for weight in (0.5, 1))
    user_BD, positive_BD = users(model, sequence_BN[:, :-1])[:, -1], model.items(sequence_BN[:, -1])
    rng = RowRng(row_B * LENGTH + LENGTH - 1, 3, 1, 4, 1)
    made = step(1).samplers[1](
        user_BD, positive_BD, SamplingContext(model.items, ITEMS, seen=seen.seen_by(user_B)), rng
    )
    score_BK, positive_B1 = (dot_score(user_BD, x) for x in (made.vector_BKD, positive_BD[:, None]))
    expected = softplus((score_BK - positive_B1) / 0.5).mean(1).sum() / 2
    torch.testing.assert_close(heavy - light, expected)
    parameters = tuple(model.parameters())
    given = torch.autograd.grad(heavy - light, parameters, retain_graph=True)
    for ours, wanted in zip(given, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


# Each against something else


@pytest.mark.parametrize(
    ("causal", "expected"),
    [(True, ["1000", "1100", "0010", "0001"]), (False, ["1100", "1100", "0010", "0001"])],
)
def test_packed_histories_lie_end_to_end_and_see_nothing_of_each_other(causal, expected):
    item_BL = torch.tensor([[PADDING, PADDING, 1, 2], [PADDING] * 4, [3, 4, 5, 6], [PADDING] * 3 + [7]])
    packing = Packing(item_BL)
    assert packing.pack(item_BL, 9).tolist() == [[3, 4, 5, 6], [1, 2, 7, PADDING]]
    unpacked_BL = packing.unpack(packing.pack(item_BL, 9)[..., None])[..., 0]
    assert unpacked_BL.tolist() == [[0, 0, 1, 2], [0, 0, 0, PADDING], [3, 4, 5, 6], [0, 0, 0, 7]]
    visible_RWW = packing.visible(causal)
    assert ["".join(str(int(seen)) for seen in row) for row in visible_RWW[1]] == expected


def test_room_left_in_a_packed_row_sees_itself_alone():
    item_BL = torch.tensor([[1, 2, 3], [PADDING, 4, 5]])
    packing = Packing(item_BL)
    assert packing.pack(item_BL, 9).tolist() == [[1, 2, 3], [4, 5, 9]]
    assert packing.visible(causal=False)[1].tolist() == [[True, True, False]] * 2 + [[False, False, True]]


def test_many_histories_take_little_more_room_than_their_items():
    length_B = torch.rand(500, generator=torch.Generator().manual_seed(0)).pow(3).mul(50).long() + 1
    row_B = torch.arange(500)[:, None]
    of_BL = row_B.where(torch.arange(50) >= 50 - length_B[:, None], PADDING)
    packing = Packing(of_BL)
    of_RW = packing.pack(of_BL, PADDING)
    assert of_RW.shape[1] == length_B.max()
    assert (of_RW != PADDING).float().mean() > 0.98
    runs = [run for row in of_RW for run in torch.unique_consecutive(row).tolist() if run != PADDING]
    assert sorted(runs) == list(range(500))  # no history is divided
    assert torch.equal(packing.unpack(of_RW[..., None])[..., 0], of_BL.clamp_min(0))


def transformer(model: nn.Module) -> nn.TransformerEncoder:
    """torch's transformer with the model's own parameters."""
    layer = nn.TransformerEncoderLayer(DIM, 2, 4 * DIM, 0.0, "gelu", 1e-12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for ours, theirs in zip(model.transformer.attention, encoder.layers, strict=True):
        theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.query_key_value.parameters()
        theirs.self_attn.out_proj, theirs.norm1 = ours.output, ours.residual.norm
    for ours, theirs in zip(model.transformer.feed_forward, encoder.layers, strict=True):
        theirs.linear1, theirs.linear2, theirs.norm2 = ours.inner, ours.outer, ours.residual.norm
    return encoder


def padded_users(name: str, model: nn.Module, item_BL: torch.Tensor) -> torch.Tensor:
    """Every position computed by torch's own layers, padding as well."""
    real_BL = item_BL != PADDING
    x_BLD = model.item.weight[item_BL.clamp_min(0)] * real_BL[..., None]
    if name == "gru4rec":
        return model.dense(model.gru(x_BLD)[0])
    hidden_BLL = ~(real_BL[:, None] | torch.eye(item_BL.shape[1], dtype=torch.bool))
    if name == "sasrec":
        hidden_BLL = hidden_BLL | ~torch.ones_like(hidden_BLL).tril()
        position_BLD = model.position.weight[real_BL.cumsum(1).sub(1).clamp_min(0)]
    else:
        position_BLD = model.position.weight[-item_BL.shape[1] :]
    x_BLD = model.input_layer.norm(x_BLD + position_BLD)
    x_BLD = transformer(model)(x_BLD, mask=hidden_BLL.repeat_interleave(2, 0))
    if name == "sasrec":
        return x_BLD
    user_BLD = model.projection_norm(gelu(model.projection(x_BLD)))
    return user_BLD * (item_BL == model.mask)[..., None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "bert4rec"])
def test_histories_of_all_lengths_are_what_they_are_with_padding_and_so_are_gradients(name, training):
    model, rng = build(name).double().train(training), torch.Generator().manual_seed(0)
    length_B = torch.tensor([6, 1, 0, 3, 1, 6, 2, 5, 0, 1, 4, 1])
    item_BL = torch.randint(0, ITEMS, (len(length_B), LENGTH), generator=rng)
    item_BL = item_BL.masked_fill(torch.arange(LENGTH) < LENGTH - length_B[:, None], PADDING)
    shown_BN = item_BL
    if name == "bert4rec" and training:  # some items are hidden
        item_BL[::2, -1] = item_BL[7, 2:4] = ITEMS
    elif name == "bert4rec":
        shown_BN = torch.cat([item_BL, torch.full((len(item_BL), 1), ITEMS)], 1)
    asked_BL = item_BL != PADDING
    asked_BL[:, -1] = True  # without a history, too
    weight_BLD = torch.randn(*item_BL.shape, DIM, generator=rng, dtype=torch.float64) * asked_BL[..., None]

    found_BLD = users(model, item_BL)
    expected_BLD = padded_users(name, model, shown_BN)[:, -LENGTH:]
    torch.testing.assert_close(found_BLD[asked_BL], expected_BLD[asked_BL])
    parameters = tuple(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((found_BLD * weight_BLD).sum(), parameters),
        torch.autograd.grad((expected_BLD * weight_BLD).sum(), parameters),
        strict=True,
    ):
        assert ours.any()
        torch.testing.assert_close(ours, theirs)


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_gru4rec_is_the_equations_of_a_gru_over_the_items_alone():
    model, item_BL = build("gru4rec").eval(), histories()
    weight = arrays(model)
    user_BLD = users(model, item_BL).detach().double().numpy()
    for row, item_L in enumerate(item_BL.tolist()):
        states = [np.zeros(2 * DIM), np.zeros(2 * DIM)]
        for position, item in enumerate(item_L):
            if item == PADDING:
                continue
            x = weight["item.weight"][item]
            for layer in range(2):
                h = states[layer]
                from_x = np.split(weight[f"gru.weight_ih_l{layer}"] @ x, 3)
                from_h = np.split(weight[f"gru.weight_hh_l{layer}"] @ h, 3)
                reset, update = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
                candidate = np.tanh(from_x[2] + reset * from_h[2])
                x = states[layer] = (1 - update) * candidate + update * h
            expected = weight["dense.weight"] @ x + weight["dense.bias"]
            np.testing.assert_allclose(user_BLD[row, position], expected, rtol=1e-4, atol=1e-5)


def test_elsewhere_than_on_a_cpu_gru4rec_reads_whole_rows():
    model, history_BL = build("gru4rec").to("meta"), histories().to("meta")
    assert model.users({"history": history_BL}).shape == (5, LENGTH, DIM)


def normalized(x: np.ndarray, weight: dict[str, np.ndarray], name: str) -> np.ndarray:
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return (x - x.mean(-1, keepdims=True)) / spread * weight[f"{name}.weight"] + weight[f"{name}.bias"]


def dense(x: np.ndarray, weight: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]


def test_sasrec_is_attention_written_out_over_the_items_alone():
    model, item_BL = build("sasrec").eval(), histories()
    weight = arrays(model)
    user_BLD = users(model, item_BL).detach().double().numpy()
    erf = np.vectorize(math.erf)
    for row, item_L in enumerate(item_BL.tolist()):
        real = [item for item in item_L if item != PADDING]
        x = weight["item.weight"][real] + weight["position.weight"][: len(real)]
        x = normalized(x, weight, "input_layer.norm")
        for layer in range(2):
            name = f"transformer.attention.{layer}"
            query, key, value = np.split(dense(x, weight, f"{name}.query_key_value"), 3, axis=1)
            mixed = np.zeros_like(x)
            for head in (slice(0, 4), slice(4, 8)):
                for now in range(len(real)):
                    logit = key[: now + 1, head] @ query[now, head] / math.sqrt(4)
                    share = np.exp(logit) / np.exp(logit).sum()
                    mixed[now, head] = share @ value[: now + 1, head]
            x = normalized(x + dense(mixed, weight, f"{name}.output"), weight, f"{name}.residual.norm")
            name = f"transformer.feed_forward.{layer}"
            inner = dense(x, weight, f"{name}.inner")
            inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
            x = normalized(x + dense(inner, weight, f"{name}.outer"), weight, f"{name}.residual.norm")
        np.testing.assert_allclose(user_BLD[row, LENGTH - len(real) :], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [5, 6])
def test_a_filter_is_a_circular_convolution(length):
    torch.manual_seed(0)
    layer = Filter(length, DIM, 0.0)
    nn.init.normal_(layer.weight)
    x_BLD = torch.randn(3, length, DIM)
    kernel = np.fft.irfft(torch.view_as_complex(layer.weight.detach()).numpy(), n=length, axis=0)
    convolved = np.zeros(x_BLD.shape)
    for t in range(length):
        for source in range(length):
            convolved[:, t] += x_BLD[:, source].numpy() * kernel[(t - source) % length]
    expected = layer_norm(x_BLD + torch.from_numpy(convolved).float(), (DIM,))
    torch.testing.assert_close(layer(x_BLD), expected, rtol=1e-3, atol=1e-4)


# What is shown and what is to be found


def sequences(rows: int, width: int = LENGTH + 1) -> torch.Tensor:
    """Rows that hold 0, 1, ... `width` items, over and over."""
    item_BN = torch.randint(0, ITEMS, (rows, width), generator=torch.Generator().manual_seed(3))
    padding_B1 = width - torch.arange(rows)[:, None] % (width + 1)
    return item_BN.masked_fill(torch.arange(width) < padding_B1, PADDING)


@pytest.mark.parametrize("name", LAST_ONLY)
def test_a_rows_cloze_is_the_same_on_any_worker_and_another_in_the_next_step(name):
    model, sequence_BN, row_B = build(name), sequences(64), torch.arange(64)
    whole = model.cloze(sequence_BN, LENGTH, RowRng(row_B, 1, 2))
    other = model.cloze(sequence_BN, LENGTH, RowRng(row_B, 1, 3))
    for ours, theirs, then in zip(
        whole, model.cloze(sequence_BN[1::3], LENGTH, RowRng(row_B[1::3], 1, 2)), other, strict=True
    ):
        assert torch.equal(ours[1::3], theirs)
        assert not torch.equal(ours, then)


def test_bert4rec_hides_a_share_of_the_items_or_the_last_one():
    rows, width, share = 8000, 20, 0.3
    model = BERT4Rec(ITEMS, width - 1, DIM, BERT4RecSettings(mask_share=share))
    sequence_BN = sequences(rows, width)
    shown_BN, target_BN = model.cloze(sequence_BN, LENGTH, RowRng(torch.arange(rows), 5))
    hidden_BN = shown_BN == model.mask
    assert torch.equal(torch.where(hidden_BN, target_BN, shown_BN), sequence_BN)
    assert (target_BN[~hidden_BN] == PADDING).all()
    assert (target_BN[hidden_BN] != PADDING).all()
    has_items_B = (sequence_BN != PADDING).any(1)
    assert torch.equal(hidden_BN.any(1), has_items_B)

    full_B = (sequence_BN != PADDING).all(1)
    hidden_BN = hidden_BN[full_B].float()
    # Half hide the last alone; of the others, 0.7 ** 20 hide one because they would hide none.
    assert hidden_BN[:, :-1].mean().item() == pytest.approx(share / 2, abs=0.02)
    assert hidden_BN[:, -1].mean().item() == pytest.approx((1 + share) / 2, abs=0.08)
    assert (hidden_BN.sum(1) == 1).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_bert4rec_hides_one_item_where_the_share_is_next_to_nothing():
    model = BERT4Rec(ITEMS, LENGTH, DIM, BERT4RecSettings(mask_share=1e-9))
    sequence_BN = sequences(800)
    _, target_BN = model.cloze(sequence_BN, LENGTH, RowRng(torch.arange(800), 5))
    assert torch.equal((target_BN != PADDING).sum(1), (sequence_BN != PADDING).any(1).long())
    first_of_full_B = target_BN[(sequence_BN != PADDING).all(1), 0] != PADDING
    assert first_of_full_B.any()  # not the last alone


def test_bert4rec_in_training_answers_at_masks_alone():
    model, shown_BN = build("bert4rec"), sequences(8)
    assert not users(model, shown_BN).any()
    shown_BN[7, 2] = model.mask
    user_BND = users(model, shown_BN)
    assert user_BND.any(-1).nonzero().tolist() == [[7, 2]]


def test_fmlprec_is_asked_for_the_item_after_every_beginning_as_often():
    rows = 8000
    model, sequence_BN = build("fmlprec"), sequences(rows)
    history_BL, target_BL = model.cloze(sequence_BN, LENGTH, RowRng(torch.arange(rows), 5))
    assert (target_BL[:, :-1] == PADDING).all()
    lengths = torch.zeros(LENGTH + 1)
    for sequence_N, history_L, target in zip(
        sequence_BN.tolist(), history_BL.tolist(), target_BL[:, -1].tolist(), strict=True
    ):
        items = [item for item in sequence_N if item != PADDING]
        shown = [item for item in history_L if item != PADDING]
        if len(items) < 2:
            assert target == PADDING
            continue
        assert history_L == [PADDING] * (LENGTH - len(shown)) + items[: len(shown)]
        assert target == items[len(shown)]
        if len(items) == LENGTH + 1:
            lengths[len(shown)] += 1
    share = lengths / lengths.sum()
    torch.testing.assert_close(share[1:], torch.full((LENGTH,), 1 / LENGTH), rtol=0, atol=0.05)
    assert share[0] == 0

"""Collaborative base models: one suite for all, each against its paper by hand, and the training step."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cosine_similarity, embedding_bag, leaky_relu, normalize, softplus
from torch.overrides import TorchFunctionMode

from adar_ray.config import Config, load_config
from adar_ray.interactions.item_features import ItemFeatures
from adar_ray.interactions.user_items import UserItems
from adar_ray.losses import bpr
from adar_ray.models import MF, NGCF, BaseModel, LightGCN, NeuMF, SimGCL, TwoTower, neumf
from adar_ray.models.graph import Graph, Nodes
from adar_ray.models.lightgcn import LightGCNSettings
from adar_ray.models.neumf import NeuMFSettings
from adar_ray.models.ngcf import NGCFSettings
from adar_ray.models.protocol import ranking_items, snapshot
from adar_ray.models.simgcl import SimGCLSettings
from adar_ray.models.twotower import TwoTowerSettings
from adar_ray.ranking.top_items import top_items
from adar_ray.rng import RowRng, uniform_numbers
from adar_ray.samplers import UniformSampler
from adar_ray.samplers.base import SamplingContext
from adar_ray.samplers.uniform import UniformSettings
from adar_ray.training.build import build_loss, build_model, build_optimizer, build_samplers
from adar_ray.training.step import TrainingStep
from tests.processes import run_in_processes

USERS, ITEMS, DIM = 7, 9, 5
GRAPH = [name + cosine for name in ("ngcf", "lightgcn", "simgcl") for cosine in ("", " cosine")]
PRODUCT = ["mf", "mf cosine", "twotower", "twotower cosine", *GRAPH]  # whose score is a dot product
MODELS = ["neumf", *PRODUCT]


def small_graph() -> UserItems:
    """Random interactions of seven users with nine items; the last user and the last item have none."""
    happened = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.4
    happened[-1] = False
    happened[:, -1] = False
    return UserItems(*happened.nonzero().T, USERS, ITEMS)


def connected_graph() -> UserItems:
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS))
    return UserItems(*pairs[::2].T, USERS, ITEMS)


FEATURES = 4


def item_features() -> ItemFeatures:
    """Item i has feature i % 3, and every third one another, but for the last, which has none."""
    pairs = [(item, item % 3) for item in range(ITEMS - 1)]
    pairs = sorted([*pairs, *((item, 3) for item in range(0, ITEMS - 1, 3))])
    item_E, feature_E = torch.tensor(pairs).T.contiguous()
    start = torch.searchsorted(item_E, torch.arange(ITEMS + 1))
    return ItemFeatures(start, feature_E, torch.linspace(0.4, 1.2, len(item_E)), FEATURES)


def build(
    name: str, seed: int = 0, observed: UserItems | None = None, dim: int = DIM, first_user: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    family, _, cosine = name.partition(" ")
    observed = connected_graph() if observed is None else observed
    if family == "mf":
        return MF(observed.n_users, ITEMS, dim, cosine=bool(cosine))
    if family == "twotower":
        return TwoTower(observed.n_users, ITEMS, dim, item_features(), cosine=bool(cosine))
    if family == "neumf":
        return NeuMF(observed.n_users, ITEMS, dim, NeuMFSettings(dropout=0))
    if family == "ngcf":
        return NGCF(observed, dim, NGCFSettings(dropout=0), cosine=bool(cosine))
    if family == "simgcl":
        return SimGCL(observed, dim, cosine=bool(cosine), first_user=first_user)
    return LightGCN(observed, dim, cosine=bool(cosine))


def all_scores(model: BaseModel) -> torch.Tensor:
    return model.score(model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))[None])


def vectors(model: BaseModel) -> torch.Tensor:
    return torch.cat([model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))])


# Every model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_base_model_and_knows_items_of_any_shape(name):
    model = build(name)
    assert isinstance(model, BaseModel)
    length = DIM * {"neumf": 2, "ngcf": 3}.get(name.split()[0], 1)
    item = torch.randint(ITEMS, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    assert model.items(item).shape == (2, 3, 4, length)
    assert torch.equal(model.items(item)[1, 2, 3], model.items(item[1, 2, 3]))
    assert model.users({"user": torch.tensor([3, 3, 0])}).shape == (3, length)


@pytest.mark.parametrize("name", PRODUCT)
def test_a_score_is_the_product_of_the_vectors_and_with_cosine_their_cosine(name):
    model = build(name)
    user_BD, item_ID = model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))
    by_hand = [[sum((u * i).tolist()) for i in item_ID] for u in user_BD]
    torch.testing.assert_close(all_scores(model), torch.tensor(by_hand))
    if name.endswith("cosine"):
        torch.testing.assert_close(all_scores(model), cosine_similarity(user_BD[:, None], item_ID, dim=2))
        torch.testing.assert_close(item_ID.norm(dim=1), torch.ones(ITEMS))


@pytest.mark.parametrize("name", [name for name in PRODUCT if name.endswith("cosine")])
def test_length_power_leads_from_the_cosine_to_the_dot_product(name):
    model, plain = build(name), build(name.split()[0])
    user_BD, item_ID = plain.users({"user": torch.arange(USERS)}), plain.items(torch.arange(ITEMS))
    cosine_BI = cosine_similarity(user_BD[:, None], item_ID, dim=2)
    for power in (0.0, 0.5, 1.0):
        model.length_power = power
        ranked_ID = ranking_items(model, torch.arange(ITEMS))
        score_BI = model.score(model.users({"user": torch.arange(USERS)}), ranked_ID[None])
        torch.testing.assert_close(score_BI, cosine_BI * item_ID.norm(dim=1) ** power)
        torch.testing.assert_close(all_scores(model), cosine_BI)  # what trains stays the cosine
    assert ranking_items(plain, torch.arange(ITEMS)).equal(item_ID)


@pytest.mark.parametrize("name", MODELS)
def test_an_items_vector_scores_the_same_whoever_else_is_asked_for(name):
    model, scores = build(name), all_scores(build(name))
    for user in range(USERS):
        user_BD = model.users({"user": torch.tensor([user])})
        for item in range(ITEMS):
            alone = model.score(user_BD, model.items(torch.tensor([[item]])))
            torch.testing.assert_close(alone[0, 0], scores[user, item])
    user_B, item_BK = torch.tensor([5, 5, 0]), torch.tensor([[8, 1], [0, 0], [3, 8]])
    own = model.score(model.users({"user": user_B}), model.items(item_BK))
    torch.testing.assert_close(own, scores[user_B[:, None], item_BK])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, USERS])
def test_shared_items_score_as_each_rows_own_do(name, rows):
    model = build(name)
    user_BD = model.users({"user": torch.arange(rows)})
    shared = model.items(torch.tensor([4, 0, 8, 4]))[None]
    own = shared.expand(rows, -1, -1).contiguous()
    torch.testing.assert_close(model.score(user_BD, shared), model.score(user_BD, own))
    assert model.score(user_BD, shared).shape == (rows, 4)


@pytest.mark.parametrize("name", PRODUCT)
def test_a_vector_that_is_no_item_can_be_scored(name):
    model = build(name)
    user_BD = model.users({"user": torch.tensor([2])})
    first, second = model.items(torch.tensor([0, 1]))
    middle = model.score(user_BD, (0.3 * first + 0.7 * second)[None, None])
    torch.testing.assert_close(middle, 0.3 * all_scores(model)[2:3, 0:1] + 0.7 * all_scores(model)[2:3, 1:2])


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_and_every_row_of_a_table(name):
    model = build(name)
    weight = torch.randn(USERS, ITEMS, generator=torch.Generator().manual_seed(1))
    (all_scores(model) * weight).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    features = FEATURES if name.startswith("twotower") else 0
    assert sum(len(table) for table in tables) == USERS + ITEMS + features
    for table in tables:
        assert table.grad.any(1).all()


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_scores_to_a_model_that_had_others(name):
    saved, other = build(name), build(name, seed=1)
    with torch.no_grad():
        assert not torch.allclose(all_scores(other), all_scores(saved))
        other.load_state_dict(saved.state_dict())
        assert torch.equal(all_scores(other), all_scores(saved))


@pytest.mark.parametrize("name", PRODUCT)
def test_the_l2_penalty_is_on_what_is_learned(name):
    model = build(name)
    batch, item_B = {"user": torch.tensor([1, 4])}, torch.tensor([8, 0])
    own = model.l2_vectors  # None: the representations themselves
    user_BD, item_BD = own(batch, item_B) if own else (model.users(batch), model.items(item_B))
    assert torch.equal(user_BD, model.user.weight[[1, 4]])
    if name.startswith("twotower"):  # item 8 has no features, item 0 has two
        item_BD, of_features_BD = item_BD.chunk(2, 1)
        value_E = item_features().value_E
        assert not of_features_BD[0].any()
        torch.testing.assert_close(of_features_BD[1], value_E[:2] @ model.feature.weight[[0, 3]])
    assert torch.equal(item_BD, model.item.weight[[8, 0]])


@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_set_is_learned_by_heart(name):
    observed = small_graph()
    model = build(name, observed=observed, dim=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    user_E, item_E = observed.pairs()
    unseen_UI = ~observed.contains(torch.arange(USERS), torch.arange(ITEMS).expand(USERS, -1))
    for _ in range(150):
        score_EI = all_scores(model)[user_E]
        loss = bpr(score_EI.gather(1, item_E[:, None])[:, 0], score_EI, unseen_UI[user_E]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    score_UI = all_scores(model.eval())
    worst_seen_U = score_UI.masked_fill(unseen_UI, torch.inf).amin(1)
    best_unseen_U = score_UI.masked_fill(~unseen_UI, -torch.inf).amax(1)
    assert (worst_seen_U > best_unseen_U).all()


# NeuMF


def neumf_by_hand(weight: dict[str, np.ndarray], user: np.ndarray, item: np.ndarray) -> float:
    """Eq. 8 to 12 without the sigmoid, for one user's row and one item vector; each is GMF, then MLP."""
    half = len(user) // 2
    matrix = np.concatenate([weight["user_half.weight"], weight["item_half.weight"]], axis=1)
    hidden = matrix @ np.concatenate([user[half:], item[half:]]) + weight["user_half.bias"]
    hidden = np.maximum(hidden, 0)
    linears = sorted({name.rsplit(".", 1)[0] for name in weight if name.startswith("perceptron")})
    for linear in linears[:-1]:
        hidden = np.maximum(weight[f"{linear}.weight"] @ hidden + weight[f"{linear}.bias"], 0)
    last = np.concatenate([weight["product_weight"], weight[f"{linears[-1]}.weight"][0]])
    return last @ np.concatenate([user[:half] * item[:half], hidden]) + weight[f"{linears[-1]}.bias"][0]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_neumf_scores_any_vector_as_the_papers_equations_do(layers, shared, monkeypatch):
    torch.manual_seed(0)
    model = NeuMF(USERS, ITEMS, 8, NeuMFSettings(layers=layers, dropout=0)).double()
    assert [tuple(p.shape) for p in model.perceptron.parameters() if p.dim() == 2] == [
        *[(4, 8), (2, 4)][: layers - 1],
        (1, 8 >> layers - 1),
    ]
    user_BD = torch.randn(3, 16, dtype=torch.float64)
    item_BKD = torch.randn(1 if shared else 3, 6, 16, dtype=torch.float64)
    weight = {name: value.detach().numpy() for name, value in model.named_parameters()}
    expected = [
        [neumf_by_hand(weight, u, i) for i in items.numpy()]
        for u, items in zip(user_BD.numpy(), item_BKD.expand(3, -1, -1), strict=True)
    ]
    torch.testing.assert_close(model.score(user_BD, item_BKD).tolist(), expected)
    monkeypatch.setattr(neumf, "_NUMBERS", 4 * 3 * 8)  # four items at a time, then two
    torch.testing.assert_close(model.score(user_BD, item_BKD).tolist(), expected)


class LargestTensor(TorchFunctionMode):
    """How many numbers the largest tensor that a function returns has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_neumf_ranks_many_items_in_pieces():
    rows, items = 8 * USERS, 6000
    model = NeuMF(USERS, items, 64, NeuMFSettings(dropout=0))
    user_BD = model.users({"user": torch.arange(USERS).repeat(8)})
    item_1KD = model.items(torch.arange(items))[None]
    with torch.no_grad(), LargestTensor() as largest:
        assert model.score(user_BD, item_1KD).shape == (rows, items)
    assert largest.numbers <= 1 << 24 < rows * items * 64


@pytest.mark.parametrize("name", ["neumf", "ngcf"])
def test_dropout_drops_its_share_in_training_alone(name):
    def dropping(dropout: float) -> nn.Module:
        torch.manual_seed(0)
        if name == "neumf":
            return NeuMF(USERS, ITEMS, 64, NeuMFSettings(dropout=dropout))
        return NGCF(connected_graph(), 64, NGCFSettings(dropout=dropout))

    never, often = dropping(0.0), dropping(0.25)
    assert torch.equal(all_scores(often.eval()), all_scores(never))
    often.train()
    assert not torch.allclose(all_scores(often), all_scores(never))
    if name == "ngcf":
        step = often.snapshot()
        dropped = vectors(step)[:, 64:] == 0
        assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
        assert torch.equal(vectors(step)[:, 64:] == 0, dropped)  # the same ones throughout a step


# Graph models


def adjacency(observed: UserItems) -> torch.Tensor:
    """Who is whose neighbor, as a dense matrix."""
    dense = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    for user, item in zip(*(column.tolist() for column in observed.pairs()), strict=True):
        dense[user, USERS + item] = dense[USERS + item, user] = 1
    return dense


def dense_graph(observed: UserItems) -> torch.Tensor:
    dense = adjacency(observed)
    degree = dense.sum(1)
    scale = torch.where(degree > 0, degree, 1).rsqrt()
    return scale[:, None] * dense * scale


def dense_lightgcn(observed: UserItems, weight: torch.Tensor, layers: range) -> torch.Tensor:
    """The mean of A^l E over the given layers."""
    graph = dense_graph(observed)
    return torch.stack([torch.linalg.matrix_power(graph, layer) @ weight for layer in layers]).mean(0)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize(
    ("kind", "settings", "first"), [(LightGCN, LightGCNSettings, 0), (SimGCL, SimGCLSettings, 1)]
)
def test_lightgcn_and_simgcl_and_their_gradients_are_those_of_dense_matrices(
    kind, settings, first, layers, cosine
):
    observed = small_graph()
    torch.manual_seed(0)
    model = kind(observed, DIM, settings(layers=layers), cosine=cosine)
    weight = torch.cat(model.nodes()).detach().clone().requires_grad_()
    expected = dense_lightgcn(observed, weight, range(first, layers + 1))
    expected = normalize(expected, dim=1) if cosine else expected
    torch.testing.assert_close(vectors(model), expected)

    upstream = torch.randn(USERS + ITEMS, DIM, generator=torch.Generator().manual_seed(2))
    (vectors(model) * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(torch.cat([model.user.weight.grad, model.item.weight.grad]), weight.grad)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings", "first"), [(LightGCN, LightGCNSettings, 0), (SimGCL, SimGCLSettings, 1)]
)
def test_an_items_layers_are_powers_of_the_graph_and_their_mean_is_the_item(kind, settings, first, cosine):
    observed = small_graph()
    torch.manual_seed(0)
    model = kind(observed, DIM, settings(layers=3), cosine=cosine)
    item = torch.tensor([[3, 0], [5, 3]])
    layers = model.snapshot().item_layers(item)
    torch.testing.assert_close(layers.mean(-2), model.items(item))
    expected = torch.stack(
        [dense_lightgcn(observed, torch.cat(model.nodes()), range(hop, hop + 1)) for hop in range(first, 4)],
        1,
    )[USERS + item]
    if cosine:
        expected = expected / expected.mean(-2).norm(dim=-1)[..., None, None]
    torch.testing.assert_close(layers, expected)


def ngcf_by_messages(observed: UserItems, model: NGCF) -> torch.Tensor:
    """Message by message (eq. 2 to 6), then all layers end to end, normalized but for the first."""
    dense = adjacency(observed)
    now = list(torch.cat(model.nodes()))
    end_to_end = [now]
    for W1, W2 in zip((m.weight for m in model.sums), (m.weight for m in model.products), strict=True):
        after = []
        for u, vector in enumerate(now):
            total = W1 @ vector
            for i in dense[u].nonzero()[:, 0].tolist():
                share = 1 / math.sqrt(dense[u].sum() * dense[i].sum())
                total = total + share * (W1 @ now[i] + W2 @ (now[i] * vector))
            after.append(leaky_relu(total, 0.2))
        now = after
        end_to_end.append([vector / vector.norm() for vector in now])
    return torch.cat([torch.stack(layer) for layer in end_to_end], 1)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_ngcf_and_its_gradients_are_those_of_its_messages(layers, cosine):
    observed = small_graph()
    torch.manual_seed(0)
    model = NGCF(observed, DIM, NGCFSettings(layers=layers, dropout=0), cosine=cosine)
    upstream = torch.randn(USERS + ITEMS, (layers + 1) * DIM)
    expected = ngcf_by_messages(observed, model)
    expected = normalize(expected, dim=1) if cosine else expected
    torch.testing.assert_close(vectors(model), expected)
    parameters = list(model.parameters())
    ours = torch.autograd.grad((vectors(model) * upstream).sum(), parameters)
    by_hand = torch.autograd.grad((expected * upstream).sum(), parameters)
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def test_an_interaction_given_twice_is_one_edge():
    once = UserItems(torch.tensor([0, 1]), torch.tensor([3, 3]), USERS, ITEMS)
    twice = UserItems(torch.tensor([0, 1, 0]), torch.tensor([3, 3, 3]), USERS, ITEMS)
    nodes = Nodes(torch.randn(USERS, 3), torch.randn(ITEMS, 3))
    for ours, expected in zip(*(Graph(observed).product(nodes) for observed in (once, twice)), strict=True):
        assert torch.equal(ours, expected)


class Products(TorchFunctionMode):
    """Counts the products with the graph that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is embedding_bag
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", GRAPH)
@pytest.mark.parametrize("gradient", [True, False])
def test_a_graph_models_snapshot_propagates_once_however_often_it_is_asked(name, gradient):
    model = build(name)
    with torch.set_grad_enabled(gradient), Products() as products:
        taken = snapshot(model)
        seen = torch.cat([vectors(taken) for _ in range(3)])
        if hasattr(taken, "item_layers"):
            taken.item_layers(torch.arange(ITEMS))
        assert snapshot(taken) is taken
    assert products.count == 2 * 2  # layers, to users and to items
    assert torch.equal(seen, vectors(model).repeat(3, 1))


def test_a_training_step_propagates_once():
    observed = connected_graph()
    _, step = training_step(build("lightgcn"), observed, "model.name=lightgcn", "sampler.name=mixgcf")
    with Products() as products:
        step(*interactions(observed), (1, 2, 3))
    assert products.count == 2 * 2  # layers, to users and to items


@pytest.mark.parametrize("name", ["ngcf", "lightgcn", "simgcl"])
def test_a_graph_models_look_ups_are_of_its_present_weights(name):
    model = build(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5, fused=True)
    for _ in range(2):
        vectors(model).square().sum().backward()
        optimizer.step()
        other = build(name, seed=1)
        other.load_state_dict(model.state_dict())
        assert torch.equal(vectors(model), vectors(other))


@pytest.mark.parametrize("name", ["ngcf", "lightgcn", "simgcl"])
def test_a_graph_model_can_be_differentiated_again_after_a_backward_pass(name):
    model = build(name)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        all_scores(model).square().sum().backward()
        gradients.append(torch.cat([model.user.weight.grad, model.item.weight.grad]))
    assert torch.equal(*gradients)


# SimGCL's loss between views


def contrast_by_hand(observed: UserItems, model: SimGCL, user: list, item: list, rng: RowRng) -> torch.Tensor:
    """Node by node: the mean over users, plus the mean over items, of -log softmax of the views' cosines."""
    streams, views = iter(range(2 * model.layers)), []
    nodes = torch.arange(USERS), torch.arange(ITEMS) + (1 << 40)
    for _ in range(2):
        layers, vector = [], torch.cat(model.nodes())
        for _ in range(model.layers):
            vector, stream = dense_graph(observed) @ vector, next(streams)
            uniform = torch.cat([uniform_numbers(rng.of_rows(rows), DIM, stream) for rows in nodes])
            vector = vector + torch.sign(vector) * uniform / uniform.norm(dim=1, keepdim=True) * model.noise
            layers.append(vector)
        mean = torch.stack(layers).mean(0)
        views.append(mean / mean.norm(dim=1, keepdim=True))
    total = torch.zeros(())
    for nodes in (sorted(set(user)), sorted({USERS + i for i in item})):
        for v in nodes:
            against = [(views[0][v] @ views[1][w] / model.temperature).exp() for w in nodes]
            total = total - torch.log(against[nodes.index(v)] / sum(against)) / len(nodes)
    return model.contrast * total


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_the_mean_of_the_rows_losses_is_the_contrast_of_two_views_by_hand(eps):
    observed = connected_graph()
    torch.manual_seed(0)
    model = SimGCL(observed, DIM, SimGCLSettings(layers=3, noise=eps, contrast=0.7, temperature=0.3))
    user, item = [1, 1, 4, 0, 1], [3, 8, 3, 0, 5]
    rng = RowRng(torch.arange(5), 1, 2, 3)
    loss_B = model.auxiliary_loss({"user": torch.tensor(user)}, torch.tensor(item), rng)
    expected = contrast_by_hand(observed, model, user, item, rng)
    torch.testing.assert_close(loss_B.mean(), expected)
    weights = [*model.parameters()]
    ours, by_hand = (torch.autograd.grad(loss, weights) for loss in (loss_B.mean(), expected))
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-6)


def test_noise_has_its_length_and_the_vectors_signs_and_is_another_in_every_view_and_step():
    torch.manual_seed(0)
    model = SimGCL(connected_graph(), DIM, SimGCLSettings(layers=1, noise=0.05))
    plain = torch.cat(model.snapshot().vectors)
    noise = RowRng(torch.arange(USERS), 0), RowRng(torch.arange(USERS, USERS + ITEMS), 0)
    first, second = (torch.cat(model.view(noise, number)) for number in range(2))
    for view in (first, second):
        torch.testing.assert_close((view - plain).norm(dim=1), torch.full((USERS + ITEMS,), 0.05))
        assert torch.equal(view.sign(), plain.sign())
    assert not torch.isclose(first, second, atol=1e-5).all(1).any()

    batch, item_B = {"user": torch.arange(USERS)}, torch.arange(USERS)
    same, again, other = (
        model.auxiliary_loss(batch, item_B, RowRng(torch.arange(USERS), 0, step)) for step in (1, 1, 2)
    )
    assert torch.equal(same, again)
    assert not torch.isclose(same, other).any()


# The training step


def training_step(model: nn.Module, observed: UserItems, *settings: str) -> tuple[Config, TrainingStep]:
    config = load_config(settings=["loss.name=bpr", *settings])
    samplers = build_samplers(config, model, observed)
    return config, TrainingStep(
        config, model, build_loss(config, observed.n_items), samplers, observed, observed.item_counts()
    )


def interactions(observed: UserItems) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    user_B, item_B = observed.pairs()
    return user_B, item_B, torch.arange(len(user_B))


def test_the_loss_of_a_step_by_hand():
    observed, model = connected_graph(), build("mf")
    _, step = training_step(model, observed, "sampler.name=uniform", "uniform.negatives=3", "loss.l2=0.2")
    user_B, item_B, row_B = interactions(observed)
    loss, _ = step(user_B, item_B, row_B, (1, 2, 3))

    user_BD, positive_BD = model.user.weight[user_B], model.item.weight[item_B]
    items = SamplingContext(model.items, ITEMS, seen=observed.seen_by(user_B))
    drawn = UniformSampler(UniformSettings(negatives=3))(
        user_BD, positive_BD, items, RowRng(row_B, 1, 2, 3, 0)
    )
    assert drawn.mask_BK.all()
    expected = 0.0
    for b in range(len(user_B)):
        u, i, negatives = user_BD[b], positive_BD[b], model.item.weight[drawn.item_BK[b]]
        expected += softplus(negatives @ u - i @ u).mean()
        expected += 0.2 * 0.5 * (u @ u + i @ i + negatives.square().sum() / 3)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("sampler", ["adar", "mixgcf"])
@pytest.mark.parametrize("name", ["mf", "lightgcn"])
def test_the_penalty_of_generated_negatives_is_that_of_the_items_they_are_made_of(name, sampler):
    observed, model = connected_graph(), build(name)
    _, step = training_step(model, observed, f"sampler.name={sampler}", "adar.negatives=3", "loss.l2=0.2")
    kept = []
    step.samplers[-1].register_forward_hook(lambda module, asked, answer: kept.append(answer))
    user_B, item_B, row_B = interactions(observed)
    _, statistics = step(user_B, item_B, row_B, (1, 2, 3))
    square_U, square_I = (table.weight.detach().square().sum(1) for table in (model.user, model.item))
    source = kept[0].source
    expected_B = square_U[user_B] + square_I[item_B] + square_I[source.item_P[source.at_BK]].mean(1)
    torch.testing.assert_close(statistics[1].float(), 0.2 * 0.5 * expected_B.sum())


# Two towers


def test_an_item_is_the_sum_of_its_own_vector_and_its_features():
    model, features = build("twotower"), item_features()
    item_ID = model.item.weight.clone()
    for item in range(ITEMS):
        for at in range(features.start[item], features.start[item + 1]):
            item_ID[item] += features.value_E[at] * model.feature.weight[features.feature_E[at]]
    torch.testing.assert_close(model.items(torch.arange(ITEMS)), item_ID)
    with torch.no_grad():
        model.item.weight[:-1] = 0  # as every step has some
        model.add_items(ItemFeatures(features.start[:3], features.feature_E, features.value_E, FEATURES))
        torch.testing.assert_close(
            model.items(torch.tensor([ITEMS, ITEMS + 1])), model.items(torch.tensor([0, 1]))
        )


def test_without_features_two_towers_are_matrix_factorization():
    observed = connected_graph()
    torch.manual_seed(0)
    plain = TwoTower(USERS, ITEMS, DIM, ItemFeatures.none(ITEMS))
    assert torch.equal(all_scores(plain), all_scores(build("mf")))
    values = []
    for model in (plain, build("mf")):
        config, step = training_step(model, observed, "loss.l2=0.1", "sampler.name=adar")
        optimizer = build_optimizer(config, model, step.samplers)
        for number in range(5):
            value, _ = step(*interactions(observed), (0, 1, number))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
    assert values[:5] == pytest.approx(values[5:], rel=1e-6)


def test_a_step_leaves_out_own_vectors_of_a_share_of_the_items_that_have_features():
    items = 4000
    features = ItemFeatures(
        torch.arange(items + 1), torch.zeros(items, dtype=torch.int64), torch.ones(items), 1
    )
    features.start[-1] -= 1  # the last item has no feature
    torch.manual_seed(0)
    model = TwoTower(1, items, DIM, features, TwoTowerSettings(id_dropout=0.25))
    item = torch.arange(items)
    alone = []
    for rows in (torch.arange(3), torch.arange(100, 104)):  # of two workers
        vector_ID = model.step_snapshot(RowRng(rows, 0, 1, 2)).items(item)
        alone.append((vector_ID == model.feature.weight[0]).all(1))
        assert torch.equal(vector_ID[~alone[-1]], model.items(item)[~alone[-1]])
    assert torch.equal(*alone)
    assert not alone[0][-1]
    assert 0.22 < alone[0].float().mean() < 0.28
    other = model.step_snapshot(RowRng(rows, 0, 1, 3)).items(item)
    assert not torch.equal((other == model.feature.weight[0]).all(1), alone[0])


def test_collected_gradients_of_features_are_torchs_own():
    observed, gradients = connected_graph(), []
    for collects in (False, True):
        model = build("twotower cosine")
        _, step = training_step(model, observed, "loss.l2=0.1", "sampler.name=uniform")
        if collects:
            model.feature.collect()
        step(*interactions(observed), (0, 1, 0))[0].backward()
        if collects:
            total = torch.zeros(FEATURES, DIM)
            for row_R, vector_RD in model.feature.take_gradients():
                total.index_add_(0, row_R, vector_RD)
            gradients.append(total)
        else:
            gradients.append(model.feature.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["mf", "twotower", "neumf", "ngcf", "lightgcn"])
@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_workers_losses_and_gradients_add_up_to_those_of_the_whole_batch(name, loss, sampler):
    observed, model = connected_graph(), build(name).double()
    _, step = training_step(
        model,
        observed,
        f"loss.name={loss}",
        f"sampler.name={sampler}",
        "sampled_softmax.shared_negatives=20",
        "adar.pool=30",
        "adar.candidates=2",
    )
    rows = interactions(observed)

    def gradients(parts: list[slice]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total, statistics = torch.zeros(()), torch.zeros(())
        for part in parts:
            value, sums = step(*(column[part] for column in rows), (0, 1, 0))
            value.backward()
            total, statistics = total + value.detach(), statistics + sums
        return total, statistics, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradients([slice(None)])
    nothing = slice(0, 0)
    for parts in (
        [slice(0, None, 2), slice(1, None, 2)],
        [slice(0, None, 3), nothing, slice(1, None, 3), slice(2, None, 3)],
    ):
        for ours, expected in zip(gradients(parts), whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


PARTS = [slice(0, 3), slice(3, 3), slice(3, USERS)]  # the users of each process; one has none


def worker_step(name: str, users: slice) -> list[torch.Tensor]:
    """Loss, statistics and gradients of one worker, which holds these users."""
    whole, model = connected_graph(), build(name)
    user_B, item_B, row_B = interactions(whole)
    here = (user_B >= users.start) & (user_B < users.stop)
    observed = UserItems(user_B[here] - users.start, item_B[here], users.stop - users.start, ITEMS)
    own = build(name, observed=observed, first_user=users.start)
    own.load_state_dict(model.state_dict() | {"user.weight": model.user.weight[users]})
    own = own.double()
    _, step = training_step(own, observed, "loss.l2=0.1")
    step.popularity_I = whole.item_counts()
    value, statistics = step(user_B[here] - users.start, item_B[here], row_B[here], (0, 1, 0))
    value.backward()
    user_UD = torch.zeros(USERS, model.user.weight.shape[1], dtype=torch.float64)
    user_UD[users] = own.user.weight.grad
    others = [parameter.grad for key, parameter in own.named_parameters() if key != "user.weight"]
    return [value.detach(), statistics, user_UD, *others]


def work(rank: int, folder: str) -> None:
    """One of several workers: its share of every model's step, added up over all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(PARTS))
    totals = {}
    for name in MODELS:
        totals[name] = worker_step(name, PARTS[rank])
        for tensor in totals[name]:
            dist.all_reduce(tensor)
    if rank == 0:
        torch.save(totals, Path(folder, "totals"))
    dist.destroy_process_group()


def test_processes_with_users_of_their_own_add_up_to_one_that_has_them_all(tmp_path):
    """They hold parts of the graph and of SimGCL's loss of the whole batch; one holds nothing."""
    run_in_processes(work, len(PARTS), str(tmp_path))
    totals = torch.load(tmp_path / "totals")
    for name in MODELS:
        expected = worker_step(name, slice(0, USERS))
        torch.testing.assert_close(totals[name], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_draws_does_not_depend_on_how_many_users_it_has(name):
    few = UserItems(torch.tensor([0, 1]), torch.tensor([3, 3]), 2, ITEMS)
    one, other = build(name), build(name, observed=few)
    for key, weight in one.state_dict().items():
        assert key == "user.weight" or torch.equal(weight, other.state_dict()[key])


class OwnModel(nn.Module):
    """Somebody's own: a user is a bag of two embeddings through a layer, an item is a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bucket, self.layer, self.table = (
            nn.Embedding(USERS, 4),
            nn.Linear(4, DIM),
            nn.Embedding(ITEMS, DIM),
        )

    def users(self, batch):
        return torch.tanh(self.layer(self.bucket(batch["user"]) + self.bucket.weight.mean(0)))

    def items(self, item):
        return self.table(item)

    def score(self, user_BD, item_BKD):
        return (user_BD[:, None] * item_BKD).sum(-1) / math.sqrt(DIM)


@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_a_model_of_ones_own_needs_three_methods_and_nothing_else(loss, sampler):
    observed, model = connected_graph(), OwnModel()
    config, step = training_step(
        model,
        observed,
        f"loss.name={loss}",
        f"sampler.name={sampler}",
        "optimizer.lr=0.05",
        "sampled_softmax.shared_negatives=20",
    )
    optimizer = build_optimizer(config, model, step.samplers)
    rows, losses = interactions(observed), []
    for number in range(30):
        value, _ = step(*rows, (0, 1, number))
        optimizer.zero_grad()
        value.backward()
        assert all(parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", ["mf", "neumf", "ngcf", "lightgcn", "simgcl"])
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_a_checkerboard_is_learned_so_that_the_withheld_pairs_come_out_on_top(name, sampler):
    """Even users like even items, odd users odd ones; one pair of each user is kept from training."""
    size = 24
    user, item = torch.tensor([(u, i) for u in range(size) for i in range(size) if (u - i) % 2 == 0]).T
    withheld = item == (user + user * 3 % 7 * 2) % size
    wanted = item[withheld]
    assert user[withheld].tolist() == list(range(size))
    user, item = user[~withheld], item[~withheld]
    observed = UserItems(user, item, size, size)
    # A network can learn by heart that the withheld pairs, too, were not seen.
    slower = ["model.embedding_dim=4", "neumf.dropout=0", "optimizer.lr=0.02"]
    config = load_config(
        settings=[
            *(
                f"model.name={name}",
                "model.embedding_dim=8",
                f"sampler.name={sampler}",
                "optimizer.lr=0.05",
                "loss.l2=0.01",
            ),
            *("adar.candidates=2", "adar.negatives=2", "adar.pool=32"),
            *(slower if name == "neumf" else []),
            # Its second loss pushes all users apart, also those that like the same items.
            *(["simgcl.contrast=0.02"] if name == "simgcl" else []),
        ]
    )
    torch.manual_seed(0)
    model = build_model(config, observed)
    samplers = build_samplers(config, model, observed)
    step = TrainingStep(
        config, model, build_loss(config, observed.n_items), samplers, observed, observed.item_counts()
    )
    optimizer = build_optimizer(config, model, samplers)
    for number in range(100):
        loss, _ = step(user, item, torch.arange(len(user)), (0, number))
        optimizer.zero_grad()
        (loss / len(user)).backward()
        optimizer.step()
    ((_, best, _),) = top_items(model.eval(), torch.arange(size), observed, 1, size)
    assert best[:, 0].tolist() == wanted.tolist()

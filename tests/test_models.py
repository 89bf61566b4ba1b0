"""Base models: one suite for all, LightGCN against dense algebra, and learning what there is to learn."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize, softplus
from torch.overrides import TorchFunctionMode

from adar_ray.config import Config, load_config
from adar_ray.draws import Draws
from adar_ray.models import MF, BaseModel, LightGCN
from adar_ray.negatives import Items
from adar_ray.ranking.top_items import top_items
from adar_ray.samplers import UniformSampler
from adar_ray.training.build import TrainingStep, build_model, build_optimisers, build_samplers
from adar_ray.user_items import UserItems

USERS, ITEMS, DIM = 7, 9, 5
MODELS = ["mf", "mf cosine", "lightgcn", "lightgcn cosine"]


def small_graph() -> UserItems:
    """Random interactions of seven users with nine items; the last user and the last item have none."""
    happened = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.4
    happened[-1] = False
    happened[:, -1] = False
    return UserItems(*happened.nonzero().T, USERS, ITEMS)


def connected_graph() -> UserItems:
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS))
    return UserItems(*pairs[::2].T, USERS, ITEMS)


def build(name: str, seed: int = 0, observed: UserItems | None = None) -> nn.Module:
    torch.manual_seed(seed)
    family, _, cosine = name.partition(" ")
    if family == "mf":
        return MF(USERS, ITEMS, DIM, cosine=bool(cosine))
    return LightGCN(observed or connected_graph(), DIM, cosine=bool(cosine))


def all_scores(model: BaseModel) -> torch.Tensor:
    return model.score(model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))[None])


# Every model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_base_model_and_knows_items_of_any_shape(name):
    model = build(name)
    assert isinstance(model, BaseModel)
    item = torch.randint(ITEMS, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    assert model.items(item).shape == (2, 3, 4, DIM)
    assert torch.equal(model.items(item)[1, 2, 3], model.items(item[1, 2, 3]))
    assert model.users({"user": torch.tensor([3, 3, 0])}).shape == (3, DIM)


@pytest.mark.parametrize("name", MODELS)
def test_a_score_is_the_product_of_the_vectors_and_with_cosine_their_cosine(name):
    model = build(name)
    user_BD, item_ID = model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))
    by_hand = [[sum((u * i).tolist()) for i in item_ID] for u in user_BD]
    torch.testing.assert_close(all_scores(model), torch.tensor(by_hand))
    if name.endswith("cosine"):
        torch.testing.assert_close(all_scores(model), cosine_similarity(user_BD[:, None], item_ID, dim=2))
        torch.testing.assert_close(item_ID.norm(dim=1), torch.ones(ITEMS))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, USERS])
def test_shared_items_score_as_each_rows_own_do(name, rows):
    model = build(name)
    user_BD = model.users({"user": torch.arange(rows)})
    shared = model.items(torch.tensor([4, 0, 8, 4]))[None]
    own = shared.expand(rows, -1, -1).contiguous()
    torch.testing.assert_close(model.score(user_BD, shared), model.score(user_BD, own))
    assert model.score(user_BD, shared).shape == (rows, 4)


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_that_is_no_item_can_be_scored(name):
    model = build(name)
    user_BD = model.users({"user": torch.tensor([2])})
    first, second = model.items(torch.tensor([0, 1]))
    middle = model.score(user_BD, (0.3 * first + 0.7 * second)[None, None])
    torch.testing.assert_close(middle, 0.3 * all_scores(model)[2:3, 0:1] + 0.7 * all_scores(model)[2:3, 1:2])


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_row_of_every_parameter(name):
    model = build(name)
    (
        all_scores(model) * torch.randn(USERS, ITEMS, generator=torch.Generator().manual_seed(1))
    ).sum().backward()
    parameters = dict(model.named_parameters())
    assert sum(p.shape[0] for p in parameters.values()) == USERS + ITEMS
    for parameter in parameters.values():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(1).all()


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_scores_to_a_model_that_had_others(name):
    saved, other = build(name), build(name, seed=1)
    with torch.no_grad():
        assert not torch.allclose(all_scores(other), all_scores(saved))
        other.load_state_dict(saved.state_dict())
        assert torch.equal(all_scores(other), all_scores(saved))


@pytest.mark.parametrize("name", MODELS)
def test_the_l2_penalty_is_on_what_is_learnt(name):
    model = build(name)
    user_BD, item_BD = model.l2_vectors({"user": torch.tensor([1, 4])}, torch.tensor([8, 0]))
    table = torch.cat([p.detach() for p in model.parameters()])  # users, then items
    assert torch.equal(user_BD, table[[1, 4]])
    assert torch.equal(item_BD, table[[USERS + 8, USERS]])


# LightGCN


def dense_lightgcn(observed: UserItems, weight: torch.Tensor, layers: int) -> torch.Tensor:
    """The mean of A^l E over layers 0 to L, with A as a dense matrix."""
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=weight.dtype)
    for user, item in zip(*(column.tolist() for column in observed.pairs()), strict=True):
        adjacency[user, USERS + item] = adjacency[USERS + item, user] = 1
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree, 1).rsqrt()
    normalised = scale[:, None] * adjacency * scale
    powers = [torch.linalg.matrix_power(normalised, layer) @ weight for layer in range(layers + 1)]
    return torch.stack(powers).mean(0)


def vectors(model: LightGCN) -> torch.Tensor:
    return torch.cat([model.users({"user": torch.arange(USERS)}), model.items(torch.arange(ITEMS))])


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_lightgcn_and_its_gradient_are_those_of_dense_matrices(layers, cosine):
    observed = small_graph()
    torch.manual_seed(0)
    model = LightGCN(observed, DIM, layers, cosine)
    weight = model.embedding.weight.detach().clone().requires_grad_()
    expected = dense_lightgcn(observed, weight, layers)
    expected = normalize(expected, dim=1) if cosine else expected
    torch.testing.assert_close(vectors(model), expected)

    upstream = torch.randn(USERS + ITEMS, DIM, generator=torch.Generator().manual_seed(2))
    (vectors(model) * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(model.embedding.weight.grad, weight.grad)


def test_an_interaction_given_twice_is_one_edge():
    once = UserItems(torch.tensor([0, 1]), torch.tensor([3, 3]), USERS, ITEMS)
    twice = UserItems(torch.tensor([0, 1, 0]), torch.tensor([3, 3, 3]), USERS, ITEMS)
    assert torch.equal(LightGCN(once).graph.to_dense(), LightGCN(twice).graph.to_dense())


class Products(TorchFunctionMode):
    """Counts the products with a sparse matrix that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.sparse.mm
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", [True, False])
def test_lightgcn_propagates_once_however_often_vectors_are_looked_up(gradient):
    model = build("lightgcn").train(gradient)
    with torch.set_grad_enabled(gradient), Products() as products:
        for _ in range(3):
            vectors(model)
    assert products.count == 2  # layers


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.SGD(p, lr=0.5),
        lambda p: torch.optim.Adam(p, lr=0.5, foreach=True),
        lambda p: torch.optim.Adam(p, lr=0.5, fused=True),
    ],
    ids=["sgd", "foreach adam", "fused adam"],
)
def test_lightgcn_propagates_again_after_every_step(optimiser):
    observed = small_graph()
    model = build("lightgcn", observed=observed)
    optimiser = optimiser(model.parameters())

    def is_current() -> bool:
        with torch.no_grad():
            return torch.allclose(
                vectors(model), dense_lightgcn(observed, model.embedding.weight, 2), atol=1e-6
            )

    for _ in range(3):
        vectors(model).square().sum().backward()
        assert is_current()  # looked up between the backward pass and the step
        optimiser.step()
        assert is_current()
        assert torch.allclose(vectors(model), dense_lightgcn(observed, model.embedding.weight, 2), atol=1e-6)
        vectors(model).sum().backward()
        model.eval()
        assert is_current()
        model.train()
        optimiser.step()
        model.eval()
        assert is_current()
        model.train()
        optimiser.zero_grad()


def test_lightgcn_can_be_differentiated_again_after_a_backward_pass():
    model = build("lightgcn")
    gradients = []
    for _ in range(2):
        model.zero_grad()
        all_scores(model).square().sum().backward()
        gradients.append(model.embedding.weight.grad.clone())
    assert torch.equal(*gradients)
    with torch.no_grad():
        all_scores(model)
    all_scores(model).sum().backward()  # vectors without gradients in between are not taken for these


# The training step


def training_step(model: nn.Module, observed: UserItems, *settings: str) -> tuple[Config, TrainingStep]:
    config = load_config(settings=settings)
    return config, TrainingStep(config, model, build_samplers(config, model, observed), observed)


def interactions(observed: UserItems) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    user_B, item_B = observed.pairs()
    return user_B, item_B, torch.arange(len(user_B))


def test_the_loss_of_a_step_by_hand():
    observed, model = connected_graph(), build("mf")
    _, step = training_step(model, observed, "sampler.name=uniform", "sampler.negatives=3", "loss.l2=0.2")
    user_B, item_B, row_B = interactions(observed)
    loss, _ = step(user_B, item_B, row_B, (1, 2, 3))

    user_BD, positive_BD = model.user.weight[user_B], model.item.weight[item_B]
    items = Items(model.items, ITEMS, seen=lambda item: observed.contains(user_B, item))
    drawn = UniformSampler(3)(user_BD, positive_BD, items, Draws(row_B, 1, 2, 3, 0))
    assert drawn.mask_BK.all()
    expected = 0.0
    for b in range(len(user_B)):
        u, i, negatives = user_BD[b], positive_BD[b], model.item.weight[drawn.item_BK[b]]
        expected += softplus(negatives @ u - i @ u).mean()
        expected += 0.2 * 0.5 * (u @ u + i @ i + negatives.square().sum() / 3)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", ["mf", "lightgcn"])
@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_workers_losses_and_gradients_add_up_to_those_of_the_whole_batch(name, loss, sampler):
    observed, model = connected_graph(), build(name)
    _, step = training_step(
        model,
        observed,
        f"loss.name={loss}",
        f"sampler.name={sampler}",
        "sampler.shared=20",
        "adar.pool=30",
        "adar.M=2",
    )
    rows = interactions(observed)

    def gradients(parts: list[slice]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total, statistics = torch.zeros(()), torch.zeros(())
        for part in parts:
            value, sums = step(*(column[part] for column in rows), (0, 1, 0))
            value.backward()
            total, statistics = total + value.detach(), statistics + sums
        return total, statistics, torch.cat([p.grad for p in model.parameters()])

    whole = gradients([slice(None)])
    nothing = slice(0, 0)
    for parts in (
        [slice(0, None, 2), slice(1, None, 2)],
        [slice(0, None, 3), nothing, slice(1, None, 3), slice(2, None, 3)],
    ):
        for ours, expected in zip(gradients(parts), whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


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
        "optimiser.lr=0.05",
        "sampler.shared=20",
    )
    (optimiser,) = build_optimisers(config, model)
    rows, losses = interactions(observed), []
    for number in range(30):
        value, _ = step(*rows, (0, 1, number))
        optimiser.zero_grad()
        value.backward()
        assert all(parameter.grad.any() for parameter in model.parameters())
        optimiser.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", ["mf", "lightgcn"])
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_a_checkerboard_is_learnt_so_that_the_withheld_pairs_come_out_on_top(name, sampler):
    """Even users like even items, odd users odd ones; one pair of each user is kept from training."""
    size = 24
    user, item = torch.tensor([(u, i) for u in range(size) for i in range(size) if (u - i) % 2 == 0]).T
    withheld = item == (user + user * 3 % 7 * 2) % size
    wanted = item[withheld]
    assert user[withheld].tolist() == list(range(size))
    user, item = user[~withheld], item[~withheld]
    observed = UserItems(user, item, size, size)
    config = load_config(
        settings=[
            *(
                f"model.name={name}",
                "model.dim=8",
                f"sampler.name={sampler}",
                "optimiser.lr=0.05",
                "loss.l2=0.01",
            ),
            *("adar.M=2", "adar.K=2", "adar.pool=32"),
        ]
    )
    torch.manual_seed(0)
    model = build_model(config, observed)
    step = TrainingStep(config, model, build_samplers(config, model, observed), observed)
    (optimiser,) = build_optimisers(config, model)
    for number in range(100):
        loss, _ = step(user, item, torch.arange(len(user)), (0, number))
        optimiser.zero_grad()
        (loss / len(user)).backward()
        optimiser.step()
    ((_, best, _),) = top_items(model.eval(), torch.arange(size), observed, 1, size)
    assert best[:, 0].tolist() == wanted.tolist()

"""A loaded model's answers, against formulas in NumPy, calls of the model itself, and `recommend`'s files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import adar_ray
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from adar_ray.inference.fold_in import fold_in
from adar_ray.inference.recommender import Recommender, Scored, load
from adar_ray.interactions.user_items import UserItems
from tests.inference.saving import save_untrained

# In the dataset's order of ids.
ITEMS = ["a", "b", "c", "d", "10", "Ä"]
VECTORS = {
    "a": (1.0, 0.0),
    "b": (0.0, 2.0),
    "c": (2.0, 0.0),
    "d": (1.0, 1.0),
    "Ä": (0.0, 2.0),
    "10": (-1.0, 0.0),
}
OWN = {"ann": "abc", "9": "abÄ", "10": "abcd", "Ω": ["a", "10"], "日本": "c"}


def vectors_of(user: str) -> tuple[float, float]:
    """ann likes the first dimension, all others the second."""
    return (1.0, 0.25) if user == "ann" else (0.5, 1.0)


@pytest.fixture(scope="module")
def small(hand_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(hand_made, tmp_path_factory.mktemp("small") / "data")


def weights_of(dataset: Dataset) -> dict[str, torch.Tensor]:
    users, items = dataset.user_keys().to_pylist(), dataset.item_keys().to_pylist()
    assert items == ITEMS
    return {
        "user.weight": torch.tensor([vectors_of(user) for user in users]),
        "item.weight": torch.tensor([VECTORS[item] for item in items]),
    }


BPR = ["model.name=mf", "model.embedding_dim=2", "loss.name=bpr", "model.cosine=false"]


@pytest.fixture(scope="module")
def model(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = save_untrained(tmp_path_factory.mktemp("mf") / "model", small, BPR, weights_of(small))
    return adar_ray.load(folder)


# By hand.


def test_the_best_items_that_a_user_has_not_had(model: Recommender) -> None:
    assert model.recommend("ann") == [("d", 1.25), ("Ä", 0.5), ("10", -1.0)]
    assert model.recommend("ann", 1) == [Scored("d", 1.25)]
    # b and Ä have the same score: their order is that of ids.
    assert model.recommend("日本", 3) == [("b", 2.0), ("Ä", 2.0), ("d", 1.5)]


def test_all_items_if_asked_for(model: Recommender) -> None:
    everything = [("c", 2.0), ("d", 1.25), ("a", 1.0), ("b", 0.5), ("Ä", 0.5), ("10", -1.0)]
    assert model.recommend("ann", exclude_seen=False) == everything
    assert model.recommend("ann", 3, exclude_seen=False, candidates=["10", "Ä", "a", "b"]) == [
        ("a", 1.0),
        ("b", 0.5),
        ("Ä", 0.5),
    ]


def test_only_candidates_and_of_them_only_those_not_seen(model: Recommender) -> None:
    assert model.recommend("ann", candidates=["10", "a", "d", "d"]) == [("d", 1.25), ("10", -1.0)]
    assert model.recommend("ann", candidates=["a"]) == []
    assert model.recommend("ann", candidates=[]) == []


def test_several_users_are_answered_by_id(model: Recommender) -> None:
    for users in (["ann", 9], ("ann", "9"), np.array(["ann", "9"])):
        assert model.recommend(users, 2) == {user: model.recommend(user, 2) for user in ("ann", "9")}
    assert model.recommend(["ann", "ann"], 1) == {"ann": [("d", 1.25)]}
    assert model.recommend([]) == {}


def test_whole_numbers_are_ids_as_they_are_written(model: Recommender) -> None:
    assert (
        model.recommend(9, candidates=[10])
        == model.recommend(np.int64(9), candidates=["10"])
        == [("10", -0.5)]
    )


def test_scores_come_in_the_order_asked_for(model: Recommender) -> None:
    assert model.score("ann", ["10", "a", "10", "d"]) == [("10", -1.0), ("a", 1.0), ("10", -1.0), ("d", 1.25)]
    assert model.score("ann", []) == []


def test_similar_items_and_users_have_the_highest_cosine(model: Recommender) -> None:
    half, opposite = pytest.approx(0.5**0.5), pytest.approx(-(0.5**0.5))
    assert model.similar_items("d") == [*((item, half) for item in ["a", "b", "c", "Ä"]), ("10", opposite)]
    assert model.similar_items("b", 1) == [("Ä", 1.0)]
    others = [("10", 1.0), ("Ω", 1.0), ("日本", 1.0)]
    answer = model.similar_users("9")
    assert sorted(answer[:3]) == [(user, pytest.approx(cosine)) for user, cosine in others]
    assert answer[3] == ("ann", pytest.approx(0.75 / np.sqrt(1.0625 * 1.25)))


def test_what_speaks_for_an_item_adds_up_to_its_score_by_least_squares(model: Recommender) -> None:
    own_ND, item_D = np.array([VECTORS[item] for item in OWN["ann"]]), np.array(VECTORS["d"])
    # Ridge regression of ones, as rows that are added to the system: no normal equations.
    ridge_DD = np.sqrt(10 * (own_ND**2).sum(1).mean()) * np.eye(2)
    user_D, *_ = np.linalg.lstsq(np.vstack([own_ND, ridge_DD]), [1, 1, 1, 0, 0], rcond=None)
    answer = model.explain("ann", "d")
    assert [item for item, _ in answer] == ["b", "c", "a"]
    assert sum(share for _, share in answer) == pytest.approx(user_D @ item_D)
    assert model.explain("ann", "d", 1) == answer[:1]
    # By hand: c is the only item, and the ridge ten times its squared length.
    assert model.explain("日本", "a") == [("c", pytest.approx(2 / 44))]
    assert model.explain("日本", "b") == [("c", 0.0)]


def test_items_without_a_vector_speak_for_nothing(small: Dataset, tmp_path: Path) -> None:
    """SimGCL has zeros for items that are not in training."""
    weights = weights_of(small)
    weights["item.weight"][ITEMS.index("c")] = 0
    model = adar_ray.load(save_untrained(tmp_path / "model", small, BPR, weights))
    assert model.explain("日本", "a") == [("c", 0.0)]


def test_answers_print_well(model: Recommender) -> None:
    assert repr(model.recommend("ann", 1)) == "[Scored(id='d', score=1.25)]"


def test_who_or_what_is_unknown_is_named(model: Recommender) -> None:
    user, item = "does not list the user 'nobody'; give an id", "does not list the item 'x'; give an id"
    for message, call in [
        (user, lambda: model.recommend("nobody")),
        (user, lambda: model.recommend(["ann", "nobody"])),
        (user, lambda: model.score("nobody", ["a"])),
        (user, lambda: model.similar_users("nobody")),
        (user, lambda: model.explain("nobody", "a")),
        (item, lambda: model.recommend("ann", candidates=["a", "x"])),
        (item, lambda: model.recommend(history=["x"])),
        (item, lambda: model.score("ann", ["x"])),
        (item, lambda: model.similar_items("x")),
        (item, lambda: model.explain("ann", "x")),
        ("'10': is one item; give a list of items", lambda: model.recommend(history="10")),
        ("'10': is one item; give a list of items", lambda: model.recommend("ann", candidates="10")),
        ("'10': is one item; give a list of items", lambda: model.score("ann", "10")),
        ("k 0: give 1 to", lambda: model.recommend("ann", 0)),
        ("k 2.5: give a whole number", lambda: model.recommend("ann", 2.5)),
        ("k 0: give 1 to", lambda: model.similar_items("a", 0)),
        ("k 0: give 1 to", lambda: model.explain("ann", "a", 0)),
        ("history: holds no items", lambda: model.recommend(history=[])),
        ("give either", lambda: model.recommend()),
        ("give either", lambda: model.recommend("ann", history=["a"])),
    ]:
        with pytest.raises(AdarError, match=message):
            call()


def test_items_may_be_recommended_again_where_the_dataset_keeps_repeats(
    hand_made: Path, tmp_path: Path
) -> None:
    again = prepare(hand_made, tmp_path / "data", repeat="keep")
    model = load(save_untrained(tmp_path / "model", again, BPR, weights_of(again)))
    assert model.recommend("ann", 1) == [("c", 2.0)]


def test_a_model_at_an_address_of_fsspec(small: Dataset, tmp_path: Path, model: Recommender) -> None:
    import fsspec

    local = save_untrained(tmp_path / "model", small, BPR, weights_of(small))
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/models/mf", recursive=True)
    shutil.rmtree(local)
    try:
        assert load("memory://models/mf").recommend("ann") == model.recommend("ann")
    finally:
        memory.rm("/models", recursive=True)


# Against `adar_ray.recommend`.

KINDS = {
    "mf": ["model.name=mf"],
    "lightgcn": ["model.name=lightgcn", "loss.name=bpr"],
    "lightgcn cosine": ["model.name=lightgcn", "model.cosine=true", "model.length_power=0.5"],
    "ngcf": ["model.name=ngcf"],
    "neumf": ["model.name=neumf"],
    "gru4rec": ["model.name=gru4rec"],
    "sasrec": ["model.name=sasrec"],
}


@pytest.fixture(scope="module", params=KINDS)
def folder(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    settings = [*KINDS[request.param], "model.embedding_dim=8"]
    return save_untrained(tmp_path_factory.mktemp("kind") / "model", dataset, settings)


def test_the_same_rankings_as_in_the_files_of_recommend(
    folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    adar_ray.recommend(folder, tmp_path / "top", 7)
    rows = pq.read_table(tmp_path / "top").to_pylist()
    written: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        written.setdefault(row["user"], []).append((row["item"], row["score"]))
    model = load(folder)
    assert model.recommend(dataset.user_keys().to_pylist(), 7) == written
    # One user at a time too; histories of other users round a sequential model's sums differently.
    for user in ("0", "77", "299"):
        alone = model.recommend(user, 7)
        if not model.trained.sequential:
            assert alone == written[user]
        assert [score for _, score in alone] == pytest.approx([score for _, score in written[user]], rel=1e-4)


def test_scores_are_those_of_rankings(folder: Path) -> None:
    model = load(folder)
    everything = model.recommend("3", 400, exclude_seen=False)
    assert len(everything) == 400
    some = [everything[rank] for rank in (399, 0, 12)]
    assert model.score("3", [item for item, _ in some]) == some
    candidates = sorted(item for item, _ in everything[::7])
    assert model.recommend("3", 400, exclude_seen=False, candidates=candidates) == everything[::7]


def history_of(dataset: Dataset, user: str) -> list[str]:
    """A user's items over all splits, in order of time."""
    number, keys = dataset.user_keys().to_pylist().index(user), dataset.item_keys().to_pylist()
    splits = [dataset.read_split(split) for split in SPLITS]
    return [keys[item] for of, items in splits for item in items[of == number].tolist()]


@pytest.fixture(scope="module", params=["gru4rec", "sasrec"])
def sequential(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Recommender:
    settings = [f"model.name={request.param}", "model.embedding_dim=8"]
    return load(save_untrained(tmp_path_factory.mktemp("sequential") / "model", dataset, settings))


def test_a_sequential_model_knows_somebody_new_by_the_history(
    sequential: Recommender, dataset: Dataset
) -> None:
    history = history_of(dataset, "5")
    known, new = sequential.recommend("5", 400), sequential.recommend(k=400, history=history)
    assert len(known) == 400 - len(set(history))
    assert dict(new) == pytest.approx(dict(known), rel=1e-4, abs=1e-3)
    backwards = sequential.recommend(k=400, history=history[::-1])
    assert dict(backwards) != pytest.approx(dict(known), rel=1e-2, abs=1e-1)


def test_an_item_of_a_history_speaks_by_what_the_score_loses_without_it(
    sequential: Recommender, dataset: Dataset
) -> None:
    history, target = history_of(dataset, "5"), "17"
    numbers = {key: number for number, key in enumerate(dataset.item_keys().to_pylist())}
    model = sequential.trained.model

    def score(items: list[str]) -> float:
        history_1L = torch.tensor([[numbers[item] for item in items]])
        with torch.no_grad():
            user_D = model.users({"user": torch.tensor([0]), "history": history_1L})[0, -1]
            return float(user_D @ model.items(torch.tensor(numbers[target])))

    answer = sequential.explain("5", target, 400)
    assert {item for item, _ in answer} == set(history)
    for item, lost in answer:
        without = [other for other in history if other != item]
        assert lost == pytest.approx(score(history) - score(without), rel=1e-3, abs=1e-3)
    assert [lost for _, lost in answer] == sorted((lost for _, lost in answer), reverse=True)


# Users whom a model without histories has not seen.


@pytest.fixture(scope="module", params=["sampled_softmax", "cross_entropy", "bpr", "bce", "cosine"])
def tastes(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Recommender:
    """A model of two tastes: even ids are near one direction, odd ones near the other."""
    loss = "sampled_softmax" if request.param == "cosine" else request.param
    settings = ["model.embedding_dim=8", f"loss.name={loss}", f"model.cosine={request.param == 'cosine'}"]
    draw = torch.Generator().manual_seed(0)
    weights = {"user.weight": torch.zeros(dataset.n_users, 8), "item.weight": torch.zeros(dataset.n_items, 8)}
    for kind, keys in (("user", dataset.user_keys()), ("item", dataset.item_keys())):
        taste_N = torch.tensor([int(key) % 2 for key in keys.to_pylist()])
        noise_ND = 0.1 * torch.randn(len(taste_N), 8, generator=draw)
        weights[f"{kind}.weight"] = torch.eye(8)[taste_N] + noise_ND
    return load(save_untrained(tmp_path_factory.mktemp("tastes") / "model", dataset, settings, weights))


@pytest.mark.parametrize("taste", [0, 1])
def test_a_new_user_is_offered_more_of_what_the_history_shows(tastes: Recommender, taste: int) -> None:
    history = [str(taste + 2 * number) for number in range(0, 60, 3)]
    answer = tastes.recommend(k=100, history=history)
    assert not {item for item, _ in answer} & {*history}
    assert all(int(item) % 2 == taste for item, _ in answer)
    # In any order, and repeated.
    assert tastes.recommend(k=100, history=[*history[::-1], history[0]]) == answer


@pytest.mark.parametrize("name", ["mf", "neumf"])
def test_a_new_user_gets_the_same_answer_whatever_the_callers_mode(
    small: Dataset, tmp_path: Path, name: str
) -> None:
    settings = [f"model.name={name}", "model.embedding_dim=8"]
    folder = save_untrained(tmp_path / "model", small, settings)
    answer = load(folder).recommend(history=["a", "b"])
    loaded = load(folder)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            loaded_within = load(folder)
            assert loaded.recommend(history=["a", "b"]) == answer
            assert loaded_within.recommend(history=["a", "b"]) == answer
        assert loaded_within.recommend(history=["a", "b"]) == answer


def test_folding_in_draws_the_users_items_near_and_leaves_the_model_as_it_was(tastes: Recommender) -> None:
    trained = tastes.trained
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    state = torch.get_rng_state()
    item_E = torch.arange(0, 90, 7)
    own = UserItems(torch.zeros_like(item_E), item_E, 1, trained.dataset.n_items)
    (user_D,) = fold_in(trained, own)
    score_I, mean_I = (trained.item_vectors @ vector_D for vector_D in (user_D, trained.user_vectors.mean(0)))

    def lead(score_I: torch.Tensor) -> float:
        """How far the user's items are ahead of all, in standard deviations of the scores."""
        return float((score_I[item_E].mean() - score_I.mean()) / score_I.std())

    assert lead(score_I) > lead(mean_I) + 0.2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    if trained.config.model.cosine:
        assert float(user_D.norm()) == pytest.approx(1)


def test_nothing_that_a_new_user_has_is_a_negative(tastes: Recommender) -> None:
    """Whoever has everything has no negatives: only bce, which is pointwise, has something to learn then."""
    trained = tastes.trained
    everything_I = torch.arange(trained.dataset.n_items)
    own = UserItems(torch.zeros_like(everything_I), everything_I, 1, trained.dataset.n_items)
    (user_D,) = fold_in(trained, own)
    mean_D = trained.user_vectors.mean(0)
    if trained.config.loss.name == "bce":
        assert (trained.item_vectors @ user_D).mean() > (trained.item_vectors @ mean_D).mean() + 0.5
    elif trained.config.model.cosine:
        torch.testing.assert_close(user_D, mean_D / mean_D.norm())
    else:
        torch.testing.assert_close(user_D, mean_D)


def test_a_new_user_depends_on_nobody_else(tastes: Recommender) -> None:
    draw = torch.Generator().manual_seed(1)
    n_items = tastes.trained.dataset.n_items
    users = [torch.randint(n_items, (5,), generator=draw) for _ in range(40)]  # more than a tile
    user_E, item_E = torch.arange(40).repeat_interleave(5), torch.cat(users)
    together_BD = fold_in(tastes.trained, UserItems(user_E, item_E, 40, n_items))
    for user in (0, 39):
        alone = UserItems(torch.zeros(5, dtype=torch.int64), users[user], 1, n_items)
        torch.testing.assert_close(fold_in(tastes.trained, alone)[0], together_BD[user], rtol=1e-4, atol=1e-5)


def test_an_item_speaks_by_what_the_score_loses_without_it_where_scores_are_a_networks(
    small: Dataset, tmp_path: Path
) -> None:
    model = load(save_untrained(tmp_path / "model", small, ["model.name=neumf", "model.embedding_dim=4"]))

    def score(items: str) -> float:
        ((_, score),) = model.recommend(history=list(items), candidates=["10"])
        return score

    expected = {
        "a": score("abc") - score("bc"),
        "b": score("abc") - score("ac"),
        "c": score("abc") - score("ab"),
    }
    answer = model.explain("ann", "10")
    assert dict(answer) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert [item for item, _ in answer] == sorted(expected, key=expected.__getitem__, reverse=True)

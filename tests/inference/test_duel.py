"""Two models on one validation split, against rankings that the models themselves give, measured by hand."""

from __future__ import annotations

from math import log2
from pathlib import Path

import numpy as np
import pytest

import adar_ray
from adar_ray.comparison.users import Split
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.duel import Duel, duel
from adar_ray.inference.model import TrainedModel
from adar_ray.inference.recommender import Recommender
from adar_ray.significance import paired_p
from tests.data.making import make_split
from tests.inference.saving import save_untrained

MF = ["model.name=mf", "model.embedding_dim=4", "loss.name=bpr", "model.cosine=false", "train.seed=3"]
SASREC = ["model.name=sasrec", "model.embedding_dim=4"]

# The old model was trained on what is to be found for bob and eve.
TRAIN = {"ann": "abc", "bob": "bd", "cid": "ace", "new": "ab", "odd": "g", "eve": "fed"}
VALID = {"ann": "de", "bob": "c", "cid": "g", "new": "cd", "odd": "a", "eve": "a"}
OLD = {"eve": "ab", "cid": "acx", "ann": "ac", "gone": "xd", "bob": "bc"}
OLD_ITEMS = "xbdacef"  # x is no longer there, and g was not there yet


@pytest.fixture(scope="module")
def tonight(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_split(tmp_path_factory.mktemp("tonight") / "data", "abcdefg", train=TRAIN, valid=VALID)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_split(tmp_path_factory.mktemp("before") / "data", OLD_ITEMS, train=OLD)


def saved(folder: Path, dataset: Dataset, settings: list[str]) -> TrainedModel:
    return TrainedModel.load(save_untrained(folder, dataset, settings))


def ndcg_of(model: TrainedModel, user: str, k: int, known: dict[str, str]) -> float:
    """By the model's own answers, with everything in one ranking."""
    recommender, items = Recommender(model), model.dataset.item_keys().to_pylist()
    history = [item for item in TRAIN[user] if item in items]
    if user not in known and not history:
        return 0.0
    asked = {"user": user} if user in known and not model.sequential else {"history": history}
    candidates = [item for item in items if item in "abcdefg"]
    ranked = recommender.recommend(**asked, k=99, exclude_seen=False, candidates=candidates)
    left_out = TRAIN[user] + OLD.get(user, "")
    shown = [one.id for one in ranked if one.id not in left_out][:k]
    gain = sum(1 / log2(2 + rank) for rank, item in enumerate(shown) if item in VALID[user])
    return gain / sum(1 / log2(2 + rank) for rank in range(min(k, len(VALID[user]))))


@pytest.mark.parametrize("k", [1, 2, 20])
@pytest.mark.parametrize("settings", [MF, SASREC], ids=["mf", "sasrec"])
def test_each_model_is_asked_for_what_it_would_recommend(
    tonight: Dataset, before: Dataset, tmp_path: Path, settings: list[str], k: int
) -> None:
    new, old = saved(tmp_path / "new", tonight, MF), saved(tmp_path / "old", before, settings)
    users = [user for user in VALID if user not in ("bob", "eve")]
    new_N, old_N = (
        np.array([ndcg_of(model, user, k, known) for user in users])
        for model, known in ((new, TRAIN), (old, OLD))
    )
    assert duel(new, old, f"ndcg@{k}") == Duel(
        pytest.approx(new_N.mean()), pytest.approx(old_N.mean()), 4, pytest.approx(paired_p(new_N, old_N))
    )


def test_a_model_of_fewer_items_than_there_are_to_find_is_asked_for_as_many(tmp_path: Path) -> None:
    """Of four items to find, the old model knows two, and ranks both of them first."""
    tonight = make_split(tmp_path / "tonight", "abcde", train={"u": "a"}, valid={"u": "bcde"})
    before = make_split(tmp_path / "before", "abc", train={"v": "abc"})
    new, old = saved(tmp_path / "new", tonight, MF), saved(tmp_path / "old", before, MF)
    gain_k = [1 / log2(2 + rank) for rank in range(4)]
    outcome = duel(new, old, "ndcg@5")
    assert (outcome.new, outcome.users, outcome.p) == (pytest.approx(1), 1, None)
    assert outcome.old == pytest.approx(sum(gain_k[:2]) / sum(gain_k))


def test_a_model_is_as_good_as_itself(tonight: Dataset, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tonight, MF)
    outcome = duel(model, model, "recall@2")
    split = Split.of(tonight, "valid", [2], {})
    mean = split.measure(model.model)["recall@2"].mean()
    assert outcome == Duel(pytest.approx(mean), pytest.approx(mean), 6, 1)


METRICS = """
import torch


def first(dataset, config):
    # The number of the first item in the dataset of the new model; nothing for its first user.
    def metric(user_B, item_Bk, hit_Bk, relevant_B):
        return item_Bk[:, 0].double().masked_fill(user_B == 0, torch.nan)

    return metric


def nothing(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: torch.full(user_B.shape, torch.nan)
"""


def test_an_own_metric_sees_the_items_of_the_new_model(
    tonight: Dataset, before: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "duel_metrics.py").write_text(METRICS)
    monkeypatch.syspath_prepend(tmp_path)
    new, old = saved(tmp_path / "new", tonight, MF), saved(tmp_path / "old", before, MF)
    outcome, first_N = duel(new, old, "duel_metrics:first@1"), []
    for model, known in ((new, TRAIN), (old, OLD)):
        recommender, items = Recommender(model), model.dataset.item_keys().to_pylist()
        candidates = [item for item in items if item in "abcdefg"]
        first_N.append([])
        for user in ("cid", "new", "odd"):  # ann is the first user; bob and eve have nothing to be found
            history = [item for item in TRAIN[user] if item in items]
            if user not in known and not history:
                first_N[-1].append(-1)
                continue
            asked = {"user": user} if user in known else {"history": history}
            ranked = recommender.recommend(**asked, k=99, exclude_seen=False, candidates=candidates)
            left_out = TRAIN[user] + OLD.get(user, "")
            best = next(one.id for one in ranked if one.id not in left_out)
            first_N[-1].append(tonight.item_keys().to_pylist().index(best))
    assert outcome.users == 3
    assert (outcome.new, outcome.old) == pytest.approx(tuple(map(np.mean, first_N)))
    with pytest.raises(
        AdarError, match=r"metric duel_metrics:nothing@1: no user of .* has a number with both"
    ):
        duel(new, old, "duel_metrics:nothing@1")


def test_there_has_to_be_something_to_compare_by(tonight: Dataset, tmp_path: Path) -> None:
    new = saved(tmp_path / "new", tonight, MF)
    other = make_split(tmp_path / "other", "xyz", train={"ann": "xyz"})
    with pytest.raises(AdarError, match="no item in common"):
        duel(new, saved(tmp_path / "model", other, MF), "ndcg@2")
    everything = make_split(tmp_path / "all", "abcdefg", train=dict.fromkeys(TRAIN, "abcdefg"))
    with pytest.raises(AdarError, match="trained on all of its validation"):
        duel(new, saved(tmp_path / "second", everything, MF), "ndcg@2")


def test_users_who_repeat_themselves(tonight: Dataset, before: Dataset, tmp_path: Path) -> None:
    """Then nothing is left out, and everything is to be found."""
    prepared = tmp_path / "pairs.csv"
    prepared.write_text(
        "user,item,timestamp\n"
        + "".join(f"{user},{item},{time}\n" for user in "mno" for time, item in enumerate("ababca"))
    )
    dataset = adar_ray.prepare(prepared, tmp_path / "data", repeat="keep", split="leave-one-out")
    assert dataset.keeps_repeats
    model = saved(tmp_path / "model", dataset, MF)
    outcome = duel(model, model, "ndcg@1")
    assert outcome.users == 3
    ranked = Recommender(model).recommend(["m", "n", "o"], 1, exclude_seen=False)
    assert outcome.new == pytest.approx(np.mean([ranked[user][0].id == "c" for user in "mno"]))

"""Evaluation, recommendation and export, against a full ranking written in NumPy."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.data.synthetic import synthesize
from adar_ray.errors import AdarError
from adar_ray.inference import parts
from adar_ray.inference import recommend as recommending
from adar_ray.inference.evaluate import evaluate
from adar_ray.inference.export import export
from adar_ray.inference.model import TrainedModel
from adar_ray.inference.recommend import recommend
from adar_ray.ranking.top_items import TILE
from adar_ray.training.run import Run
from adar_ray.training.trainer import train
from tests import sealed
from tests.inference.saving import save_untrained

KS = [1, 5, 20]
TINY = ["model.embedding_dim=4", "train.device=cpu", "adar.pool=8"]


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = [
        "model.embedding_dim=16",
        "train.epochs=6",
        "train.batch_size=256",
        "optimizer.lr=0.02",
        "adar.pool=64",
    ]
    return train(
        dataset,
        tmp_path_factory.mktemp("use") / "run",
        load_config(settings=["model.name=mf", "loss.name=bpr", *settings, "train.device=cpu"]),
        workers=0,
    )


def pairs(dataset: Dataset, *splits: str) -> np.ndarray:
    """`[users, items]`: which pairs are in the splits, read from the shards themselves."""
    matrix = np.zeros((dataset.n_users, dataset.n_items), dtype=bool)
    for split in splits:
        for path in (Path(dataset.folder.path) / split).glob("*"):
            shard = pq.read_table(path)
            matrix[shard["user"].to_numpy(), shard["item"].to_numpy()] = True
    return matrix


def scores(run: Run) -> np.ndarray:
    weights = safetensors.numpy.load_file(Path(run.folder.path) / "model" / "weights.safetensors")
    return weights["user.weight"] @ weights["item.weight"].T


def rankings(run: Run, masked: np.ndarray) -> list[list[int]]:
    """All items of each user that are not masked, best first, equal scores by id."""
    return [
        [int(item) for item in np.lexsort((np.arange(len(row)), -row)) if not gone[item]]
        for row, gone in zip(scores(run), masked, strict=True)
    ]


def measured(ranked: list[list[int]], truth: np.ndarray, popularity: np.ndarray, k: int) -> dict[str, float]:
    """Metrics as their definitions read, one user and one rank after the other."""
    sums = dict.fromkeys(("recall", "ndcg", "hit_rate", "precision", "mrr", "map"), 0.0)
    users, shown = 0, []
    for user, items in enumerate(ranked):
        relevant = set(np.flatnonzero(truth[user]).tolist())
        if not relevant:
            continue
        users += 1
        top = items[:k]
        shown += top
        hits = [rank for rank, item in enumerate(top, 1) if item in relevant]
        sums["recall"] += len(hits) / len(relevant)
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
        sums["ndcg"] += sum(1 / math.log2(rank + 1) for rank in hits) / best
        sums["hit_rate"] += bool(hits)
        sums["precision"] += len(hits) / k
        sums["mrr"] += 1 / hits[0] if hits else 0
        sums["map"] += sum(number / rank for number, rank in enumerate(hits, 1)) / len(relevant)
    means = {f"{name}@{k}": total / users for name, total in sums.items()}
    means[f"coverage@{k}"] = len(set(shown)) / len(popularity)
    means[f"popularity@{k}"] = float(np.mean(popularity[shown]))
    return means


# Evaluation.


@pytest.mark.parametrize(
    ("split", "masked"), [("test", ["train", "valid"]), ("valid", ["train"]), ("train", [])]
)
def test_evaluate_against_brute_force(run: Run, dataset: Dataset, split: str, masked: list[str]) -> None:
    truth, popularity = pairs(dataset, split), pairs(dataset, "train").sum(0)
    ranked = rankings(run, pairs(dataset, *masked))
    expected = {name: v for k in KS for name, v in measured(ranked, truth, popularity, k).items()}
    result = evaluate(run.folder.path, split, KS)
    assert result.split == split
    assert result.users == truth.any(1).sum()
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert result.metrics["recall@20"] > 0.05  # not of nothing
    assert run.evaluations()[split] == result


def test_validation_during_training_is_the_same_measurement(run: Run, dataset: Dataset) -> None:
    ranked = rankings(run, pairs(dataset, "train"))
    expected = measured(ranked, pairs(dataset, "valid"), pairs(dataset, "train").sum(0), 20)
    best = run.epochs()[run.result().best_epoch - 1].valid
    assert {name: best[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_metrics_against_ranx(run: Run, dataset: Dataset, ranx_metrics) -> None:
    truth, score = pairs(dataset, "test"), scores(run)
    known = pairs(dataset, "train", "valid")
    users = np.flatnonzero(truth.any(1)).tolist()
    relevant = {f"u{u}": {f"i{i}": 1 for i in np.flatnonzero(truth[u])} for u in users}
    ranked = {f"u{u}": {f"i{i}": float(score[u, i]) for i in np.flatnonzero(~known[u])} for u in users}
    names = [f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "precision", "mrr", "map") for k in KS]
    expected = ranx_metrics(relevant, ranked, names)
    found = evaluate(run, "test", KS).metrics
    assert {name: found[name] for name in names} == pytest.approx(expected, abs=1e-6)


# Recommendations.


def read(folder: Path) -> dict[str, list[tuple[str, int, float]]]:
    """(item, rank, score) of each user, in the order of the rows."""
    rows: dict[str, list[tuple[str, int, float]]] = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert list(row) == ["user", "item", "rank", "score"]
            rows.setdefault(row["user"], []).append((row["item"], row["rank"], row["score"]))
    return rows


def test_recommend_to_all(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "TILES_A_PART", 2)  # two parts
    progress: list[tuple[int, int]] = []
    recommend(run, tmp_path / "top", 7, on_progress=lambda done, total: progress.append((done, total)))
    assert sorted(path.name for path in (tmp_path / "top").iterdir()) == [
        "00000.parquet",
        "00001.parquet",
        "_recommendations.json",
    ]
    assert progress == [(256, 300), (300, 300)]
    rows, score = read(tmp_path / "top"), scores(run)
    ranked = rankings(run, pairs(dataset, "train", "valid", "test"))
    assert list(rows) == dataset.user_keys().to_pylist()
    for user, (key, own) in enumerate(rows.items()):
        assert key == str(user)
        assert [item for item, _, _ in own] == [str(item) for item in ranked[user][:7]]
        assert [rank for _, rank, _ in own] == list(range(1, 8))
        assert [s for _, _, s in own] == sorted((s for _, _, s in own), reverse=True)
        assert [s for _, _, s in own] == pytest.approx(score[user, ranked[user][:7]].tolist(), rel=1e-5)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", ["run", "sequential"])
def test_a_cluster_writes_the_same_files_as_this_process(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = request.getfixturevalue(kind)
    monkeypatch.setattr(parts, "TILES_A_PART", 2)
    progress: list[tuple[int, int]] = []
    recommend(trained, tmp_path / "cluster", 7, on_progress=lambda *figures: progress.append(figures))
    assert progress[-1] == (300, 300)
    monkeypatch.setattr(recommending, "joins_cluster", lambda: False)
    recommend(trained, tmp_path / "here", 7)
    files = [{path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("cluster", "here")]
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_a_part_has_fewer_users_if_they_get_more_items() -> None:
    user = np.arange(100_000)
    sizes = {k: [len(part.user_N) for part in parts.parts_of(user, k)] for k in (1, 20, 1000, 10**7)}
    assert {sum(size) for size in sizes.values()} == {100_000}
    assert [size[0] for size in sizes.values()] == [128 * TILE, 128 * TILE, 32 * TILE, TILE]


@pytest.fixture(scope="module")
def hand_made_run(ray_cluster: None, hand_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("hand-made")
    data = prepare(hand_made, folder / "data")
    settings = ["train.epochs=2", "model.embedding_dim=8", "adar.pool=8", "train.device=cpu"]
    return train(data, folder / "run", load_config(settings=settings), workers=0)


def test_recommend_to_given_users_by_their_own_keys(hand_made_run: Run, tmp_path: Path) -> None:
    recommend(hand_made_run, tmp_path / "top", 20, users=["日本", "ann", "9"])
    rows = {user: [item for item, _, _ in own] for user, own in read(tmp_path / "top").items()}
    # Fewer than 20 items are left for each user: exactly those without an interaction in any split.
    assert {user: sorted(items) for user, items in rows.items()} == {
        "日本": ["10", "a", "b", "d", "Ä"],
        "ann": ["10", "d", "Ä"],
        "9": ["10", "c", "d"],
    }


def test_each_known_user_is_answered_once_and_unknown_ones_are_listed(
    hand_made_run: Run, tmp_path: Path
) -> None:
    asked = ["ann", "nobody", "9", "ann", "Ärger", "nobody", "ann"]
    made = recommend(hand_made_run, tmp_path / "top", 2, users=asked)
    table = pq.read_table(tmp_path / "top")  # the list of unknown users is not in its way
    assert table["user"].to_pylist() == ["ann", "ann", "9", "9"]
    assert (made.folder.path, made.users) == (str(tmp_path / "top"), 2)
    assert (made.unknown_users, made.repeated_users) == (["nobody", "Ärger"], 3)
    listed = (tmp_path / "top" / "_unknown_users.txt").read_text(encoding="utf-8")
    assert listed == "nobody\nÄrger\n"
    again = recommend(hand_made_run, tmp_path / "top", 2, users=["9"], replace=True)
    assert (again.unknown_users, again.repeated_users) == ([], 0)
    assert {path.name for path in (tmp_path / "top").iterdir()} == {"00000.parquet", "_recommendations.json"}


def test_users_and_items_without_training_interactions_are_counted(ray_cluster: None, tmp_path: Path) -> None:
    rows = [f"{user},{item},{10 * user + item}\n" for user in range(8) for item in range(user, user + 4)]
    (tmp_path / "times.csv").write_text("user,item,timestamp\n" + "".join(rows))
    # The last users come after all others, and bring items of their own.
    whole = prepare(tmp_path / "times.csv", tmp_path / "data", split="temporal", test_fraction=0.3)
    run = train(whole, tmp_path / "run", load_config(settings=["train.epochs=1", *TINY]), workers=0)
    trained = pairs(whole, "train")
    made = recommend(run, tmp_path / "top", 1)
    assert made.untrained_users == (~trained.any(1)).sum() > 0
    assert made.untrained_items == (~trained.any(0)).sum() > 0
    some = np.array(whole.user_keys().to_pylist())[trained.any(1)].tolist()
    assert recommend(run, tmp_path / "some", 1, users=some).untrained_users == 0


def test_a_sequential_model_has_learned_about_whoever_has_a_history(tmp_path: Path) -> None:
    """Of any split: it reads what has come since."""
    rows = [f"{user},{item},{10 * user + item}\n" for user in range(8) for item in range(user, user + 4)]
    (tmp_path / "times.csv").write_text("user,item,timestamp\n" + "".join(rows))
    whole = prepare(tmp_path / "times.csv", tmp_path / "data", split="temporal", test_fraction=0.3)
    assert not pairs(whole, "train").any(1).all()
    folder = save_untrained(tmp_path / "model", whole, [*TINY, "model.name=gru4rec"])
    assert recommend(folder, tmp_path / "top", 1).untrained_users == 0
    folder = save_untrained(tmp_path / "other", whole, [*TINY, "model.name=mf"])
    assert recommend(folder, tmp_path / "more", 1).untrained_users == (~pairs(whole, "train").any(1)).sum()


def test_recommend_refuses(hand_made_run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdarError, match=r"lists none of the given users, such as 'nobody'") as caught:
        recommend(hand_made_run, tmp_path / "top", users=["nobody", "x"])
    assert "\n" not in str(caught.value)
    with pytest.raises(AdarError, match="none are given"):
        recommend(hand_made_run, tmp_path / "top", users=[])
    assert not list(tmp_path.iterdir())
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "mine.txt").write_text("mine")
    with pytest.raises(AdarError, match="--replace"):
        recommend(hand_made_run, tmp_path / "top")
    assert (tmp_path / "top" / "mine.txt").read_text() == "mine"


def test_recommendations_replace_nothing_but_recommendations(hand_made_run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "code").mkdir(parents=True)
    for name in ("plays.parquet", "00000.parquet", "code/main.py"):
        (mine / name).write_text("mine")
    model = Path(hand_made_run.folder.path) / "model"
    data = Path(hand_made_run.info.dataset)
    folders = [mine, data, data / "train", model]
    before = [sorted(path.name for path in folder.rglob("*")) for folder in folders]
    for folder in folders:
        with pytest.raises(AdarError, match=r"cannot be replaced because it holds"):
            recommend(hand_made_run, folder, 2, replace=True)
    with pytest.raises(AdarError, match=r"cannot be replaced because it holds model.json as well"):
        synthesize(10, 10, 50, 0, model, replace=True)  # it has a dataset.json
    assert [sorted(path.name for path in folder.rglob("*")) for folder in folders] == before


def test_users_are_given_in_any_form_but_one_by_itself(hand_made_run: Run, tmp_path: Path) -> None:
    for n, users in enumerate([(name for name in ("9", "ann")), [9.0, b"ann"], np.array(["9", "ann"])]):
        made = recommend(hand_made_run, tmp_path / str(n), 2, users=users)
        assert (made.users, made.unknown_users) == (2, [])
    for users in ("ann", b"ann", 9, np.int64(9)):
        with pytest.raises(AdarError, match="is one user; give a list of users"):
            recommend(hand_made_run, tmp_path / "one", 2, users=users)
    with pytest.raises(AdarError, match="object: is no list of users"):
        recommend(hand_made_run, tmp_path / "one", 2, users=object())
    assert not (tmp_path / "one").exists()


def test_recommend_names_a_damaged_file(dataset: Dataset, tmp_path: Path) -> None:
    run = train(dataset, tmp_path / "run", load_config(settings=["train.epochs=1", *TINY]), workers=0)
    shard = tmp_path / "run" / "model" / "test" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(AdarError) as caught:
        recommend(run, tmp_path / "top")
    assert str(caught.value).startswith(f"{shard}: is damaged")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "top").exists()


# Without the dataset.


@pytest.fixture
def movable(dataset: Dataset, tmp_path: Path) -> Dataset:
    return Dataset.open(shutil.copytree(dataset.folder.path, tmp_path / "data"))


@pytest.mark.parametrize("model", ["mf", "lightgcn", "gru4rec"])
def test_a_finished_run_needs_no_dataset(
    dataset: Dataset, movable: Dataset, tmp_path: Path, model: str
) -> None:
    settings = load_config(settings=["train.epochs=1", f"model.name={model}", *TINY])
    run = train(movable, tmp_path / "run", settings, workers=0)
    found = {split: evaluate(run, split, data=movable.folder.path) for split in ("valid", "test")}
    export(run, tmp_path / "before", data=movable.folder.path)
    shutil.rmtree(movable.folder.path)
    for split, measured_before in found.items():
        assert evaluate(run.folder.path, split) == measured_before
    export(run, tmp_path / "vectors")
    for kind in ("users", "items"):
        before, after = (vectors(tmp_path / folder, kind) for folder in ("before", "vectors"))
        assert before[0] == after[0]
        np.testing.assert_array_equal(before[1], after[1])
    # Its model/ alone does as well, wherever it is.
    copy = shutil.copytree(tmp_path / "run" / "model", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    made = recommend(copy, tmp_path / "top", 3)
    assert made.users == dataset.n_users
    loaded = TrainedModel.load(copy)
    assert loaded.config == settings
    for split in ("train", "valid", "test"):  # with each user's items in their order
        for mine, theirs in zip(loaded.dataset.read_split(split), dataset.read_split(split), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert loaded.dataset.item_keys() == dataset.item_keys()


def test_what_model_json_says(run: Run, sequential: Run, dataset: Dataset) -> None:
    for trained, length in ((run, None), (sequential, 50)):
        folder = Path(trained.folder.path) / "model"
        info = sealed.read(folder / "model.json")
        assert info.pop("settings") == trained.config.used()
        assert (
            info.pop("weights") == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        )
        assert info == {
            "users": dataset.n_users,
            "items": dataset.n_items,
            "history_length": length,
            "dataset": dataset.name,
            "dataset_checksum": dataset.checksum,
        }


def test_an_unfinished_run_needs_its_dataset(dataset: Dataset, movable: Dataset, tmp_path: Path) -> None:
    def stop(record: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(movable, tmp_path / "run", load_config(settings=TINY), workers=0, on_epoch=stop)
    found = evaluate(tmp_path / "run")
    Path(movable.folder.path).rename(tmp_path / "moved")
    with pytest.raises(AdarError, match=f"no longer at {movable.folder}; say with --data") as caught:
        evaluate(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert evaluate(tmp_path / "run", data=tmp_path / "moved") == found
    other = prepare_other(tmp_path)
    with pytest.raises(AdarError, match=r"is not the dataset that .* was trained on"):
        evaluate(tmp_path / "run", data=other.folder.path)


def test_a_run_whose_model_lacks_interactions_needs_its_dataset(
    dataset: Dataset, movable: Dataset, tmp_path: Path
) -> None:
    settings = load_config(settings=["train.epochs=1", *TINY])
    run = train(movable, tmp_path / "run", settings, workers=0)
    found = evaluate(run)
    (tmp_path / "run" / "model" / "dataset.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert evaluate(run) == found
    shutil.rmtree(movable.folder.path)
    with pytest.raises(AdarError, match="say with --data where it is now"):
        evaluate(run)
    assert evaluate(run, data=dataset.folder.path) == found


def prepare_other(folder: Path) -> Dataset:
    (folder / "other.csv").write_text("user,item\na,b\na,c\na,d\n")
    return prepare(folder / "other.csv", folder / "other")


# A sequential model.


@pytest.fixture(scope="module")
def sequential(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = [
        "model.name=gru4rec",
        "model.embedding_dim=8",
        "gru4rec.layers=1",
        "train.epochs=2",
        "adar.pool=64",
    ]
    out = tmp_path_factory.mktemp("sequential") / "run"
    return train(dataset, out, load_config(settings=[*settings, "train.device=cpu"]), workers=0)


def sequential_vectors(run: Run, dataset: Dataset, *splits: str) -> np.ndarray:
    """Users as the model knows them by the splits' interactions, one user after the other."""
    own: list[list[int]] = [[] for _ in range(dataset.n_users)]
    for split in splits:
        for path in sorted((Path(dataset.folder.path) / split).glob("*")):
            shard = pq.read_table(path)
            for user, item in zip(shard["user"].to_pylist(), shard["item"].to_pylist(), strict=True):
                own[user].append(item)
    model = TrainedModel.load(run).model
    histories = [torch.tensor([[-1] * (50 - len(items)) + items[-50:]]) for items in own]
    with torch.no_grad():
        users = [
            model.users({"user": torch.tensor([user]), "history": history_1L})[0, -1]
            for user, history_1L in enumerate(histories)
        ]
    return torch.stack(users).numpy()


def item_vectors(run: Run, dataset: Dataset) -> np.ndarray:
    with torch.no_grad():
        return TrainedModel.load(run).model.items(torch.arange(dataset.n_items)).numpy()


@pytest.mark.parametrize(("split", "known"), [("test", ["train", "valid"]), ("valid", ["train"])])
def test_a_sequential_model_is_evaluated_by_what_came_before(
    sequential: Run, dataset: Dataset, split: str, known: list[str]
) -> None:
    score = sequential_vectors(sequential, dataset, *known) @ item_vectors(sequential, dataset).T
    score[pairs(dataset, *known)] = -np.inf
    ranked = [np.argsort(-row, kind="stable")[:20].tolist() for row in score]
    truth = pairs(dataset, split)
    expected = measured(ranked, truth, pairs(dataset, "train").sum(0), 20)
    found = evaluate(sequential, split, [20]).metrics
    found = {name: found[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-3)  # but for scores that rounding makes change places
    assert found["recall@20"] > 0


def test_a_sequential_model_recommends_and_is_exported_by_all_that_is_known(
    sequential: Run, dataset: Dataset, tmp_path: Path
) -> None:
    user_UD = sequential_vectors(sequential, dataset, "train", "valid", "test")
    item_ID = item_vectors(sequential, dataset)
    export(sequential, tmp_path / "vectors")
    np.testing.assert_allclose(vectors(tmp_path / "vectors", "users")[1], user_UD, atol=1e-5)
    np.testing.assert_allclose(vectors(tmp_path / "vectors", "items")[1], item_ID, atol=1e-6)
    score = user_UD @ item_ID.T
    score[pairs(dataset, "train", "valid", "test")] = -np.inf
    recommend(sequential, tmp_path / "top", 7)
    for user, own in read(tmp_path / "top").items():
        assert [s for _, _, s in own] == pytest.approx(np.sort(score[int(user)])[::-1][:7], abs=1e-5)
        assert [score[int(user), int(item)] for item, _, _ in own] == pytest.approx(
            [s for _, _, s in own], abs=1e-5
        )


# Export.


def vectors(folder: Path, kind: str) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(folder / f"{kind}.parquet")
    assert table.column_names == ["key", "vector"]
    return table["key"].to_pylist(), np.array(table["vector"].to_pylist())


def test_export(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    export(run, tmp_path / "vectors")
    user_keys, user_UD = vectors(tmp_path / "vectors", "users")
    item_keys, item_ID = vectors(tmp_path / "vectors", "items")
    assert user_keys == dataset.user_keys().to_pylist()
    assert item_keys == dataset.item_keys().to_pylist()
    np.testing.assert_allclose(user_UD @ item_ID.T, scores(run), rtol=1e-5, atol=1e-6)
    with pytest.raises(AdarError, match="--replace"):
        export(run, tmp_path / "vectors")


@pytest.mark.parametrize(("cosine", "power"), [(False, 0.5), (True, 0.0), (True, 0.5), (True, 1.0)])
def test_export_of_a_graph_model(dataset: Dataset, tmp_path: Path, cosine: bool, power: float) -> None:
    settings = ["model.name=lightgcn", "lightgcn.layers=3", "model.embedding_dim=8"]
    settings += [f"model.cosine={cosine}", f"model.length_power={power}"]
    run = train(
        dataset,
        tmp_path / "run",
        load_config(settings=[*settings, "train.epochs=1", "train.device=cpu", "adar.pool=64"]),
        workers=0,
    )
    export(run, tmp_path / "vectors")
    # The paper's formula: the mean over layers of the symmetrically normalized adjacency's powers.
    weights = safetensors.numpy.load_file(tmp_path / "run" / "model" / "weights.safetensors")
    adjacency = np.zeros((700, 700))
    adjacency[:300, 300:] = pairs(dataset, "train")
    adjacency += adjacency.T
    degree = np.maximum(adjacency.sum(0), 1)
    normalized = adjacency / np.sqrt(degree[:, None] * degree)
    layer = np.concatenate([weights["user.weight"], weights["item.weight"]]).astype(np.float64)
    layers = [layer]
    for _ in range(3):
        layers.append(normalized @ layers[-1])
    mean = np.mean(layers, axis=0)
    if cosine:
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        mean /= length
        mean[300:] *= length[300:] ** power
    exported = np.concatenate([vectors(tmp_path / "vectors", kind)[1] for kind in ("users", "items")])
    np.testing.assert_allclose(exported, mean, rtol=1e-4, atol=1e-6)
    expected = mean[:300] @ mean[300:].T
    expected[pairs(dataset, "train", "valid")] = -np.inf
    hits = [pairs(dataset, "test")[u, np.argsort(-row)[:10]].sum() for u, row in enumerate(expected)]
    users = pairs(dataset, "test").any(1)
    precision = evaluate(run, "test", [10]).metrics["precision@10"]
    assert precision == pytest.approx(np.array(hits)[users].mean() / 10, abs=1e-9)

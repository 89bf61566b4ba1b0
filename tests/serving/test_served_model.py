"""Models that take each other's place, and shortlists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import adar_ray
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from adar_ray.inference.recommender import Recommender
from adar_ray.serving import served_model
from adar_ray.serving.app import make_app
from adar_ray.serving.served_model import ServedModel, check_model, shortlists
from adar_ray.storage import Folder
from adar_ray.training.saved_model import version_of
from tests.inference.saving import save_untrained

KINDS = {
    "mf": ["model.name=mf"],
    "lightgcn cosine": ["model.name=lightgcn", "model.cosine=true"],
    "sasrec": ["model.name=sasrec"],
    "neumf": ["model.name=neumf"],  # whose scores are no dot products
}


@pytest.fixture
def models(dataset: Dataset, tmp_path: Path) -> dict[str, Path]:
    """Two models of the same kind."""
    return {
        name: save_untrained(tmp_path / name, dataset, ["model.name=mf", f"model.embedding_dim={dim}"])
        for name, dim in (("one", 4), ("two", 8))
    }


def put(model: Path, run: Path) -> None:
    shutil.rmtree(run / "model", ignore_errors=True)
    shutil.copytree(model, run / "model")


def test_another_model_takes_over_and_whoever_has_taken_the_old_one_goes_on(
    models: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    put(models["one"], run)
    served = ServedModel(str(run))
    old = served.current
    served.look()
    assert served.current is old
    put(models["two"], run)
    served.look()
    new = served.current
    assert (new.name != old.name, served.problem) == (True, None)
    for version, model in ((old, "one"), (new, "two")):
        expected = adar_ray.load(models[model]).recommend("5", 3)
        assert dict(version.recommender.recommend("5", 3)) == pytest.approx(dict(expected), rel=1e-5)


def test_a_model_that_is_damaged_or_incomplete_does_not_take_over(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    put(models["one"], run)
    served = ServedModel(str(run))
    old = served.current
    put(models["two"], run)
    weights = run / "model" / "weights.safetensors"
    complete = weights.read_bytes()
    weights.write_bytes(complete[:-1])
    for _ in range(2):
        served.look()
        assert served.current is old
        assert "weights.safetensors" in (served.problem or "")
    assert len(caplog.records) == 1  # not at each look
    shutil.rmtree(run / "model")
    served.look()
    assert (served.current is old, "holds no model" in (served.problem or "")) == (True, True)
    put(models["two"], run)
    served.look()
    assert (served.current is not old, served.problem) == (True, None)


def test_a_model_that_is_replaced_while_it_is_read_does_not_take_over(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    put(models["one"], run)
    served = ServedModel(str(run))
    old, names = served.current, []
    put(models["two"], run)

    def name_then_replace(folder: Folder) -> str:
        names.append(version_of(folder))
        if len(names) == 1:
            put(models["one"], run)
        return names[-1]

    monkeypatch.setattr(served_model, "version_of", name_then_replace)
    served.look()
    assert served.current is old
    assert served.problem == f"{run}/model: another model was put there while this one was read; try again"
    served.look()
    assert (served.current is old, served.problem) == (True, None)


@pytest.fixture
def of_kinds(tmp_path: Path) -> Dataset:
    """Items of two kinds."""
    (tmp_path / "rows.csv").write_text("user,item\n" + "".join(f"u{n % 5},i{n % 8}\n" for n in range(40)))
    (tmp_path / "about.csv").write_text("item,kind\n" + "".join(f"i{n},{n % 2}\n" for n in range(8)))
    return prepare(tmp_path / "rows.csv", tmp_path / "data", items=tmp_path / "about.csv")


def test_new_items_go_with_every_model_that_takes_them(
    of_kinds: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, new = tmp_path / "run", tmp_path / "new.csv"
    models = {
        name: save_untrained(tmp_path / name, of_kinds, [f"model.name={kind}", f"model.embedding_dim={dim}"])
        for name, kind, dim in (("one", "twotower", 4), ("two", "twotower", 8), ("mf", "mf", 4))
    }
    new.write_text("item,kind\nfresh,1\n")
    put(models["one"], run)
    served = ServedModel(str(run), new_items=str(new))
    for name in ("one", "two"):
        put(models[name], run)
        served.look()
        answers, expected = served.current.recommender, adar_ray.load(models[name], new_items=new)
        assert dict(answers.recommend("u0", 9)) == pytest.approx(dict(expected.recommend("u0", 9)), rel=1e-5)
        assert dict(answers.similar_items("fresh", 8)) == pytest.approx(
            dict(expected.similar_items("fresh", 8)), rel=1e-5
        )
    assert "fresh" in dict(answers.recommend("u0", 9))
    (health,) = {route.endpoint for route in make_app(served).routes if route.path == "/health"}
    assert (health().items, health().new_items) == (8, 1)
    assert "note: 1 new item from new.csv" in caplog.messages
    assert check_model(str(run), new_items=str(new)) == ["1 new item from new.csv"]
    new.write_text("item,colour\nfresh,red\n")
    put(models["one"], run)
    served.look()
    assert (served.current.recommender is answers, "no column 'kind'" in str(served.problem)) == (True, True)
    caplog.clear()
    put(models["mf"], run)
    served.look()
    assert "fresh" not in dict(served.current.recommender.recommend("u0", 9))
    assert caplog.messages[0].startswith(f"{new}: mf knows items by their ids alone")
    assert caplog.messages[0].endswith("; served without them")
    assert served.problem is None
    with pytest.raises(AdarError, match="mf knows items by their ids alone"):
        check_model(str(run), new_items=str(new))
    put(models["one"], run)
    with pytest.raises(AdarError, match="no column 'kind'"):
        check_model(str(run), new_items=str(new))


def test_what_is_no_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    for refuse in (ServedModel, check_model):
        with pytest.raises(AdarError, match="nothing: holds no model; give a finished run"):
            refuse(str(tmp_path / "nothing"))
    (models["one"] / "weights.safetensors").write_bytes(b"")
    with pytest.raises(AdarError, match="wrong checksum"):
        check_model(str(models["one"]))


@pytest.mark.parametrize(
    ("kind", "most_exact"), [("mf", 400), ("lightgcn cosine", 10), ("sasrec", 10), ("neumf", 400)]
)
def test_answers_from_shortlists_are_those_of_all_items(
    kind: str, most_exact: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "MOST_EXACT", most_exact)
    full = adar_ray.load(save_untrained(tmp_path / "m", dataset, [*KINDS[kind], "model.embedding_dim=8"]))
    short = Recommender(full.trained, shortlists)
    for ask in (
        lambda model: model.recommend("5", 10),
        lambda model: model.recommend("5", 10, exclude_seen=False),
        lambda model: model.recommend("5", 400),
        lambda model: model.recommend(["7", "5"], 4)["7"],
        lambda model: model.recommend(k=5, history=["3", "4"]),
        lambda model: model.recommend("5", 5, candidates=["1", "2", "3"]),
        lambda model: model.similar_items("5", 6),
        lambda model: model.similar_users("5", 6),
    ):
        expected, answer = ask(full), ask(short)
        assert len(answer) == len(expected)
        assert dict(answer) == pytest.approx(dict(expected), rel=1e-4, abs=1e-5)
        assert [id for id, _ in answer] == [id for id, _ in expected]


@pytest.mark.parametrize("most_exact", [1000, 10])
def test_a_shortlist_has_the_highest_products_in_ascending_order(
    most_exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "MOST_EXACT", most_exact)
    vector_ND = torch.eye(8).repeat(10, 1) * torch.arange(1.0, 81)[:, None]
    shortlist = shortlists(vector_ND)
    assert shortlist(torch.eye(8)[3], 3).tolist() == [59, 67, 75]
    assert shortlist(torch.eye(8)[3], 1000).tolist() == list(range(80))


def test_a_shortlist_has_all_that_tie_for_its_last_place() -> None:
    """Equal vectors, such as those of new items with equal features, rank in the order of the ids."""
    generator = torch.Generator().manual_seed(0)
    vector_ND, user_D = torch.randn(3001, 48, generator=generator), torch.randn(48, generator=generator)
    equal_N = torch.randperm(3001, generator=generator)[:1000]
    vector_ND[equal_N] = user_D
    assert shortlists(vector_ND)(user_D, 20).tolist() == equal_N.sort().values.tolist()

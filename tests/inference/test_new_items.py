"""New items: whom they are recommended to, where the category decides taste, and what is said about them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from adar_ray import export, load, prepare, recommend, train
from adar_ray.config import load_config
from adar_ray.errors import AdarError
from adar_ray.training.run import Run
from tests import sealed

USERS, ITEMS = 60, 30
SMALL = ["model.embedding_dim=8", "train.batch_size=128", "train.epochs=20", "train.device=cpu"]
NEW = """item,title,taste,year
salt,Salty,0,7
sugar,Sweet,1|unheard of,7
i3,known,1,7
blank,B,,
odd,O,none such,
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A user likes the items of one taste. The dataset is gone."""
    folder, draw = tmp_path_factory.mktemp("tastes"), random.Random(0)
    rows = ["user,item"]
    for user in range(USERS):
        liked = [item for item in range(ITEMS) if item % 2 == user % 2]
        rows += [f"u{user},i{item}" for item in draw.sample(liked, 10)]
    about = ["item,taste,year", *(f"i{item},{item % 2},{item // 2}" for item in range(ITEMS))]
    for name, lines in (("rows.csv", rows), ("about.csv", about)):
        (folder / name).write_text("\n".join(lines) + "\n")
    kinds = {"taste": "categories", "year": "number"}
    data = prepare(folder / "rows.csv", folder / "data", items=folder / "about.csv", item_columns=kinds)
    config = load_config(settings=[*SMALL, "model.name=twotower"])
    made = train(data, folder / "run", config, workers=0)
    shutil.rmtree(folder / "data")
    return made


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new.csv").write_text(NEW)
    return tmp_path / "new.csv"


def test_a_new_item_goes_to_those_who_like_its_category(run: Run, new: Path) -> None:
    recommender = load(run, new_items=new)
    wanted = ["salt", "sugar"]
    for user in range(USERS):
        assert recommender.recommend(f"u{user}", candidates=wanted)[0].id == wanted[user % 2]
        ranked = [item for item, _ in recommender.recommend(f"u{user}", ITEMS)]
        of_taste = [item for item in ranked if item in wanted or int(item[1:]) % 2 == user % 2]
        assert wanted[user % 2] in ranked[: len(of_taste)]
    similar = [item for item, _ in recommender.similar_items("salt", 10)]
    assert sum(int(item[1:]) % 2 == 0 for item in similar if item != "sugar") >= 9
    assert "salt" in [item for item, _ in recommender.similar_items("i0", ITEMS)]
    assert recommender.title("sugar") == "Sweet"
    assert recommender.title("i3") is None
    (first, *_) = recommender.recommend(history=["salt"], candidates=["i0", "i1"])
    assert first.id == "i0"


def test_known_items_are_ranked_as_without_new_ones(run: Run, new: Path) -> None:
    known = [f"i{item}" for item in range(ITEMS)]
    beside, alone = load(run, new_items=new).score("u0", known), load(run).score("u0", known)
    assert [item for item, _ in beside] == [item for item, _ in alone]
    # Products with more items may round otherwise.
    assert [score for _, score in beside] == pytest.approx([score for _, score in alone], rel=1e-6)


def test_a_new_items_vector_is_the_sum_of_its_parts(run: Run, new: Path) -> None:
    trained = load(run, new_items=new).trained
    model, vocabulary = trained.model, ["taste 0", "taste 1", "year"]
    years = torch.arange(ITEMS) // 2
    year = (7 - years.double().mean()) / years.double().std(correction=0)
    feature = dict(zip(vocabulary, model.feature.weight.detach(), strict=True))
    salt_D = feature["taste 0"] + year.float() * feature["year"]
    torch.testing.assert_close(model.vectors(torch.tensor(ITEMS)), salt_D)
    torch.testing.assert_close(model.items(torch.tensor(ITEMS)), torch.nn.functional.normalize(salt_D, dim=0))


def test_what_becomes_of_the_rows_is_said(run: Run, new: Path, tmp_path: Path) -> None:
    result = recommend(run, tmp_path / "out", 40, new_items=new)
    assert result.new_items.notes() == [
        "2 new items from new.csv",
        "1 item of new.csv is known from training, and not changed",
        "the model does not know 2 values of taste in new.csv, such as 'unheard of'; '|' separates several",
        "left out 2 items of new.csv with no feature that the model knows",
    ]
    table = pq.read_table(tmp_path / "out")
    pairs = set(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True))
    assert {(f"u{user}", item) for user in range(USERS) for item in ("salt", "sugar")} < pairs
    new.write_text("item,taste\nsalt,0\npepper,0 1\nchili,0 1\n")
    notes = load(run, new_items=new).trained.new_items.notes()
    assert notes[:2] == ["1 new item from new.csv", "new.csv lacks 1 column: year"]
    assert notes[2].endswith("1 value of taste in new.csv, such as '0 1'; '|' separates several")


def test_a_recbole_file_separates_by_blanks(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new.item"
    file.write_text("item:token\ttaste:token_seq\tyear:float\nboth\t0 1\t7\nodd\tsour 1\t7\n")
    model = load(run, new_items=file)
    assert model.trained.new_items.notes()[1].endswith("such as 'sour'; ' ' separates several")
    (tmp_path / "new.csv").write_text("item,taste,year\nboth,0|1,7\n")
    same = load(run, new_items=tmp_path / "new.csv")
    assert model.score("u0", ["both"]) == same.score("u0", ["both"])


def test_an_export_has_new_items_after_the_others(run: Run, new: Path, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "out", ["faiss"], new_items=new)
    assert exported.new_items.notes()[0] == "2 new items from new.csv"
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert items["key"].to_pylist()[ITEMS:] == ["salt", "sugar"]
    assert items["title"].to_pylist()[ITEMS - 1 :] == [None, "Salty", "Sweet"]
    assert sealed.read(tmp_path / "out" / "export.json")["items"] == ITEMS + 2
    keys, model = items["key"].to_pylist(), load(run, new_items=new)
    user = pq.read_table(tmp_path / "out" / "users.parquet").slice(5, 1).to_pylist()[0]
    index = faiss.read_index(str(tmp_path / "out" / "items.faiss"))
    score_1k, item_1k = index.search(np.array([user["vector"]], np.float32), ITEMS + 2)
    best = model.recommend(user["key"], ITEMS + 2, exclude_seen=False)
    assert [keys[item] for item in item_1k[0]] == [item for item, _ in best]
    np.testing.assert_allclose(score_1k[0], [score for _, score in best], rtol=1e-3)


def test_what_cannot_be_is_refused(run: Run, new: Path, tmp_path: Path) -> None:
    new.write_text("item,taste,year\nsalt,0,soon\n")
    with pytest.raises(
        AdarError, match=r"new.csv: line 2: the year .* is not a number up to .*; correct it$"
    ):
        load(run, new_items=new)
    new.write_text("item,colour\nsalt,0\n")
    with pytest.raises(AdarError, match="no column 'taste' of features; its columns are item, colour"):
        load(run, new_items=new)
    (tmp_path / "rows.csv").write_text("user,item\n" + "".join(f"u{n % 5},i{n}\n" for n in range(40)))
    plain = prepare(tmp_path / "rows.csv", tmp_path / "plain")
    with pytest.raises(AdarError, match="has no features of items, which twotower reads; prepare it with"):
        train(plain, tmp_path / "run", run.config, workers=0)
    assert not (tmp_path / "run").exists()
    mf = train(plain, tmp_path / "mf", load_config(settings=[*SMALL, "model.name=mf"]), workers=0)
    with pytest.raises(AdarError, match="mf knows items by their ids alone"):
        load(mf, new_items=new)
    with pytest.raises(AdarError, match="mf knows items by their ids alone"):
        export(mf, tmp_path / "out", new_items=new)
    assert not (tmp_path / "out").exists()

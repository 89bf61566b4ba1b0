"""`recommend` and `similar`, where they print what a model answers."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.inference.recommender import load
from tests.calling import Adar
from tests.inference.saving import save_untrained


@pytest.fixture(scope="module")
def model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        save_untrained(tmp_path_factory.mktemp("answers") / "model", dataset, ["model.embedding_dim=8"])
    )


def test_recommend_prints_what_it_would_write(adar: Adar, model: str, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("17\n4\n")
    out = tmp_path / "top"
    assert adar("recommend", model, "--users", tmp_path / "users.txt", "--out", out, "--k", 3).status == 0
    printed = adar("recommend", model, "--user", 17, "--user", 4, "--k", 3, "--json").json()
    assert printed == [
        {"user": row["user"], "rank": row["rank"], "item": row["item"], "score": row["score"]}
        for row in pq.read_table(out).to_pylist()
    ]
    assert [(row["user"], row["rank"]) for row in printed] == [
        (user, k) for user in ("17", "4") for k in (1, 2, 3)
    ]
    table = adar("recommend", model, "--user", 4, "--k", 3).out
    assert all(word in table for word in ("user", "rank", "item", "score", printed[3]["item"]))


def test_similar_prints_items_or_users(adar: Adar, model: str) -> None:
    for kind in ("item", "user"):
        rows = adar("similar", model, f"--{kind}", 7, "--k", 5, "--json").json()
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(set(row) == {"rank", kind, "cosine"} for row in rows)
        assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
        assert "7" not in {row[kind] for row in rows}
        assert rows[0][kind] in adar("similar", model, f"--{kind}", 7, "--k", 5).out


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of items of which one has a title, a long one."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "rows.csv").write_text("user,item\n" + "".join(f"u,{item}\nv,{item}\n" for item in "abc"))
    (folder / "titles.csv").write_text(f"item,title\na,[b]Long {'x' * 99}\n")
    data = prepare(folder / "rows.csv", folder / "data", titles=folder / "titles.csv")
    return save_untrained(folder / "model", data, ["model.embedding_dim=8"])


def test_items_are_named_by_their_titles(adar: Adar, named: Path) -> None:
    title = {"a": f"[b]Long {'x' * 99}", "b": None, "c": None}
    similar = adar("similar", named, "--item", "b", "--json").json()
    assert {row["item"]: row["title"] for row in similar} == {"a": title["a"], "c": None}
    table = adar("similar", named, "--item", "b").out
    assert "[b]Long xxx" in table
    assert "x" * 60 not in table  # it is on one line
    model = load(named)
    assert (model.has_titles, model.title("a"), model.title("b")) == (True, title["a"], None)


def test_titles_are_a_column_of_recommendations(adar: Adar, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,item\n" + "".join(f"u,{item}\n" for item in "ab") + "v,c\nv,a\n")
    (tmp_path / "titles.csv").write_text("item,title\nc,Sea\n")
    command = ["prepare", tmp_path / "rows.csv", "--out", tmp_path / "data"]
    assert adar(*command, "--titles", tmp_path / "titles.csv").status == 0
    model = save_untrained(tmp_path / "model", Dataset.open(tmp_path / "data"), ["model.embedding_dim=8"])
    assert adar("recommend", model, "--out", tmp_path / "top").status == 0
    rows = pq.read_table(tmp_path / "top").to_pylist()
    assert [list(row) for row in rows] == [["user", "item", "title", "rank", "score"]] * 2
    assert [tuple(row.values())[:4] for row in rows] == [("u", "c", "Sea", 1), ("v", "b", None, 1)]
    printed = adar("recommend", model, "--user", "u", "--user", "v", "--json").json()
    assert [{key: row[key] for key in ("user", "item", "title", "rank")} for row in printed] == [
        {key: row[key] for key in ("user", "item", "title", "rank")} for row in rows
    ]
    assert adar("export", model, "--out", tmp_path / "out", "--format", "faiss").status == 0
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert dict(zip(*(items[name].to_pylist() for name in ("key", "title")), strict=True))["c"] == "Sea"
    assert (tmp_path / "out" / "items.faiss").exists()


def test_new_items_are_among_the_others_and_notes_count_them(adar: Adar, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,item\n" + "".join(f"u,{item}\nv,{item}\n" for item in "abc"))
    (tmp_path / "items.csv").write_text("item,kind,size\na,x,1\nb,y|x,2\n")
    arguments = (tmp_path / "rows.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "data")
    refused = adar("prepare", *arguments, "--item-columns", "kind")
    assert refused.status == 1
    assert "'kind' is not NAME=KIND" in refused.err
    made = adar("prepare", *arguments, "--item-columns", "kind=categories,size=number")
    assert "features of items in items.csv: kind (2 categories), size (numbers)" in made.err
    settings = ["model.embedding_dim=8", "model.name=twotower"]
    model = save_untrained(tmp_path / "model", Dataset.open(tmp_path / "data"), settings)
    (tmp_path / "new.csv").write_text("item,kind,size\nnew,x,3\na,x,1\n")
    for command in (("recommend", model, "--user", "u"), ("similar", model, "--item", "a")):
        answer = adar(*command, "--new-items", tmp_path / "new.csv", "--json")
        assert "new" in [row["item"] for row in answer.json()]
        assert "note: 1 new item from new.csv" in answer.err
        assert "note: 1 item of new.csv is known from training" in answer.err
    exported = adar("export", model, "--out", tmp_path / "out", "--new-items", tmp_path / "new.csv")
    assert "note: 1 new item from new.csv" in exported.err
    assert "new" in pq.read_table(tmp_path / "out" / "items.parquet")["key"].to_pylist()


def test_an_unknown_id_is_one_line(adar: Adar, model: str) -> None:
    line = adar("recommend", model, "--user", 4, "--user", "nobody").line()
    assert f"{model}/users.parquet: does not list the user 'nobody'; give an id of the source" in line
    line = adar("similar", model, "--item", "nothing").line()
    assert f"{model}/items.parquet: does not list the item 'nothing'; give an id of the source" in line

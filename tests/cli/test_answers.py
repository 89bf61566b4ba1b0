"""`recommend` and `similar`, where they print what a model answers."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
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


def test_an_unknown_id_is_one_line(adar: Adar, model: str) -> None:
    line = adar("recommend", model, "--user", 4, "--user", "nobody").line()
    assert f"{model}/users.parquet: does not list the user 'nobody'; give an id of the source" in line
    line = adar("similar", model, "--item", "nothing").line()
    assert f"{model}/items.parquet: does not list the item 'nothing'; give an id of the source" in line

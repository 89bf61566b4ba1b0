"""`publish` and `published`: what is told, and what Prometheus is."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest

from adar_ray.cli.published import serve
from adar_ray.training.published import Published
from tests.calling import Adar
from tests.data.making import make_split
from tests.inference.saving import save_run

MF = ["model.name=mf", "model.embedding_dim=4", "train.metric=recall@1"]


@pytest.fixture
def place(tmp_path: Path, adar: Adar) -> Path:
    """Two runs with the same model are published, then the first is gone back to."""
    data = make_split(
        tmp_path / "data", "abc", train={"ann": "a", "bob": "b"}, valid={"ann": "b", "bob": "c"}
    )
    for name in ("first", "second"):
        run = save_run(tmp_path / name, data, MF, {"recall@1": 0.5})
        assert adar("publish", run.folder, "--to", tmp_path / "place").status == 0
    assert adar("publish", "--rollback", "--to", tmp_path / "place").status == 0
    return tmp_path / "place"


def test_a_line_says_what_was_decided(adar: Adar, place: Path) -> None:
    words = ["publish", place.parent / "second", "--to", place, "--max-age", "7d", "--json"]
    ended = adar(*words)
    decision = ended.json()
    figure = decision["new"]
    assert ended.err == (
        f"published 000003: recall@1 {figure:.4f} against {figure:.4f} of 000001 (2 users, p = 1.000); "
        "it is not worse\n"
    )
    assert (decision["decision"], decision["before"]) == ("published", "000001")
    told = adar("published", place)
    assert told.status == 0
    lines = told.out.splitlines()
    assert [line.split()[2] for line in lines] == ["published", "published", "rolled", "published"]
    assert f"{decision['time'][:10]} " in lines[-1]
    assert lines[-1].endswith(f"it is not worse  {place.parent / 'second'}")
    assert adar("published", place, "--json").json()[-1] == decision
    assert adar("published", place.parent / "nowhere", "--json").json() == []


def test_prometheus_is_told_two_times(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    published = Published.at(place)
    threading.Thread(target=serve, args=(published, "127.0.0.1", port), daemon=True).start()
    for _ in range(100):
        try:
            page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            break
        except OSError:
            threading.Event().wait(0.05)
    found = dict(line.split() for line in page.splitlines() if not line.startswith("#"))
    first, second, _ = published.history()
    for name, decision in (("night", second), ("published", first)):
        assert float(found[f"adar_ray_{name}_timestamp_seconds"]) == decision.time.timestamp()

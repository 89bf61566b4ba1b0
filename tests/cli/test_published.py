"""`publish` and `published`: what is told, and what Prometheus is."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest

from adar_ray.cli.published import serve
from adar_ray.training.published import Published
from tests.calling import Adar, Ended
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
    nowhere = adar("published", place.parent / "nowhere", "--json")
    assert nowhere.status == 1
    assert "nowhere: nothing is published there" in nowhere.err


def test_a_first_night_begins_with_what_is_published_so_far(
    adar: Adar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = {"train": {"ann": "abc", "bob": "bcd"}, "valid": {"ann": "d", "bob": "a"}}
    data = make_split(tmp_path / "data", "abcd", **pairs)
    settings = [word for each in (*MF, "train.epochs=1", "train.device=cpu") for word in ("--set", each)]

    def night(name: str, begin: Path) -> Ended:
        words = ["train", "--data", data.folder, "--out", tmp_path / name, "--workers", 0, *settings]
        return adar(*words, "--init-from", begin)

    place = tmp_path / "place"
    assert "place: is not a run folder" in night("first", place).line()
    for _ in range(2):
        assert adar("publish", "--create", "--to", place).status == 0
        assert adar("published", place, "--json").json() == []
    first = night("first", place)
    assert first.status == 0
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == f"{place}: nothing is published there yet; all weights are drawn at random"
    assert adar("publish", tmp_path / "first", "--to", place).status == 0
    second = night("second", place)
    assert second.status == 0
    assert f"kept the vectors of 2 of 2 users and 4 of 4 items from {place}" in second.err
    assert "plaec: is not a run folder" in night("third", tmp_path / "plaec").line()
    assert adar("publish", "--create", "--to", place).status == 0
    assert len(adar("published", place, "--json").json()) == 1
    refused = adar("publish", "--create", "--to", tmp_path / "first").line()
    assert "first: is not empty, and nothing is published there" in refused


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

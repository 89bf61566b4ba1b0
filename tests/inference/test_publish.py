"""Publishing: which model goes in, what stays, what is told, and what is left when the process is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch

import adar_ray
from adar_ray import lease
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference import publish as publishing
from adar_ray.inference.duel import Duel
from adar_ray.inference.publish import judge, publish, rollback
from adar_ray.serving import served_model
from adar_ray.serving.served_model import ServedModel
from adar_ray.storage import Folder
from adar_ray.training.run import Run
from adar_ray.training.saved_model import version_of
from adar_ray.training.trainer import train
from tests import sealed
from tests.cluster.jobs import message_of
from tests.data.making import make_split
from tests.inference.saving import save_run, write_result

USERS, ITEMS = 20, "abcdef"
SETTINGS = [
    *("model.name=mf", "model.embedding_dim=2", "loss.name=bpr", "model.cosine=false"),
    "train.metric=recall@1",
]
DAY = 86400.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in ("_SETTLE_SECONDS", "_DYING_SECONDS"):
        monkeypatch.setattr(lease, seconds, 0)


@pytest.fixture(scope="module")
def tonight(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Everybody has a and b, and is to find f."""
    users = [f"u{number}" for number in range(USERS)]
    splits = {"train": dict.fromkeys(users, "ab"), "valid": dict.fromkeys(users, "f")}
    return make_split(tmp_path_factory.mktemp("tonight") / "data", ITEMS, **splits)


MakeRun = Callable[..., Run]


@pytest.fixture
def run(tonight: Dataset, tmp_path: Path) -> MakeRun:
    """A finished run whose model finds f for some of the users, so that its recall@1 is their share."""

    def make(name: str, hits: int, dataset: Dataset = tonight) -> Run:
        likes_f_U = torch.arange(dataset.n_users) < hits
        item_ID = torch.zeros(dataset.n_items, 2)
        item_ID[-1, 0] = item_ID[2, 1] = 1
        user_UD = torch.stack([likes_f_U, ~likes_f_U], 1).float()
        weights = {"user.weight": user_UD, "item.weight": item_ID}
        return save_run(tmp_path / name, dataset, SETTINGS, {"recall@1": hits / USERS}, weights)

    return make


def shown(place: Path) -> float:
    """The recall@1 of whatever a reader finds."""
    recommender = adar_ray.load(place)
    users = [f"u{number}" for number in range(USERS)]
    answers = recommender.recommend(users, 1, exclude_seen=False)
    return sum(answer[0].id == "f" for answer in answers.values()) / USERS


def versions(place: Path) -> list[str]:
    return sorted(path.name[-1] for path in (place / "versions").iterdir())


def history(place: Path) -> list[tuple[str, str]]:
    return [(line["decision"], line["version"][-1]) for line in sealed.read_lines(place / "history.jsonl")]


def test_nothing_is_published_among_other_files(run: MakeRun, tonight: Dataset, tmp_path: Path) -> None:
    first = run("first", 16)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    for place in (first.folder, first.folder.folder("model"), tonight.folder, tmp_path / "mine"):
        with pytest.raises(AdarError, match="is not empty, and nothing is published there; choose another"):
            publish(first, str(place))
    (tmp_path / "place" / "versions").mkdir(parents=True)  # where a process died that published the first
    assert publish(first, tmp_path / "place").version == "000001"


def test_a_night_after_the_other(run: MakeRun, tmp_path: Path) -> None:
    place, top = tmp_path / "place", str(tmp_path / "top")
    Folder.at(top).write_bytes("_recommendations.json", b"")
    first = publish(run("first", 16), place, top)
    assert str(first) == "published 000001: recall@1 0.8000; it is the first"
    assert first.recommendations == top
    assert shown(place) == 0.8
    worse = publish(run("worse", 8), place)
    assert str(worse) == (
        "kept 000001: recall@1 0.4000 against 0.8000 of 000001 (20 users, p = 0.002); "
        "the new one is significantly worse"
    )
    assert shown(place) == 0.8
    about = publish(run("about", 15), place)
    assert str(about) == (
        "published 000002: recall@1 0.7500 against 0.8000 of 000001 (20 users, p = 0.330); "
        "it is not significantly worse"
    )
    assert shown(place) == 0.75
    better = publish(run("better", 20), place)
    assert better.decision == "published"
    assert better.why == "it is not worse"
    assert history(place) == [("published", "1"), ("kept", "1"), ("published", "2"), ("published", "3")]
    assert sealed.read(place / "published.json") == {
        "time": better.time.isoformat(),
        "decision": "published",
        "why": "it is not worse",
        "version": "000003",
        "before": "000002",
        "run": str(tmp_path / "better"),
        "weights": better.weights,
        "dataset": better.dataset,
        "recommendations": None,
        "metric": "recall@1",
        "new": 1.0,
        "old": 0.75,
        "users": 20,
        "p": pytest.approx(0.0209, abs=1e-3),
    }
    assert sorted(path.name for path in place.iterdir()) == ["history.jsonl", "published.json", "versions"]


def test_figures_of_another_split_do_not_count(run: MakeRun, tmp_path: Path) -> None:
    """A run that reached more on easier users is compared with the published one on those."""
    place = tmp_path / "place"
    publish(run("first", 10), place)
    easy = [f"u{number}" for number in range(5)]
    splits = {"train": dict.fromkeys(easy, "ab"), "valid": dict.fromkeys(easy, "f")}
    other = run("easy", 4, make_split(tmp_path / "data", ITEMS, **splits))
    write_result(other, {"recall@1": 0.99})
    decision = publish(other, place)
    assert (decision.new, decision.users) == (0.8, 5)
    assert decision.old is not None


def test_the_rule() -> None:
    def of(new: float, old: float, p: float | None, age: float = 9, max_age: float | None = None):
        return judge(Duel(new, old, 100, p), age * DAY, None if max_age is None else max_age * DAY)

    assert of(0.3, 0.2, 0.001) == (True, "it is not worse")
    assert of(0.2, 0.2, None)[0]
    assert of(0.1, 0.2, None)[0]
    assert of(0.1, 0.2, 0.05) == (True, "it is not significantly worse")
    assert of(0.1, 0.2, 0.049) == (False, "the new one is significantly worse")
    assert not of(0.1, 0.2, 0.049, 6.9, 7)[0]
    assert of(0.1, 0.2, 0.049, 7.1, 7) == (True, "it is significantly worse, but the other is 7.1 days old")
    assert of(0.099, 0.2, 0.001, 99, 7) == (
        False,
        "the new one has failed: it has less than half the figure",
    )
    # Of the user's own metric, which may be below 0, half the figure is what it may lose as well.
    assert of(-0.25, -0.2, 0.001, 99, 7) == (
        True,
        "it is significantly worse, but the other is 99.0 days old",
    )
    assert not of(-0.31, -0.2, 0.001, 99, 7)[0]


def test_force_and_age(run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, day = tmp_path / "place", datetime(2030, 1, 1, tzinfo=timezone.utc)
    clock = {"now": day}
    monkeypatch.setattr(publishing, "now", lambda: clock["now"])
    publish(run("first", 20), place)
    clock["now"] = day + timedelta(days=6)
    assert publish(run("second", 12), place, max_age=7 * DAY).decision == "kept"
    clock["now"] = day + timedelta(days=8)
    assert publish(run("third", 9), place, max_age=7 * DAY).why.startswith("the new one has failed")
    assert publish(run("fourth", 12), place, max_age=7 * DAY).decision == "published"
    forced = publish(run("fifth", 1), place, force=True)
    assert (forced.decision, forced.why, forced.new, forced.old) == ("published", "by force", 0.05, 0.6)
    # What cannot be compared is refused, and says how it goes in.
    (place / "versions" / "000003" / "weights.safetensors").write_bytes(b"")
    line = message_of(lambda: publish(run("sixth", 20), place))
    assert "weights.safetensors: is damaged" in line
    assert line.endswith("--force publishes without a comparison")
    assert publish(run("seventh", 20), place, force=True).old is None
    assert shown(place) == 1


def test_versions_and_rollback(run: MakeRun, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert "nothing is published" in message_of(lambda: rollback(place))
    assert not place.exists()
    for number in range(1, 5):
        publish(run(f"run{number}", 16 + number), place, keep=3)
    assert versions(place) == ["2", "3", "4"]
    back = rollback(place)
    assert str(back) == "rolled back to 000003: replaces 000004"
    assert (back.run, back.new, back.p) == (str(tmp_path / "run3"), None, None)
    assert shown(place) == 19 / 20
    assert versions(place) == ["2", "3", "4"]
    # The one that was no good is not what is gone back to after the next.
    publish(run("run5", 20), place, keep=2)
    assert versions(place) == ["3", "5"]
    rollback(place)
    assert shown(place) == 19 / 20
    assert "no version before" in message_of(lambda: rollback(place))
    assert history(place)[-4:] == [
        ("published", "4"),
        ("rolled back", "3"),
        ("published", "5"),
        ("rolled back", "3"),
    ]
    assert "keep 1: give 2 to" in message_of(lambda: publish(run("run6", 20), place, keep=1))


def test_a_run_goes_in_once(run: MakeRun, tmp_path: Path) -> None:
    place, once = tmp_path / "place", run("once", 20)
    assert publish(once, place) == publish(once, place) == publish(once, place, force=True)
    assert history(place) == [("published", "1")]
    top = str(tmp_path / "top")
    assert "top: holds no recommendations" in message_of(lambda: publish(once, place, top))
    Folder.at(top).write_bytes("_recommendations.json", b"")
    for _ in range(2):  # with recommendations that were not known before, and then no more
        assert publish(once, place, top).recommendations == top
    assert publish(once, place, f"{top}/").version == "000002"
    assert history(place) == [("published", "1"), ("published", "2")]
    with lease.hold(Folder.at(place)):
        assert "in use by process" in message_of(lambda: publish(once, place))


def test_what_is_not_published(run: MakeRun, tonight: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "place"
    unfinished = Run.create(tmp_path / "unfinished", load_config(), tonight, 0)
    assert "adar-ray train --resume" in message_of(lambda: publish(unfinished, place))
    blind = run("blind", 4)
    write_result(blind, None)
    assert "--valid-fraction" in message_of(lambda: publish(blind, place))
    assert not place.exists()
    lacking = run("lacking", 4)
    lacking.folder.delete("model/model.json")
    assert "model/model.json: is damaged (it is missing); restore" in message_of(
        lambda: publish(lacking, place)
    )
    publish(run("good", 20), place)
    (place / "published.json").write_text("{}")
    for read in (lambda: publish(run("other", 20), place), lambda: adar_ray.load(place)):
        assert "published.json: is damaged" in message_of(read)


def test_nothing_changes_where_the_history_is_damaged(run: MakeRun, tmp_path: Path) -> None:
    place = tmp_path / "place"
    publish(run("first", 16), place)
    publish(run("second", 18), place)
    (place / "history.jsonl").write_bytes(b"{")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for change in (
        lambda: rollback(place),
        lambda: publish(run("third", 20), place),
        lambda: publish(run("worse", 1), place, force=True),
    ):
        assert "history.jsonl: is damaged" in message_of(change)
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    (place / "history.jsonl").unlink()  # as the message says
    rollback(place)
    assert history(place) == [("published", "2"), ("rolled back", "1")]


@pytest.mark.parametrize("version", ["000001", "000002"])
def test_force_publishes_past_a_damaged_version(run: MakeRun, tmp_path: Path, version: str) -> None:
    """The current one, or the one before it."""
    place = tmp_path / "place"
    publish(run("first", 16), place)
    second = run("second", 18)
    publish(second, place)
    (place / "versions" / version / "version.json").write_bytes(b"{")
    if version == "000002":  # it is published already, but not whole
        assert f"{version}/version.json: is damaged" in message_of(lambda: publish(second, place))
    line = message_of(lambda: rollback(place))
    assert f"{version}/version.json: is damaged" in line
    assert line.endswith("restore it, or publish a run with --force")
    assert publish(run("third", 20), place, force=True).version == "000003"
    assert shown(place) == 1
    assert versions(place) == ["1", "2", "3"]  # it is not known which come before
    assert publish(run("fourth", 20), place).decision == "published"
    assert rollback(place).version == "000003"


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_nothing_is_rolled_back_to_a_version_whose_model_is_not_whole(
    run: MakeRun, tmp_path: Path, file: str
) -> None:
    """Readers would find no model."""
    place = tmp_path / "place"
    publish(run("first", 16), place)
    publish(run("second", 18), place)
    (place / "versions" / "000001" / file).unlink()
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    line = message_of(lambda: rollback(place))
    assert line.startswith(f"{place}/versions/000001")
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert shown(place) == 0.9


def test_a_version_no_longer_counts_when_its_files_go(
    run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that is killed among them would leave half a model to roll back to."""
    place, remove, counted = tmp_path / "place", Folder.remove, []

    def look_and_remove(folder: Folder) -> None:
        if folder.exists("weights.safetensors"):
            counted.append(folder.exists("version.json"))
        remove(folder)

    for number in range(1, 4):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", look_and_remove)
            publish(run(f"run{number}", 16 + number), place, keep=2)
    assert versions(place) == ["2", "3"]
    assert counted == [False]


def test_force_publishes_where_the_current_version_is_gone(
    run: MakeRun, tonight: Dataset, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    publish(run("first", 16), place)
    shutil.rmtree(place / "versions" / "000001")
    assert "versions/000001: is not there" in message_of(lambda: rollback(place))
    for read in (adar_ray.load, ServedModel, lambda place: train(tonight, tmp_path / "new", init_from=place)):
        assert message_of(lambda read=read: read(str(place))) == (
            f"{place}/versions/000001: is published, but holds no model; "
            "restore it, or publish a run with --force"
        )
    assert publish(run("second", 18), place, force=True).version == "000002"
    assert (shown(place), versions(place)) == (0.9, ["2"])


def test_where_the_current_version_is_gone_the_others_stay(run: MakeRun, tmp_path: Path) -> None:
    """It is not known which of them come before it: the newest stay."""
    place = tmp_path / "place"
    for number in range(1, 4):
        publish(run(f"run{number}", 16 + number), place)
    shutil.rmtree(place / "versions" / "000003")
    assert publish(run("run4", 20), place, keep=3, force=True).version == "000004"
    assert versions(place) == ["1", "2", "4"]
    shutil.rmtree(place / "versions" / "000004")
    assert publish(run("run5", 20), place, keep=2, force=True).version == "000005"
    assert versions(place) == ["2", "5"]


class Killed(BaseException):
    """What a process that is killed does not live to see."""


def test_whoever_is_killed_leaves_the_old_or_the_new(
    run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each change of the storage: readers find a model, and the same command finishes."""
    first, second, third = run("first", 16), run("second", 18), run("third", 20)
    before = tmp_path / "before"
    publish(first, before)
    publish(second, before)
    left = {"changes": 0}

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            if left["changes"] <= 0:
                raise Killed  # and so at everything after it, cleaning up included
            left["changes"] -= 1
            return change(*arguments, **options)

        return made

    seen, changes = [], 0
    while not seen or seen[-1] != "alive":
        place = tmp_path / f"place{changes}"
        shutil.copytree(before, place)
        left["changes"] = changes
        with monkeypatch.context() as patch:
            for name in ("write_bytes", "delete", "remove"):
                patch.setattr(Folder, name, dying(getattr(Folder, name)))
            try:
                publish(third, place, keep=2)
                seen.append("alive")
            except Killed:
                (place / "lease.json").unlink(missing_ok=True)  # of a process that lives on in this test
                seen.append({0.9: "old", 1.0: "new"}[shown(place)])
        publish(third, place, keep=2)
        assert shown(place) == 1
        assert [decision for decision, _ in history(place)] == ["published"] * 3
        assert len(versions(place)) == 2
        assert {path.name for path in place.iterdir()} == {"history.jsonl", "published.json", "versions"}
        rollback(place)
        assert shown(place) == 0.9
        changes += 1
    assert seen == sorted(seen, key=["old", "new", "alive"].index)
    assert {"old", "new"} < set(seen)


def test_the_model_that_answers_is_the_one_that_is_named(
    run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another one comes between the two."""
    place = tmp_path / "published"
    publish(run("one", 5), place)
    two, names = run("two", 15), []

    def name_then_publish(folder: Folder) -> str:
        names.append(version_of(folder))
        if len(names) == 1:
            publish(two, place)
        return names[-1]

    monkeypatch.setattr(served_model, "version_of", name_then_publish)
    served = ServedModel(str(place))
    for hits in (5, 15):
        top = served.current.recommender.recommend([f"u{n}" for n in range(USERS)], 1, exclude_seen=False)
        assert served.current.name == names[-1]
        assert sum(items[0].id == "f" for items in top.values()) == hits
        served.look()


def test_a_server_follows_what_is_published(run: MakeRun, tmp_path: Path) -> None:
    place = tmp_path / "published"
    publish(run("one", 5), place)
    served = ServedModel(str(place))
    first = served.current
    publish(run("two", 15), place)
    served.look()
    second = served.current
    assert (second.name != first.name, served.problem) == (True, None)
    rollback(place)
    served.look()
    assert served.current.name == first.name

"""The server's answers over HTTP, without Ray, against those of the model itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

import adar_ray
from adar_ray.data.dataset import Dataset
from adar_ray.inference.recommender import Recommender, Scored
from adar_ray.limits import LONGEST_LIST, MOST_ASKED, MOST_BODY
from adar_ray.serving.app import make_app
from adar_ray.serving.served_model import ServedModel
from tests.inference.saving import save_untrained

MF = ["model.name=mf", "model.embedding_dim=8"]


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("mf") / "model", dataset, MF)


@pytest.fixture(scope="module")
def model(folder: Path) -> Recommender:
    return adar_ray.load(folder)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(make_app(ServedModel(str(folder))), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def recommend(url: str, **question: Any) -> requests.Response:
    return requests.post(f"{url}/recommend", json=question, timeout=10)


def entries(answer: list[Scored]) -> list[dict[str, Any]]:
    return [{"id": id, "score": pytest.approx(score, rel=1e-5)} for id, score in answer]


def test_recommendations_are_those_of_the_model(url: str, model: Recommender) -> None:
    for question in (
        {"user": "7"},
        {"user": 7, "k": 3},
        {"user": "7", "k": 200, "exclude_seen": False},
        {"user": "7", "candidates": ["3", 5, "200"]},
        {"user": "7", "candidates": []},
    ):
        answer = recommend(url, **question)
        assert answer.status_code == 200
        assert answer.json()["answers"] == [{"user": "7", "items": entries(model.recommend(**question))}]
    assert model.recommend("7", 200, exclude_seen=False) != model.recommend("7", 200)
    several = recommend(url, users=["9", 7, "9"], k=2).json()["answers"]
    assert several == [{"user": user, "items": entries(model.recommend(user, 2))} for user in ("9", "7", "9")]
    assert recommend(url, users=[]).json()["answers"] == []


def test_recommendations_for_a_history(url: str, model: Recommender) -> None:
    (answer,) = recommend(url, history=["3", "5"], k=4).json()["answers"]
    assert answer == {"user": None, "items": entries(model.recommend(k=4, history=["3", "5"]))}


def test_users_whom_the_model_does_not_know_have_no_items(url: str, model: Recommender) -> None:
    answers = recommend(url, users=["5", "nobody", 3], k=4).json()["answers"]
    assert [answer["user"] for answer in answers] == ["5", "nobody", "3"]
    known = model.recommend(["5", "3"], k=4)
    assert [answer["items"] for answer in answers] == [entries(known["5"]), None, entries(known["3"])]
    assert recommend(url, users=["nobody"]).json()["answers"] == [{"user": "nobody", "items": None}]


def test_similar_items_and_users_are_those_of_the_model(url: str, model: Recommender) -> None:
    for kind, expected in (("item", model.similar_items("3", 4)), ("user", model.similar_users("3", 4))):
        answer = requests.get(f"{url}/similar", {kind: "3", "k": 4}, timeout=10)
        assert (answer.status_code, answer.json()["similar"]) == (200, entries(expected))


def test_health_says_which_model_answers(url: str, dataset: Dataset) -> None:
    health = requests.get(f"{url}/health", timeout=10).json()
    assert health == {
        "model": recommend(url, user="1").json()["model"],
        "users": dataset.n_users,
        "items": dataset.n_items,
        "new_items": 0,
        "problem": None,
    }


@pytest.mark.parametrize(
    ("question", "status", "line"),
    [
        (
            {"user": "nobody"},
            404,
            "the model does not know the user 'nobody'; give an id of its dataset, or a new user's items as "
            "history",
        ),
        ({"user": "1", "candidates": ["x"]}, 404, "the model does not know the item 'x'; give an id of its"),
        ({"history": ["x"]}, 404, "the model does not know the item 'x'"),
        ({}, 422, "request: give exactly one of user, users and history"),
        ({"user": "1", "history": ["2"]}, 422, "request: give exactly one of"),
        ({"history": []}, 422, "history: give at least 1"),
        ({"user": "1", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"user": "1", "k": True}, 422, "k: give a whole number"),
        ({"user": "1", "k": MOST_ASKED + 1}, 422, f"k: Input should be less than or equal to {MOST_ASKED}"),
        ({"user": "1", "k": 1.5}, 422, "k: give a whole number"),
        ({"user": True}, 422, "user: give text"),
        ({"user": "1" * 100_000}, 404, "the model does not know the user '1"),
        ({"users": ["1", None]}, 422, "users.1: give text"),
        ({"users": ["1"] * (MOST_ASKED + 1)}, 422, f"users: give at most {MOST_ASKED}"),
        ({"users": ["1"] * 100, "k": 101}, 422, "request: ask for at most 10,000 items in all"),
        ({"user": "1", "candidates": [1] * (LONGEST_LIST + 1)}, 422, "candidates: give at most"),
        ({"user": "1", "top": 3}, 422, "top: there is no such key"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(
    url: str, question: dict[str, Any], status: int, line: str
) -> None:
    answer = recommend(url, **question)
    assert answer.status_code == status
    (detail,) = answer.json().values()
    assert detail.startswith(line)
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("query", "status", "line"),
    [
        ("item=x", 404, "the model does not know the item 'x'"),
        ("user=nobody", 404, "the model does not know the user 'nobody'"),
        ("", 422, "request: give exactly one of item and user"),
        ("item=1&user=1", 422, "request: give exactly one of item and user"),
        ("item=1&k=many", 422, "k: give a whole number"),
        ("item=1&n=3", 422, "n: there is no such key"),
        ("item=1&item=2", 422, "item: give it once"),
        ("item=1&k=2&k=3", 422, "k: give it once"),
    ],
)
def test_a_bad_query_is_refused_in_one_line(url: str, query: str, status: int, line: str) -> None:
    answer = requests.get(f"{url}/similar?{query}", timeout=10)
    assert (answer.status_code, answer.json()["detail"].startswith(line)) == (status, True)


def test_what_is_no_json_or_too_long_is_refused(url: str) -> None:
    def post(body: Any, **headers: str) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", **headers}
        answer = requests.post(f"{url}/recommend", data=body, headers=headers, timeout=10)
        return answer.status_code, answer.json()["detail"]

    no_json = "request: the body is not a JSON object with the header Content-Type: application/json"
    many_digits = b'{"user": ' + b"9" * 5000 + b"}"
    for body in (b'{"user": ', b"", b"null", b'["5"]', b'{"user": "\xff"}', b"[" * 100_000, many_digits):
        assert post(body) == (422, no_json)
    assert post(b'{"user": "5"}', **{"Content-Type": "text/plain"}) == (422, no_json)
    assert post(b"[" * MOST_BODY + b"[")[0] == 413
    assert post(iter([b"{}"])) == (411, "body: its length is not known; send a Content-Length")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/health/", 404),
        ("GET", "/recommend", 405),
        ("OPTIONS", "/similar", 405),
    ],
)
def test_what_is_no_question_is_refused_in_one_line(url: str, method: str, path: str, status: int) -> None:
    answer = requests.request(method, url + path, timeout=10, allow_redirects=False)
    line = f"{method} {path}: is not an endpoint; GET /openapi.json lists them"
    assert (answer.status_code, answer.json()) == (status, {"detail": line})


def test_a_load_balancer_may_ask_for_the_head_of_health(url: str) -> None:
    answer = requests.head(f"{url}/health", timeout=10)
    assert (answer.status_code, answer.content) == (200, b"")


def test_openapi_describes_the_interface(url: str) -> None:
    schema = requests.get(f"{url}/openapi.json", timeout=10).json()
    assert schema["paths"].keys() == {"/recommend", "/similar", "/health"}
    question = schema["components"]["schemas"]["RecommendRequest"]["properties"]
    assert question.keys() == {"user", "users", "history", "k", "exclude_seen", "candidates"}
    assert (question["k"]["minimum"], question["k"]["maximum"]) == (1, MOST_ASKED)
    assert {"200", "404", "422"} <= schema["paths"]["/recommend"]["post"]["responses"].keys()

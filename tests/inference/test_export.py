"""Exported files, read by the libraries that they are for, against what the loaded model answers."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

import adar_ray
from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from adar_ray.inference.export import export
from adar_ray.inference.recommender import Recommender
from tests import sealed
from tests.inference.saving import save_untrained

MODELS = {
    "lightgcn": ["model.name=lightgcn", "model.cosine=true", "model.length_power=0.5"],
    "neumf": ["model.name=neumf"],
    "gru4rec": ["model.name=gru4rec", "gru4rec.layers=1"],
    "sasrec": ["model.name=sasrec", "sasrec.layers=1", "model.cosine=true", "model.length_power=1"],
    "bert4rec": ["model.name=bert4rec", "bert4rec.layers=1"],
    "fmlprec": ["model.name=fmlprec", "fmlprec.layers=1"],
}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset with short histories: a program has as many steps as the longest."""
    folder, draw = tmp_path_factory.mktemp("short"), np.random.default_rng(0)
    rows = [f"u{user},{item}\n" for user in range(30) for item in draw.permutation(40)[: 3 + user % 9]]
    (folder / "rows.csv").write_text("user,item\n" + "".join(rows))
    return prepare(folder / "rows.csv", folder / "data", sequence_length=4)


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, short: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recommender, Path]:
    """A model, and all that can be exported of it."""
    folder = tmp_path_factory.mktemp("exported")
    settings = [*MODELS[request.param], "model.embedding_dim=8"]
    save_untrained(folder / "model", short, settings)
    # BERT4Rec has SASRec's operators.
    formats = {"neumf": ["onnx", "torch"], "bert4rec": ["faiss", "torch"]}
    export(folder / "model", folder / "out", formats.get(request.param, ["faiss", "onnx", "torch"]))
    return adar_ray.load(folder / "model"), folder / "out"


def asked(model: Recommender, users: list[int]) -> torch.Tensor:
    """What a program takes for these users."""
    user_B = torch.tensor(users)
    history = model.trained.history("train", "valid", "test")
    return user_B if history is None else history(user_B)


def answers(model: Recommender, users: list[int]) -> np.ndarray:
    """The scores of all items, as the loaded model gives them."""
    keys = model.trained.dataset.user_keys().to_pylist()
    items = model.trained.dataset.item_keys().to_pylist()
    return np.array([[score for _, score in model.score(keys[user], items)] for user in users])


@pytest.mark.parametrize("users", [[5], [5, 0, 29]])
def test_programs_score_as_the_model_does(exported: tuple[Recommender, Path], users: list[int]) -> None:
    model, folder = exported
    batch, expected = asked(model, users), answers(model, users)
    found = [torch.export.load(folder / "model.pt2").module()(batch)]
    if (folder / "model.onnx").exists():
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (name,) = (put.name for put in session.get_inputs())
        assert name == ("history" if model.trained.sequential else "user")
        found.append(session.run(["vector", "score"], {name: batch.numpy()}))
    vector_UD = np.array(pq.read_table(folder / "users.parquet")["vector"].to_pylist())
    for vector_BD, score_BI in found:
        np.testing.assert_allclose(score_BI, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(vector_BD, vector_UD[users], rtol=1e-3, atol=1e-4)


def test_a_history_may_be_empty_or_of_somebody_new(exported: tuple[Recommender, Path]) -> None:
    model, folder = exported
    if not model.trained.sequential or not (folder / "model.onnx").exists():
        return
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    history_BL = np.full((2, sealed.read(folder / "export.json")["history_length"]), -1)
    history_BL[0, -3:] = [7, 30, 12]
    vector_BD, score_BI = session.run(None, {"history": history_BL})
    alone = onnxruntime.RunOptions()
    alone.only_execute_path_to_fetches = True
    np.testing.assert_array_equal(session.run(["vector"], {"history": history_BL}, alone)[0], vector_BD)
    items = model.trained.dataset.item_keys().to_pylist()
    answer = dict(model.recommend(k=40, history=[items[n] for n in (7, 30, 12)], exclude_seen=False))
    expected_I = np.array([answer[item] for item in items])
    np.testing.assert_allclose(score_BI[0], expected_I, rtol=1e-4, atol=1e-4 * np.abs(expected_I).max())
    assert np.isfinite(score_BI[1]).all()


def test_faiss_ranks_as_the_model_does(exported: tuple[Recommender, Path]) -> None:
    model, folder = exported
    if not (folder / "items.faiss").exists():
        return
    index = faiss.read_index(str(folder / "items.faiss"))
    assert (index.ntotal, index.metric_type) == (model.trained.dataset.n_items, faiss.METRIC_INNER_PRODUCT)
    users, items = (pq.read_table(folder / f"{kind}.parquet").to_pylist() for kind in ("users", "items"))
    for user in (users[0], users[17]):
        score_1k, item_1k = index.search(np.array([user["vector"]], np.float32), 10)
        expected = model.recommend(user["key"], 10, exclude_seen=False)
        assert [items[item]["key"] for item in item_1k[0]] == [item for item, _ in expected]
        np.testing.assert_allclose(score_1k[0], [score for _, score in expected], rtol=1e-3)


def test_export_json_says_what_the_files_hold(exported: tuple[Recommender, Path]) -> None:
    model, folder = exported
    info = sealed.read(folder / "export.json")
    files = {path.name for path in folder.iterdir()} - {"export.json"}
    assert info.pop("files") == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files
    }
    name, sequential = model.trained.config.model.name, model.trained.sequential
    assert info == {
        "model": name,
        "dataset": model.trained.dataset.name,
        "users": 30,
        "items": model.trained.dataset.n_items,
        "dim": 16 if name == "neumf" else 8,
        "score": "network" if name == "neumf" else "inner product",
        "input": "history" if sequential else "user",
        "history_length": 4 if sequential else None,
        "padding": -1,
    }


def test_what_cannot_be_exported_is_one_line(
    short: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["model.name=neumf", "model.embedding_dim=4"]
    model, out = save_untrained(tmp_path / "model", short, settings), tmp_path / "out"
    with pytest.raises(AdarError, match=r"--format faiss: a score of neumf is what a network makes"):
        export(model, out, ["faiss"])
    with pytest.raises(AdarError, match=r"--format xml: unknown; .* are faiss, onnx, torch"):
        export(model, out, ["xml"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, missing in (("faiss", "faiss"), ("onnx", "onnx and onnxscript")):
        with pytest.raises(
            AdarError, match=rf"--format {name}: {missing} .*pip install 'adar-ray\[export\]'"
        ):
            export(model, out, [name])
    assert not out.exists()


class Untraceable(torch.nn.Module):
    """A model whose work depends on the numbers of the users."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.item = torch.nn.Embedding(n_items, 4)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.full((4,), float(user)) for user in batch["user"].tolist()])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.item(item)

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return -(user_BD[:, None] - item_BKD).square().sum(-1)


def untraceable(dataset: Dataset, config: Config) -> Untraceable:
    return Untraceable(dataset.n_items)


def test_a_model_that_torch_cannot_trace_is_one_line(short: Dataset, tmp_path: Path) -> None:
    name = f"{__name__}:untraceable"
    model = save_untrained(tmp_path / "model", short, [f"model.name={name}", "loss.name=bpr"])
    with pytest.raises(
        AdarError, match=rf"torch cannot trace {name} \(.*; leave out --format torch and onnx"
    ):
        export(model, tmp_path / "out", ["torch"], trust=True)
    assert not (tmp_path / "out").exists()
    export(model, tmp_path / "out", trust=True)  # its vectors

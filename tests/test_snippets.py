"""The code that the documentation prints, run as printed."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adar_ray import train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.data.synthetic import synthesize

ROOT = Path(__file__).parents[1]
ML_100K = ROOT.parent / "shared" / "data" / "ml-100k"
SEEDS = (0, 1)


def snippet(page: str, line: str) -> str:
    """The one block of Python on the page that has this line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if line in block]
    return found


# ADAR in a loop of one's own.

ADAR = "AdarSampler(AdarSettings(beta=0.9, candidates=16, negatives=4))"
UNIFORM = "UniformSampler(UniformSettings(negatives=4))"
LOOP = snippet("docs/custom.md", f"sampler = {ADAR}")
UNIFORM_LOOP = (
    f"from adar_ray.samplers.uniform import UniformSampler, UniformSettings\n{LOOP.replace(ADAR, UNIFORM)}"
)


def recall(users: torch.nn.Embedding, items: torch.nn.Embedding, dataset: Dataset) -> float:
    """Recall@20 on test with all items ranked that are in neither train nor valid, mean over users."""
    score = (users.weight @ items.weight.T).detach().numpy()
    for split in ("train", "valid"):
        score[dataset.read_split(split)] = -np.inf
    relevant = np.zeros(score.shape, bool)
    relevant[dataset.read_split("test")] = True
    top = np.argsort(-score, axis=1)[:, :20]
    asked = relevant.any(1)
    hits = np.take_along_axis(relevant, top, 1).sum(1)
    return float((hits[asked] / relevant[asked].sum(1)).mean())


def recalls(loop: str, dataset: Dataset) -> list[float]:
    """What the loop reaches in a folder where the dataset has the name that the page gives it, by seed."""
    found = []
    for seed in SEEDS:
        Path("loop.py").write_text(loop, encoding="utf-8")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            names = runpy.run_path("loop.py")
        found.append(recall(names["users"], names["items"], dataset))
    return found


@pytest.fixture(params=["synthetic", pytest.param("ml-100k", marks=pytest.mark.slow)])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.chdir(tmp_path)
    if request.param == "synthetic":
        return synthesize(400, 600, 16_000, 1, "ml-100k")
    if not ML_100K.exists():
        pytest.skip(f"{ML_100K} is absent")
    return prepare(ML_100K, "ml-100k", split="ratio")


def test_the_printed_loop_beats_the_same_with_uniform_negatives(data: Dataset) -> None:
    adar, uniform = recalls(LOOP, data), recalls(UNIFORM_LOOP, data)
    print(f"Recall@20 {adar} with ADAR, {uniform} with uniform negatives")
    assert min(adar) > max(uniform)
    assert np.mean(adar) > 1.05 * np.mean(uniform)


# Custom components.


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("class TwoTables(nn.Module):", "model.name=printed:build"),
        ("class HardestOfFour(nn.Module):", "sampler.name=printed:build"),
        ("def hinge(dataset, config):", "loss.name=printed:hinge"),
        ("class LogLoss:", "train.callbacks=[printed:LogLoss]"),
    ],
)
def test_printed_components_learn(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, setting: str
) -> None:
    (tmp_path / "printed.py").write_text(snippet("docs/custom.md", line))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "printed", raising=False)
    settings = [setting, "optimizer.lr=0.01", "train.epochs=10", "train.batch_size=256", "train.device=cpu"]
    epochs = train(dataset, tmp_path / "run", load_config(settings=settings), workers=0).epochs()
    assert max(epoch.valid["ndcg@20"] for epoch in epochs) > 1.2 * epochs[0].valid["ndcg@20"]

"""The method, the models, training in one process and using what it made work without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parent / "golden" / "data"

NO_RAY = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, NoRay())
"""

BLOCKED = """
try:
    import ray
except ImportError:
    pass
else:
    raise AssertionError("Ray was not blocked")
"""

CUSTOM_LOOP = """
import torch
from adar_ray.adar import AdarSampler, AdarSettings, SamplingContext, dot_score
from adar_ray.losses import bpr

torch.set_num_threads(1)
torch.manual_seed(0)
users, items = torch.nn.Embedding(40, 16), torch.nn.Embedding(60, 16)
sampler = AdarSampler(AdarSettings(beta=0.9, candidates=16, negatives=4))
optimizer = torch.optim.Adam([*users.parameters(), *items.parameters()], lr=3e-2)
user = torch.arange(40).repeat(6)
positive = (user % 10) * 6 + torch.arange(6).repeat_interleave(40)
losses = []
for epoch in range(60):
    user_BD, positive_BD = users(user), items(positive)
    negatives = sampler(user_BD, positive_BD, SamplingContext(items, n_items=60))
    score_B = (user_BD * positive_BD).sum(-1)
    loss = bpr(score_B, dot_score(user_BD, negatives.vector_BKD), negatives.mask_BK).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
with torch.no_grad():
    rank = (users(user) @ items.weight.T).argsort(1, descending=True).argsort(1)
    mean_rank = rank.gather(1, positive[:, None]).float().mean().item()
print(losses[0], losses[-1], mean_rank)
"""

TRAIN = """
import sys
from adar_ray import train
from adar_ray.config import load_config

data, out = sys.argv[1:]
config = load_config(settings=["train.epochs=2", "train.device=cpu", "model.embedding_dim=8"])
print(train(data, out, config, workers=0).result().epochs)
print(sorted({"optuna", "plotly", "scipy.stats"} & set(sys.modules)))  # slow to load
"""


USE = """
import sys
from adar_ray import evaluate, export, load, recommend
from adar_ray.serving.server import served

run, vectors, top = sys.argv[1:]
export(run, vectors)
recommended = recommend(run, top, 5)
assert "numba" not in sys.modules
model = load(run)
(item, score), *others = model.recommend("1", 5)
assert model.recommend(history=[item for item, _ in others])
assert model.similar_items(item) and model.similar_users("1") and model.explain("1", item)
assert model.score("1", [item]) == [(item, score)]
with served(run, "127.0.0.1", 0):
    pass
assert "ray" not in sys.modules
print(evaluate(run).users, recommended.users)
"""


def run(program: str, *arguments: object) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", NO_RAY + BLOCKED + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_custom_loop_trains_with_adar_without_ray() -> None:
    first, last, mean_rank = map(float, run(CUSTOM_LOOP).split())
    assert last < 0.3 * first
    assert mean_rank < 4  # each user has 6 positives among 60 items: 2.5 is perfect, 29.5 is chance


def test_train_with_no_workers_runs_without_ray(tmp_path: Path) -> None:
    assert run(TRAIN, DATA, tmp_path / "run").split() == ["2", "[]"]


def test_a_model_is_used_without_ray(tmp_path: Path) -> None:
    run(TRAIN, DATA, tmp_path / "run")
    addresses = [tmp_path / name for name in ("run", "vectors", "top")]
    evaluated, recommended = map(int, run(USE, *addresses).split())
    assert 0 < evaluated <= recommended
    assert (tmp_path / "top" / "00000.parquet").exists()

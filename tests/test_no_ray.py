"""The method, the models and the loop of one worker import and work where there is no Ray."""

import subprocess
import sys

NO_RAY = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, NoRay())
"""

IMPORTS = """
try:
    import ray
except ImportError:
    pass
else:
    raise AssertionError("Ray was not blocked")

import adar_ray
import adar_ray.adar, adar_ray.samplers, adar_ray.models, adar_ray.losses, adar_ray.metrics
import adar_ray.training.loop, adar_ray.ranking.tally
"""

OWN_LOOP = """
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


def run(program: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", NO_RAY + program], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_imports_without_ray_and_ten_lines_of_ones_own_train_with_adar():
    first, last, mean_rank = map(float, run(IMPORTS + OWN_LOOP).split())
    assert last < 0.3 * first
    assert mean_rank < 4  # of 60 items, six of them each user's own: 2.5 is perfect, 29.5 chance

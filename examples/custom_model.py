"""A custom base model: two towers, with item features in addition to ids, trained on two workers.

    python examples/custom_model.py

It inherits nothing from adar_ray. A base model is a torch module with `users`, `items` and `score`.
"""

import tempfile

import torch
from torch import nn

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.data.fetch import fetch
from adar_ray.models import dot_score


class TwoTower(nn.Module):
    """Legend: B rows of a batch, K items per row, D dimensions, I items, F features."""

    def __init__(self, n_users: int, feature_IF: torch.Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("feature_IF", feature_IF, persistent=False)
        self.user, self.item = nn.Embedding(n_users, dim), nn.Embedding(len(feature_IF), dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        self.feature = nn.Sequential(nn.Linear(feature_IF.shape[1], dim), nn.ReLU(), nn.Linear(dim, dim))

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.user(batch["user"])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.item(item) + self.feature(self.feature_IF[item])

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)


def build(dataset, config):
    """Build the model: `model.name=custom_model:build` calls this on every worker.

    The features are how often and how early an item was taken. Yours may come from a file, by `item_keys()`.
    """
    tables = [dataset.read_file(shard.name) for shard in dataset.shards("train")]
    feature_IF = torch.zeros(dataset.n_items, 2)
    for table in tables:
        item, time = (torch.tensor(table[name].to_numpy()) for name in ("item", "timestamp"))
        feature_IF.index_add_(0, item, torch.stack([torch.ones(len(item)), time / 1e18], 1))
    count_I = feature_IF[:, 0].clamp_min(1)
    feature_IF = torch.stack([count_I.log(), feature_IF[:, 1] / count_I], 1)
    feature_IF = (feature_IF - feature_IF.mean(0)) / feature_IF.std(0)
    return TwoTower(dataset.n_users, feature_IF, config.model.embedding_dim)


if __name__ == "__main__":
    settings = ["model.name=custom_model:build", "optimizer.lr=3e-3", "loss.l2=1e-2", "train.epochs=20"]
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(fetch("ml-100k"), f"{scratch}/data", split="ratio")
        print(evaluate(train(data, f"{scratch}/run", load_config(settings=settings), workers=2)).metrics)

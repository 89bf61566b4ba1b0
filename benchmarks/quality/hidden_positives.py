"""Why it works: how many negatives are hidden positives, against how hard they are, for every sampler.

    python benchmarks/quality/hidden_positives.py --sources path/to/data --work scratch/ --data ml-100k

Hidden positives are what a user would have liked: of a synthetic world all that it knows the user to like, of
real data what was held out. MF with BPR is trained with each sampler until validation gets no better, and the
sampler is asked once more for the negatives of all training pairs. Of these

- hardness: g = sigmoid(score - positive's score), the weight that BPR's gradient gives a negative; the mean;
- hidden: the share of g that falls on a hidden positive. A generated negative counts as the item nearest to
  it other than its own positive;
- pushed: the share of g that pushes a hidden positive down. A negative of ADAR pushes its noise item, with
  sin(phi) of its weight, and nothing else;
- liked, in a synthetic world: the share of g that falls on what the user likes by the score of the truth. A
  generated negative has the true score of its trajectory: from its positive's true vector toward its noise
  item's, as far as its own. MixGCF's, which is mixed anew in every dimension, has none.

Legend: B rows of the batch, K negatives a row, I items, P items of the pool, D dimensions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import DATA, SYNTHETIC, dataset_of
from environment import environment
from loop import fit

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.synthetic import Truth
from adar_ray.inference.model import user_items
from adar_ray.interactions.user_items import UserItems
from adar_ray.memory import keep_freed_memory
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items

COMMAND = "python benchmarks/quality/hidden_positives.py --sources data --work scratch --data NAME"
SETTINGS = ("model.name=mf", "loss.name=bpr", "train.epochs=150", "train.patience=12")
SAMPLERS = {
    "uniform": ("sampler.name=uniform",),
    "popularity": ("sampler.name=popularity",),
    **{f"dns {M}": ("sampler.name=dns", f"sampler.candidates={M}") for M in (2, 4, 8, 16, 32)},
    **{f"mixgcf {M}": ("sampler.name=mixgcf", f"sampler.candidates={M}") for M in (4, 16)},
    **{f"dens {M}": ("sampler.name=dens", f"sampler.candidates={M}") for M in (4, 16)},
    **{f"ahns {beta}": ("sampler.name=ahns", f"ahns.beta={beta}") for beta in (0.03, 0.1, 0.3, 1.0)},
    **{
        f"srns {temperature}": ("sampler.name=srns", f"srns.temperature={temperature}")
        for temperature in (1, 4)
    },
    "adar": ("sampler.name=adar",),
    **{f"adar, beta {beta}": ("sampler.name=adar", f"adar.beta={beta}") for beta in (0.5, 0.7, 0.95)},
    **{f"adar, M {M}": ("sampler.name=adar", f"adar.M={M}") for M in (1, 4)},
    "adar, hidden 0": ("sampler.name=adar", "adar.hidden=0"),
}
Hidden = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets as published")
    parser.add_argument("--work", type=Path, required=True, help="where datasets are kept")
    parser.add_argument("--data", required=True, choices=(SYNTHETIC, *DATA))
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all samplers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = dataset_of(arguments.data, arguments.sources, arguments.work, DATA.get(arguments.data, {}))
    truth = Truth.open(dataset) if arguments.data == SYNTHETIC else None
    hidden = _liked(truth) if truth else _held_out(dataset)
    results = Path(__file__).parents[1] / "results" / "quality_hidden_positives.json"
    content = json.loads(results.read_text()) if results.exists() else {}
    rows = content.setdefault(arguments.data, {"settings": arguments.set, "samplers": {}})["samplers"]
    for name, settings in SAMPLERS.items():
        if name in rows:
            continue
        config = load_config(settings=[*SETTINGS, *settings, *arguments.set])
        rows[name] = _study(config, dataset, hidden, truth)
        print(name, rows[name], file=sys.stderr, flush=True)
        content |= {
            "what": "at the best epoch on validation: mean hardness, and shares of the gradient's weight",
            "command": COMMAND,
            **environment(),
        }
        results.write_text(json.dumps(content, indent=1) + "\n")


def _held_out(dataset: Dataset) -> Hidden:
    return user_items(dataset, "valid", "test").contains


def _liked(truth: Truth) -> Hidden:
    def hidden(user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        user = np.repeat(user_B.numpy(), item_BK.shape[1])
        return torch.from_numpy(truth.likes(user, item_BK.numpy().ravel())).view(item_BK.shape)

    return hidden


def _liked_on_the_way(
    truth: Truth, user_B: torch.Tensor, item_B: torch.Tensor, noise_BK: torch.Tensor, phi_BK: torch.Tensor
) -> torch.Tensor:
    """`[B, K]`: whether the user likes what lies at `phi` on the way from a positive to a noise item."""
    user_BD = truth.user_UD[user_B.numpy()]
    mean_B1 = (user_BD @ truth.item_ID.mean(0))[:, None]
    positive_B1 = np.einsum("bd,bd->b", user_BD, truth.item_ID[item_B.numpy()])[:, None] - mean_B1
    b_BK = np.einsum("bd,bkd->bk", user_BD, truth.item_ID[noise_BK.numpy()]) - mean_B1
    score_BK = mean_B1 + np.cos(phi_BK.numpy()) * positive_B1 + np.sin(phi_BK.numpy()) * b_BK
    return torch.from_numpy(score_BK >= truth.threshold_U[user_B.numpy()][:, None])


@torch.no_grad()
def _study(config: Config, dataset: Dataset, hidden: Hidden, truth: Truth | None) -> dict[str, float]:
    with torch.enable_grad():
        fitted = fit(config, dataset)
    observed, model, sampler = user_items(dataset, "train"), fitted.model, fitted.samplers[-1]
    vector_ID = model.items(torch.arange(observed.n_items))
    user_E, item_E = observed.pairs()
    total = torch.zeros(5, dtype=torch.float64)
    for number, at_B in enumerate(torch.arange(len(user_E)).split(1024)):
        user_B, item_B = user_E[at_B], item_E[at_B]
        user_BD, positive_BD = model.users({"user": user_B}), model.items(item_B)
        items = _items(model, observed, user_B, item_B, fitted.figures["epoch"])
        negatives = sampler(user_BD, positive_BD, items, RowRng(at_B, 0, 0, number))
        score_BK = model.score(user_BD, negatives.vector_BKD)
        positive_B1 = model.score(user_BD, positive_BD[:, None])
        g_BK = torch.sigmoid(score_BK - positive_B1) * negatives.mask_BK
        if negatives.item_BK is not None:
            near_BK = negatives.item_BK
        else:
            near_BK = _nearest(negatives.vector_BKD, vector_ID, item_B)
        pushed_BK, share_BK, liked_BK = near_BK, torch.ones_like(g_BK), hidden(user_B, near_BK)
        if negatives.timestep_BK is not None:
            phi_BK, pushed_BK = negatives.timestep_BK * (math.pi / 2), negatives.source[0]
            share_BK = phi_BK.sin()
            if truth:
                liked_BK = _liked_on_the_way(truth, user_B, item_B, pushed_BK, phi_BK)
        total += torch.stack(
            [
                negatives.mask_BK.sum(),
                g_BK.sum(),
                (g_BK * hidden(user_B, near_BK)).sum(),
                (g_BK * share_BK * hidden(user_B, pushed_BK)).sum(),
                (g_BK * liked_BK).sum(),
            ]
        )
    count, weight, near, pushed, liked = total.tolist()
    figures = {"hardness": weight / count, "hidden": near / weight, "pushed": pushed / weight}
    if truth and config.sampler.name != "mixgcf":
        figures["liked"] = liked / weight
    return {**figures, "valid ndcg@20": fitted.figures["ndcg@20"], "epoch": fitted.figures["epoch"]}


def _items(
    model: torch.nn.Module, observed: UserItems, user_B: torch.Tensor, item_B: torch.Tensor, epoch: int
) -> Items:
    """What the sampler may look up."""
    return Items(
        model.items,
        observed.n_items,
        model.score,
        seen=observed.seen_by(user_B),
        seen_count_B=observed.counts()[user_B],
        user_B=user_B,
        positive_B=item_B,
        popularity_I=observed.item_counts(),
        epoch=epoch,
    )


def _nearest(vector_BKD: torch.Tensor, vector_ID: torch.Tensor, but_B: torch.Tensor) -> torch.Tensor:
    """`[B, K]`: the item whose vector is nearest, other than the row's of `but_B`."""
    distance_BKI = torch.cdist(vector_BKD.flatten(0, 1), vector_ID).unflatten(0, vector_BKD.shape[:2])
    distance_BKI.scatter_(2, but_B[:, None, None].expand(-1, vector_BKD.shape[1], 1), torch.inf)
    return distance_BKI.argmin(2)


if __name__ == "__main__":
    main()

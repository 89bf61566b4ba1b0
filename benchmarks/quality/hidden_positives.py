"""Why ADAR works: how many negatives are hidden positives, and how hard negatives are, for every sampler.

    python -m benchmarks.quality.hidden_positives --sources path/to/data --work scratch/ --data ml-100k

Hidden positives are items that a user would have liked. In a synthetic world, all of them are known; in real
data, they are the held-out items. MF with BPR is trained with each sampler until validation stops improving.
Then the sampler is asked for the negatives of all training pairs once more. The figures are:

- hardness: the mean of g = sigmoid(negative's score - positive's score), the weight that BPR's gradient
  gives a negative;
- hidden: the share of g that falls on hidden positives. A generated negative counts as the nearest item other
  than its own positive;
- pushed: the share of g that pushes hidden positives down. ADAR's negative pushes only its noise item, with
  sin(phi) of its weight;
- liked, in a synthetic world: the share of g that falls on what the user truly likes. A generated negative
  has the true score of its trajectory: as far as it went from its positive's true vector toward its noise
  item's. MixGCF mixes every dimension anew, so it has no such figure.

Legend: B rows of the batch, K negatives a row, I items, E (user, item) pairs, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.synthetic import Truth
from adar_ray.inference.model import user_items
from adar_ray.interactions.user_items import UserItems
from adar_ray.memory import keep_freed_memory
from adar_ray.rng import RowRng
from adar_ray.samplers.base import SamplingContext
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, SYNTHETIC, prepared
from benchmarks.quality.loop import fit

NAME = "quality_hidden_positives"
SETTINGS = ("model.name=mf", "loss.name=bpr", "train.epochs=150", "train.patience=12")


def _with(sampler: str, **settings: float) -> tuple[str, ...]:
    return (f"sampler.name={sampler}", *(f"{sampler}.{key}={value}" for key, value in settings.items()))


SAMPLERS = {
    "uniform": _with("uniform"),
    "popularity": _with("popularity"),
    **{f"dns_{M}": _with("dns", candidates=M) for M in (2, 4, 8, 16, 32)},
    **{f"mixgcf_{M}": _with("mixgcf", candidates=M) for M in (4, 16)},
    **{f"dens_{M}": _with("dens", candidates=M) for M in (4, 16)},
    **{f"ahns_{beta}": _with("ahns", beta=beta) for beta in (0.03, 0.1, 0.3, 1.0)},
    **{f"srns_{temperature}": _with("srns", temperature=temperature) for temperature in (1, 4)},
    "adar": _with("adar"),
    **{f"adar_beta_{beta}": _with("adar", beta=beta) for beta in (0.5, 0.7, 0.95)},
    **{f"adar_candidates_{M}": _with("adar", candidates=M) for M in (1, 4)},
    "adar_hidden_positives_0": _with("adar", hidden_positives=0),
}
IsHidden = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", required=True, choices=(SYNTHETIC, *DATA))
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all samplers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = prepared(arguments.data, arguments.sources, arguments.work, DATA.get(arguments.data, {}))
    truth = Truth.open(dataset) if arguments.data == SYNTHETIC else None
    is_hidden = _liked(truth) if truth else _held_out(dataset)
    figures = record.read_figures(NAME)
    rows = figures.setdefault(arguments.data, {"settings": arguments.set, "samplers": {}})["samplers"]
    for name, settings in SAMPLERS.items():
        if name in rows:
            continue
        config = load_config(settings=[*SETTINGS, *settings, *arguments.set])
        rows[name] = _study(config, dataset, is_hidden, truth)
        print(name, rows[name], flush=True)
        record.write(
            NAME,
            figures,
            description="Negatives of each sampler at the best epoch on validation: mean hardness, and "
            "shares of the gradient's weight.",
            seeds=[0],
        )


def _held_out(dataset: Dataset) -> IsHidden:
    return user_items(dataset, "valid", "test").contains


def _liked(truth: Truth) -> IsHidden:
    def is_hidden(user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        user = np.repeat(user_B.numpy(), item_BK.shape[1])
        return torch.from_numpy(truth.likes(user, item_BK.numpy().ravel())).view(item_BK.shape)

    return is_hidden


def _likes_on_the_way(
    truth: Truth, user_B: torch.Tensor, item_B: torch.Tensor, noise_BK: torch.Tensor, phi_BK: torch.Tensor
) -> torch.Tensor:
    """`[B, K]`: whether the user likes the point at `phi` on the way from a positive to a noise item."""
    user_BD = truth.user_UD[user_B.numpy()]
    mean_B1 = (user_BD @ truth.item_ID.mean(0))[:, None]
    positive_B1 = np.einsum("bd,bd->b", user_BD, truth.item_ID[item_B.numpy()])[:, None] - mean_B1
    b_BK = np.einsum("bd,bkd->bk", user_BD, truth.item_ID[noise_BK.numpy()]) - mean_B1
    score_BK = mean_B1 + np.cos(phi_BK.numpy()) * positive_B1 + np.sin(phi_BK.numpy()) * b_BK
    return torch.from_numpy(score_BK >= truth.threshold_U[user_B.numpy()][:, None])


@torch.no_grad()
def _study(config: Config, dataset: Dataset, is_hidden: IsHidden, truth: Truth | None) -> dict[str, float]:
    with torch.enable_grad():
        fitted = fit(config, dataset)
    observed, model, sampler = user_items(dataset, "train"), fitted.model, fitted.samplers[-1]
    vector_ID = model.items(torch.arange(observed.n_items))
    user_E, item_E = observed.pairs()
    total = torch.zeros(5, dtype=torch.float64)
    for number, at_B in enumerate(torch.arange(len(user_E)).split(1024)):
        user_B, item_B = user_E[at_B], item_E[at_B]
        user_BD, positive_BD = model.users({"user": user_B}), model.items(item_B)
        context = _context(model, observed, user_B, item_B, int(fitted.figures["epoch"]))
        negatives = sampler(user_BD, positive_BD, context, RowRng(at_B, 0, 0, number))
        score_BK = model.score(user_BD, negatives.vector_BKD)
        positive_B1 = model.score(user_BD, positive_BD[:, None])
        g_BK = torch.sigmoid(score_BK - positive_B1) * negatives.mask_BK
        if negatives.item_BK is not None:
            near_BK = negatives.item_BK
        else:
            near_BK = _nearest(negatives.vector_BKD, vector_ID, item_B)
        pushed_BK, share_BK, liked_BK = near_BK, torch.ones_like(g_BK), is_hidden(user_B, near_BK)
        if negatives.timestep_BK is not None:
            source = negatives.source
            phi_BK, pushed_BK = negatives.timestep_BK * (math.pi / 2), source.item_P[source.at_BK]
            share_BK = phi_BK.sin()
            if truth:
                liked_BK = _likes_on_the_way(truth, user_B, item_B, pushed_BK, phi_BK)
        total += torch.stack(
            [
                negatives.mask_BK.sum(),
                g_BK.sum(),
                (g_BK * is_hidden(user_B, near_BK)).sum(),
                (g_BK * share_BK * is_hidden(user_B, pushed_BK)).sum(),
                (g_BK * liked_BK).sum(),
            ]
        )
    count, weight, near, pushed, liked = total.tolist()
    figures = {"hardness": weight / count, "hidden": near / weight, "pushed": pushed / weight}
    if truth and config.sampler.name != "mixgcf":
        figures["liked"] = liked / weight
    return {**figures, "valid_ndcg@20": fitted.figures["ndcg@20"], "epoch": fitted.figures["epoch"]}


def _context(
    model: torch.nn.Module, observed: UserItems, user_B: torch.Tensor, item_B: torch.Tensor, epoch: int
) -> SamplingContext:
    return SamplingContext(
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
    """`[B, K]`: the item with the nearest vector, other than the row's item in `but_B`."""
    distance_BKI = torch.cdist(vector_BKD.flatten(0, 1), vector_ID).unflatten(0, vector_BKD.shape[:2])
    distance_BKI.scatter_(2, but_B[:, None, None].expand(-1, vector_BKD.shape[1], 1), torch.inf)
    return distance_BKI.argmin(2)


if __name__ == "__main__":
    main()

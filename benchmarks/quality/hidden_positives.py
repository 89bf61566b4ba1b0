"""Which items each sampler's negatives push down, how hard, and how steadily.

    python -m benchmarks.quality.hidden_positives --sources path/to/data --work scratch/ --data ml-100k

Hidden positives are items that a user would have liked. In a synthetic world, all of them are known; in real
data, they are the held-out items. MF with BPR is trained with each sampler until validation stops improving.
Then the sampler draws the negatives of all training pairs several times more. The figures are:

- hardness: the mean of g = sigmoid(negative's score - positive's score), the weight that BPR's gradient
  gives a negative;
- reach: the share of g that pushes an item down. Of a negative that mixes an item into its positive, only
  the item's part does: sin(phi) of ADAR's, and what MixGCF's share of the positive leaves;
- pushed: the share of g that pushes hidden positives down;
- popularity: of the items pushed down, weighted by the push, the mean percentile of popularity: 0.5 if all
  items are pushed alike;
- variance: of the user's gradient from one negative, over redraws, in units of the squared length of its
  mean, both summed over pairs. K negatives drawn independently have a K-th of it. SRNS's memory moves on from
  draw to draw;
- liked, in a synthetic world: the share of g that falls on what the user truly likes. A generated negative
  has the true score of the same mixture of the true vectors of its positive and its item.

Legend: R draws, B rows of the batch, K negatives a row, I items, E (user, item) pairs, D dimensions.
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
from adar_ray.samplers.base import Negatives, SamplingContext
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import FAIR, SYNTHETIC, prepared
from benchmarks.quality.loop import fit

NAME = "quality_hidden_positives"
DRAWS = 4
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
    parser.add_argument("--data", required=True, choices=(SYNTHETIC, *FAIR))
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all samplers")
    parser.add_argument("--only", nargs="+", choices=SAMPLERS, default=[*SAMPLERS], help="names of samplers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    source, options = FAIR.get(arguments.data, (SYNTHETIC, {}))
    dataset = prepared(source, arguments.sources, arguments.work, options)
    truth = Truth.open(dataset) if arguments.data == SYNTHETIC else None
    is_hidden = _liked(truth) if truth else _held_out(dataset)
    figures = record.read_figures(NAME)
    rows = figures.setdefault(arguments.data, {"settings": arguments.set, "samplers": {}})["samplers"]
    for name in arguments.only:
        if name in rows:
            continue
        config = load_config(settings=[*SETTINGS, *SAMPLERS[name], *arguments.set])
        rows[name] = _study(config, dataset, is_hidden, truth)
        print(name, rows[name], flush=True)
        record.write(
            NAME,
            figures,
            description="Negatives of each sampler at the best epoch on validation: how hard they are, "
            "what they push down, and how much the gradient varies.",
            seeds=[0],
        )


def _held_out(dataset: Dataset) -> IsHidden:
    return user_items(dataset, "valid", "test").contains


def _liked(truth: Truth) -> IsHidden:
    def is_hidden(user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        user = np.repeat(user_B.numpy(), item_BK.shape[1])
        return torch.from_numpy(truth.likes(user, item_BK.numpy().ravel())).view(item_BK.shape)

    return is_hidden


def _likes(
    truth: Truth,
    user_B: torch.Tensor,
    positive_B: torch.Tensor,
    item_BK: torch.Tensor,
    keep_BK: torch.Tensor,
    reach_BK: torch.Tensor,
) -> torch.Tensor:
    """`[B, K]`: whether the user likes a mixture of a positive and an item, weights counted from the mean."""
    user_BD = truth.user_UD[user_B.numpy()]
    mean_B1 = (user_BD @ truth.item_ID.mean(0))[:, None]
    positive_B1 = np.einsum("bd,bd->b", user_BD, truth.item_ID[positive_B.numpy()])[:, None] - mean_B1
    item_score_BK = np.einsum("bd,bkd->bk", user_BD, truth.item_ID[item_BK.numpy()]) - mean_B1
    score_BK = mean_B1 + keep_BK.numpy() * positive_B1 + reach_BK.numpy() * item_score_BK
    return torch.from_numpy(score_BK >= truth.threshold_U[user_B.numpy()][:, None])


@torch.no_grad()
def _study(config: Config, dataset: Dataset, is_hidden: IsHidden, truth: Truth | None) -> dict[str, float]:
    with torch.enable_grad():
        fitted = fit(config, dataset)
    observed, model, sampler = user_items(dataset, "train"), fitted.model, fitted.samplers[-1]
    percentile_I = percentiles(observed.item_counts())
    user_E, item_E = observed.pairs()
    total = torch.zeros(8, dtype=torch.float64)
    for number, at_B in enumerate(torch.arange(len(user_E)).split(1024)):
        user_B, item_B = user_E[at_B], item_E[at_B]
        user_BD, positive_BD = model.users({"user": user_B}), model.items(item_B)
        context = _context(model, observed, user_B, item_B, int(fitted.figures["epoch"]))
        positive_B1 = model.score(user_BD, positive_BD[:, None])
        gradients = []
        for draw in range(DRAWS):
            negatives = sampler(user_BD, positive_BD, context, RowRng(at_B, 0, draw, number))
            score_BK = model.score(user_BD, negatives.vector_BKD)
            g_BK = torch.sigmoid(score_BK - positive_B1) * negatives.mask_BK
            item_BK, keep_BK, reach_BK = parts(negatives, positive_BD)
            push_BK = g_BK * reach_BK
            total[:5] += torch.stack(
                [
                    negatives.mask_BK.sum(),
                    g_BK.sum(),
                    push_BK.sum(),
                    (push_BK * is_hidden(user_B, item_BK)).sum(),
                    (push_BK * percentile_I[item_BK]).sum(),
                ]
            )
            if truth:
                total[5] += (g_BK * _likes(truth, user_B, item_B, item_BK, keep_BK, reach_BK)).sum()
            gradients.append(g_BK[:, :1] * (negatives.vector_BKD[:, 0] - positive_BD))
        variance_BD, mean_BD = torch.var_mean(torch.stack(gradients), 0)
        # The square of a mean of draws is too large by the variance of that mean.
        total[6:] += torch.stack([variance_BD.sum(), (mean_BD.square() - variance_BD / DRAWS).sum()])
    count, weight, push, pushed, popularity, liked, variance, square = total.tolist()
    figures = {
        "hardness": weight / count,
        "reach": push / weight,
        "pushed": pushed / weight,
        "popularity": popularity / push,
        "variance": variance / square,
    }
    if truth:
        figures["liked"] = liked / weight
    return {**figures, "valid_ndcg@20": fitted.figures["ndcg@20"], "epoch": fitted.figures["epoch"]}


def parts(negatives: Negatives, positive_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`[B, K]`: the items in negatives, and the weights of the positive and of the item there."""
    source = negatives.source
    if source is None:
        assert negatives.item_BK is not None
        return negatives.item_BK, *torch.tensor([0.0, 1.0]).expand(*negatives.item_BK.shape, 2).unbind(2)
    item_BK = source.item_P[source.at_BK]
    if negatives.timestep_BK is not None:
        phi_BK = negatives.timestep_BK * (math.pi / 2)
        return item_BK, phi_BK.cos(), phi_BK.sin()
    positive_B1D, item_BKD = positive_BD[:, None], source.vector_PD[source.at_BK]
    way_BK = (negatives.vector_BKD - positive_B1D).norm(dim=2) / (item_BKD - positive_B1D).norm(dim=2)
    return item_BK, 1 - way_BK, way_BK


def percentiles(count_I: torch.Tensor) -> torch.Tensor:
    """`[I]`: the share of items that are less popular, with half of those that are as popular."""
    sorted_I = count_I.sort().values
    below_I, up_to_I = (torch.searchsorted(sorted_I, count_I, right=right) for right in (False, True))
    return (below_I + up_to_I) / (2 * len(count_I))


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


if __name__ == "__main__":
    main()

"""What it changes where baselines depart from their authors' code: MF with BPR, one departure at a time.

    python -m benchmarks.quality.departures --sources path/to/data --work scratch/

`docs/baselines.md` explains the departures. The figures are those of the best epoch on validation; test is
not read. A rerun trains only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from adar_ray.config import Config, load_config
from adar_ray.memory import keep_freed_memory
from adar_ray.rng import RowRng
from adar_ray.samplers import MixGCFSampler, Negatives, SamplingContext
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import FAIR, prepared
from benchmarks.quality.loop import METRICS, fit

NAME = "quality_departures"
SEEDS = 2
L2 = {"ml-100k": 2e-2, "beauty": 3e-2}
"""Where the samplers that choose hard items do best; all samplers have it."""

_SETTINGS = ("model.name=mf", "loss.name=bpr", "optimizer.lr=3e-3", "train.epochs=150", "train.patience=12")
_SAMPLERS = {
    "uniform": (),
    "dns": ("dns.candidates=16",),
    "mixgcf": ("mixgcf.candidates=16",),
    "dens": ("dens.candidates=16",),
    "ahns": ("ahns.candidates=32",),
    "adar": (),
}
_AUTHORS = ("optimizer.lr=1e-3", "loss.l2=1e-4", "train.patience=50")
_K_PAIR = ("loss.name=sampled_softmax", "sampled_softmax.temperature=1", "model.cosine=false")


class PenalizedMixture(MixGCFSampler):
    """MixGCF with the L2 penalty on its mixtures, as its authors have it, instead of on the items in them.

    Args:
        l2: the weight of the penalty.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.mixgcf)
        self.l2 = config.loss.l2

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        negatives = super().sample(user_BD, positive_BD, context, rng)
        penalty_B = 0.5 * self.l2 * negatives.vector_BKD.square().sum(2).mean(1)
        return replace(negatives, source=None, loss_B=penalty_B)


@dataclass(frozen=True)
class Departure:
    """A way to train.

    Attributes:
        settings: in addition to those that all share.
        sampler: what makes the sampler of a configuration, in place of the configuration's own.
    """

    settings: tuple[str, ...]
    sampler: Callable[[Config], nn.Module] | None = None


def _with(sampler: str, negatives: int, *settings: str) -> tuple[str, ...]:
    return (f"sampler.name={sampler}", *_SAMPLERS[sampler], f"{sampler}.negatives={negatives}", *settings)


DEPARTURES: dict[str, Departure] = {
    **{f"{name}_{K}": Departure(_with(name, K)) for name in _SAMPLERS for K in (1, 4)},
    **{
        f"{name}_1_authors": Departure(_with(name, 1, *_AUTHORS))
        for name in ("dns", "mixgcf", "dens", "ahns")
    },
    **{f"{name}_4_k_pair": Departure(_with(name, 4, *_K_PAIR)) for name in ("dns", "mixgcf")},
    "dns_1_unmasked": Departure(_with("dns", 1, "sampler.mask_seen=false")),
    "mixgcf_1_l2_on_mixture": Departure(_with("mixgcf", 1), PenalizedMixture),
    "dens_1_patience_50": Departure(_with("dens", 1, "train.patience=50")),
}


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", choices=L2, default=[*L2])
    parser.add_argument(
        "--only", nargs="+", choices=DEPARTURES, default=[*DEPARTURES], help="some of the ways"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for data in arguments.data:
        source, options = FAIR[data]
        dataset = prepared(source, arguments.sources, arguments.work, options)
        for seed in range(SEEDS):  # the outer loop: all run once before any runs twice
            for name in arguments.only:
                departure, figures = DEPARTURES[name], record.read_figures(NAME)
                runs = figures.setdefault(data, {}).setdefault(name, [])
                if seed < len(runs):
                    continue
                shared = [*_SETTINGS, f"loss.l2={L2[data]}", f"train.seed={seed}"]
                config = load_config(settings=[*shared, *departure.settings])
                sampler = partial(departure.sampler, config) if departure.sampler else None
                fitted = fit(config, dataset, sampler)
                runs.append({figure: round(fitted.figures[figure], 5) for figure in (*METRICS, "epoch")})
                print(data, name, seed, runs[-1], flush=True)
                record.write(
                    NAME,
                    figures,
                    description="MF with BPR where baselines depart from their authors' code, and where not: "
                    "validation figures of the best epoch of each run.",
                    seeds=range(SEEDS),
                )


if __name__ == "__main__":
    main()

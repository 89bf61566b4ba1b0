"""From a configuration to a model, samplers, a step and optimisers.

Legend: B rows of the batch, K negatives a row, D dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from adar_ray import losses
from adar_ray.adar import AdarSampler
from adar_ray.config import Config
from adar_ray.draws import Draws
from adar_ray.models import MF, BaseModel, LightGCN, l2_vectors
from adar_ray.negatives import Items
from adar_ray.samplers import UniformSampler
from adar_ray.user_items import UserItems

HISTOGRAM_BINS = 10


def build_model(config: Config, observed: UserItems) -> BaseModel:
    """The base model that the configuration names, newly initialised."""
    model = config.model
    builders = {
        "mf": lambda: MF(
            observed.n_users,
            observed.n_items,
            model.dim,
            model.cosine,
            config.optimiser.name == "sparse_adam",
        ),
        "lightgcn": lambda: LightGCN(observed, model.dim, model.layers, model.cosine),
    }
    return builders[model.name]()


def build_samplers(config: Config) -> nn.ModuleList:
    """The samplers whose negatives the loss puts side by side; the last is the one that is studied.

    With BPR, ADAR's negatives replace the uniform ones; with sampled softmax they join them.
    """
    softmax = config.loss.name == "sampled_softmax"
    uniform = (
        UniformSampler(config.sampler.shared, True) if softmax else UniformSampler(config.sampler.negatives)
    )
    if config.sampler.name == "uniform":
        return nn.ModuleList([uniform])
    adar = AdarSampler(**config.adar.model_dump(exclude={"weight"}))
    return nn.ModuleList([uniform, adar] if softmax else [adar])


def build_optimisers(config: Config, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Sparse Adam for tables with sparse gradients, Adam for the rest."""
    sparse = {m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse}
    dense = [p for p in model.parameters() if p not in sparse]
    optimisers: list[torch.optim.Optimizer] = []
    if sparse:
        tables = [p for p in model.parameters() if p in sparse]  # in a fixed order, which a set has not
        optimisers.append(torch.optim.SparseAdam(tables, lr=config.optimiser.lr))
    if dense:
        optimisers.append(torch.optim.Adam(dense, lr=config.optimiser.lr, fused=True))
    return optimisers


class StepStatistics:
    """Sums over rows that a step returns as one tensor, and that epochs and workers add up."""

    FIELDS = ("loss", "penalty", "rows", "hardness", "negatives", "timesteps")

    @staticmethod
    def summary(total: torch.Tensor) -> tuple[dict[str, float], dict[str, object]]:
        """Losses and sampler statistics of an epoch from the sum of its steps' tensors."""
        sums = dict(zip(StepStatistics.FIELDS, total.tolist(), strict=False))
        rows, negatives = max(sums["rows"], 1), max(sums["negatives"], 1)
        loss = {"loss": sums["loss"] / rows, "penalty": sums["penalty"] / rows}
        sampler: dict[str, object] = {"hardness": sums["hardness"] / negatives}
        histogram = total[len(StepStatistics.FIELDS) :]
        if histogram.sum() > 0:
            sampler["timestep"] = sums["timesteps"] / negatives
            sampler["timesteps"] = (histogram / histogram.sum()).tolist()
        return loss, sampler


class TrainingStep(nn.Module):
    """Everything between a batch of interactions and its loss.

    One module, so that `DistributedDataParallel` can wrap it and average the gradients.
    """

    def __init__(
        self, config: Config, model: BaseModel, samplers: nn.ModuleList, observed: UserItems
    ) -> None:
        super().__init__()
        self.model, self.samplers = model, samplers
        self.config, self.observed = config, observed

    def forward(
        self, user_B: torch.Tensor, item_B: torch.Tensor, row_B: torch.Tensor, key: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the rows' losses, and the statistics of `StepStatistics`.

        Args:
            user_B, item_B: interactions.
            row_B: their positions in the batch of all workers.
            key: the step's key to random numbers.
        """
        batch = {"user": user_B}
        user_BD, positive_BD = self.model.users(batch), self.model.items(item_B)
        items = Items(self.model.items, self.observed.n_items, self.model.score, self._seen(user_B))
        scale = self.config.loss.temperature if self.config.loss.name == "sampled_softmax" else 1.0

        positive_B = self.model.score(user_BD, positive_BD[:, None])[:, 0]
        score, mask, weight, penalty = [], [], [], self._half_square(*l2_vectors(self.model, batch, item_B))
        for index, sampler in enumerate(self.samplers):
            negatives = sampler(user_BD, positive_BD, items, Draws(row_B, *key, index))
            score.append(self.model.score(user_BD, negatives.vector_BKD))
            mask.append(negatives.mask_BK)
            generated = isinstance(sampler, AdarSampler)
            log_weight = math.log(self.config.adar.weight) if generated else 0.0
            weight.append(score[-1].new_full(score[-1].shape[1:], log_weight))
            if self.config.loss.l2 and negatives.item_BK is not None:
                _, negative_BKD = l2_vectors(self.model, batch, negatives.item_BK)
                penalty = penalty + self._half_square(negative_BKD).mean(1)
        negative_BK, mask_BK = torch.cat(score, 1), torch.cat(mask, 1)
        if self.config.loss.name == "bpr":
            loss_B = losses.bpr(positive_B, negative_BK, mask_BK)
        else:
            loss_B = losses.sampled_softmax(positive_B, negative_BK, mask_BK, scale, torch.cat(weight))
        penalty_B = self.config.loss.l2 * penalty
        with torch.no_grad():
            hardness_BK = torch.sigmoid((score[-1] - positive_B[:, None]) / scale) * mask[-1]
            statistics = self._statistics(loss_B, penalty_B, hardness_BK, mask[-1], negatives.timestep_BK)
        return (loss_B + penalty_B).sum(), statistics

    def _seen(self, user_B: torch.Tensor):
        if not self.config.sampler.mask_seen:
            return None
        return lambda item: (
            self.observed.contains_shared(user_B, item)
            if item.dim() == 1
            else self.observed.contains(user_B, item)
        )

    @staticmethod
    def _half_square(*vectors: torch.Tensor) -> torch.Tensor:
        return sum(0.5 * vector.square().sum(-1) for vector in vectors)

    @staticmethod
    def _statistics(
        loss_B: torch.Tensor,
        penalty_B: torch.Tensor,
        hardness_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        timestep_BK: torch.Tensor | None,
    ) -> torch.Tensor:
        histogram = loss_B.new_zeros(HISTOGRAM_BINS, dtype=torch.float64)
        timesteps = histogram.sum()
        if timestep_BK is not None:
            timestep = timestep_BK[mask_BK]
            timesteps = timestep.sum()
            # From below too: a model that has diverged has timesteps that are no numbers.
            bins = (timestep * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1)
            histogram = torch.bincount(bins, minlength=HISTOGRAM_BINS).to(torch.float64)
        sums = [
            loss_B.sum(),
            penalty_B.sum(),
            loss_B.new_tensor(len(loss_B)),
            hardness_BK.sum(),
            mask_BK.sum(),
        ]
        return torch.cat([torch.stack([s.double() for s in [*sums, timesteps]]), histogram])

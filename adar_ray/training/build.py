"""From a configuration to a model, samplers, a step and optimizers.

Legend: B rows of the batch, N pairs of user and positive that they hold, L positions of a history,
K negatives a pair, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from adar_ray import losses, models, samplers
from adar_ray.adar import AdarSampler
from adar_ray.config import SEQUENTIAL_MODELS, Config
from adar_ray.custom import build_custom, find_custom
from adar_ray.data.dataset import Dataset
from adar_ray.interactions import PADDING
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.protocol import training_positions
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives, Sampler

HISTOGRAM_BINS = 10
_HARDNESS_OF = 64  # negatives a row; of thousands, these tell it as well
_MASKS = -1  # the stream of random numbers of what is hidden; samplers count from 0


def is_sequential(config: Config) -> bool:
    """Whether the base model reads histories."""
    name = config.model.name
    return getattr(find_custom(name), "sequential", False) if ":" in name else name in SEQUENTIAL_MODELS


def build_model(config: Config, observed: UserItems, dataset: Dataset | None = None) -> BaseModel:
    """The base model that the configuration names, newly initialized.

    Args:
        observed: the training interactions.
        dataset: for sequential models, which have its length of histories, and for models of one's own.

    Raises:
        AdarError: a model of one's own cannot be imported, or misses a method.
    """
    model = config.model
    users, items = observed.n_users, observed.n_items

    def sequential(kind: Callable[..., nn.Module], **more) -> nn.Module:
        length = dataset.sequences["length"]
        return kind(
            items, length, model.dim, model.layers, dropout=model.dropout, cosine=model.cosine, **more
        )

    builders = {
        "mf": lambda: models.MF(
            users, items, model.dim, model.cosine, config.optimizer.name == "sparse_adam"
        ),
        "neumf": lambda: models.NeuMF(users, items, model.dim, model.layers, model.dropout),
        "ngcf": lambda: models.NGCF(observed, model.dim, model.layers, model.dropout, model.cosine),
        "lightgcn": lambda: models.LightGCN(observed, model.dim, model.layers, model.cosine),
        "simgcl": lambda: models.SimGCL(
            observed,
            model.dim,
            model.layers,
            model.noise,
            model.contrast,
            model.contrast_temperature,
            model.cosine,
        ),
        "gru4rec": lambda: sequential(models.GRU4Rec),
        "sasrec": lambda: sequential(models.SASRec, heads=model.heads),
        "bert4rec": lambda: sequential(models.BERT4Rec, heads=model.heads, mask_share=model.mask),
        "fmlprec": lambda: sequential(models.FMLPRec),
    }
    return builders[model.name]() if model.name in builders else build_custom(model.name, dataset, config)


def build_samplers(config: Config, model: BaseModel, observed: UserItems) -> nn.ModuleList:
    """The loss's sampler, then ADAR's where it joins another; the last is the one that is studied.

    With BPR, ADAR's negatives replace the uniform ones; with the other losses they join ordinary ones.
    Every other sampler stands alone.
    """
    sampler, loss = config.sampler, config.loss.name
    shared = loss == "sampled_softmax"
    K = sampler.shared if shared else sampler.negatives
    choice = {"K": sampler.negatives, "candidates": sampler.candidates}
    builders: dict[str, Callable[[], Sampler]] = {
        "adar": lambda: AdarSampler(**config.adar.model_dump(exclude={"weight"}), dim=_length(model)),
        "all": samplers.AllItems,
        "uniform": lambda: samplers.UniformSampler(K, shared),
        "popularity": lambda: samplers.PopularitySampler(K, sampler.alpha, shared),
        "in_batch": samplers.InBatchSampler,
        "dns": lambda: samplers.DNSSampler(**choice, top=sampler.top),
        "mixgcf": lambda: samplers.MixGCFSampler(**choice),
        "dens": lambda: samplers.DENSSampler(_length(model), **choice, **config.dens.model_dump()),
        "ahns": lambda: samplers.AHNSSampler(**choice, **config.ahns.model_dump()),
        "srns": lambda: samplers.SRNSSampler(
            observed.n_users, observed.n_items, **choice, **config.srns.model_dump()
        ),
    }
    names = [sampler.name]
    if sampler.name == "adar" and loss != "bpr":
        names = ["all" if loss == "cross_entropy" else sampler.joins, "adar"]
    return nn.ModuleList(builders[name]() for name in names)


@torch.no_grad()
def _length(model: BaseModel) -> int:
    """D, which is a model's own affair: some concatenate."""
    parameter = next(model.parameters())
    return model.items(torch.zeros(1, dtype=torch.int64, device=parameter.device)).shape[-1]


def build_optimizers(config: Config, *modules: nn.Module) -> list[torch.optim.Optimizer]:
    """Sparse Adam for tables with sparse gradients, Adam for the rest."""
    everything = nn.ModuleList(modules)
    sparse = {m.weight for m in everything.modules() if isinstance(m, nn.Embedding) and m.sparse}
    dense = [p for p in everything.parameters() if p not in sparse]
    optimizers: list[torch.optim.Optimizer] = []
    if sparse:
        tables = [p for p in everything.parameters() if p in sparse]  # in a fixed order, which a set has not
        optimizers.append(torch.optim.SparseAdam(tables, lr=config.optimizer.lr))
    if dense:
        optimizers.append(torch.optim.Adam(dense, lr=config.optimizer.lr, fused=True))
    return optimizers


class StepStatistics:
    """Sums over rows that a step returns as one tensor, and that epochs and workers add up."""

    FIELDS = ("loss", "penalty", "rows", "hardness", "negatives", "timesteps", "uncrossed")

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
            sampler["uncrossed"] = sums["uncrossed"] / negatives
            sampler["timesteps"] = (histogram / histogram.sum()).tolist()
        return loss, sampler


@dataclass(frozen=True)
class Pairs:
    """What a batch trains on: users, as they are when they meet their positive, and that positive.

    `row_N` are the pairs' positions in the batch of all workers, `of_N` the rows here that they are of.
    """

    user_ND: torch.Tensor
    user_N: torch.Tensor
    positive_N: torch.Tensor
    row_N: torch.Tensor
    of_N: torch.Tensor


class TrainingStep(nn.Module):
    """Everything between a batch of interactions, or of sequence rows, and its loss.

    One module, so that `DistributedDataParallel` can wrap it and average the gradients.

    Args:
        targets: positions of a sequence row, counted from its end, that are trained on.
    """

    def __init__(
        self,
        config: Config,
        model: BaseModel,
        samplers: nn.ModuleList,
        observed: UserItems,
        targets: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.samplers = model, samplers
        self.config, self.observed, self.targets = config, observed, targets
        self.popularity_I, self.seen_count_U = observed.item_counts(), observed.counts()

    def forward(
        self, user_B: torch.Tensor, item: torch.Tensor, row_B: torch.Tensor, key: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of all pairs, and the statistics of `StepStatistics`.

        Args:
            user_B: users.
            item: their positives `[B]`, or their sequence rows `[B, L + 1]`.
            row_B: the rows' positions in the batch of all workers.
            key: the step's key to random numbers: seed, epoch, step.
        """
        batch, pairs = self._pairs(user_B, item, row_B, key)
        positive_ND = self.model.items(pairs.positive_N)
        positive_N = self.model.score(pairs.user_ND, positive_ND[:, None])[:, 0]
        items = Items(
            self.model.items,
            self.observed.n_items,
            self.model.score,
            seen=self._seen(user_B, pairs),
            # What comes next is one item, however many a user would like.
            seen_count_B=None if "history" in batch else self.seen_count_U[pairs.user_N],
            user_B=pairs.user_N,
            positive_B=pairs.positive_N,
            popularity_I=self.popularity_I,
            layers=getattr(self.model, "item_layers", None),
            epoch=key[1],
        )
        answers = [
            sampler(pairs.user_ND, positive_ND, items, RowRng(pairs.row_N, *key, stream))
            for stream, sampler in enumerate(self.samplers)
        ]
        scores = [self.model.score(pairs.user_ND, negatives.vector_BKD) for negatives in answers]
        loss_N = self._loss(positive_N, scores, answers)
        loss_N = loss_N + sum(negatives.loss_B for negatives in answers if negatives.loss_B is not None)
        auxiliary_loss = getattr(self.model, "auxiliary_loss", None)
        if auxiliary_loss:
            loss_N = loss_N + auxiliary_loss(batch, pairs.positive_N, RowRng(pairs.row_N, *key, len(answers)))
        penalty_N = self.config.loss.l2 * self._penalty(batch, pairs, positive_ND, answers)
        with torch.no_grad():
            studied, scale = answers[-1], self._temperature()
            some = slice(_HARDNESS_OF)
            mask_NK = studied.mask_BK[:, some]
            hardness_NK = torch.sigmoid((scores[-1][:, some] - positive_N[:, None]) / scale) * mask_NK
            statistics = self._statistics(loss_N, penalty_N, hardness_NK, mask_NK, studied.timestep_BK)
        return (loss_N + penalty_N).sum(), statistics

    def _pairs(
        self, user_B: torch.Tensor, item: torch.Tensor, row_B: torch.Tensor, key: tuple[int, ...]
    ) -> tuple[dict[str, torch.Tensor], Pairs]:
        """What the model is shown, and the pairs in it; all positions of all histories at once."""
        if item.dim() == 1:
            batch = {"user": user_B}
            of_B = torch.arange(len(user_B), device=user_B.device)
            return batch, Pairs(self.model.users(batch), user_B, item, row_B, of_B)
        history_BL, target_BL = training_positions(
            self.model, item, self.targets, RowRng(row_B, *key, _MASKS)
        )
        batch = {"user": user_B, "history": history_BL}
        of_N, at_N = (target_BL != PADDING).nonzero(as_tuple=True)
        return batch, Pairs(
            self.model.users(batch)[of_N, at_N],
            user_B[of_N],
            target_BL[of_N, at_N],
            row_B[of_N] * target_BL.shape[1] + at_N,
            of_N,
        )

    def _loss(
        self, positive_N: torch.Tensor, scores: list[torch.Tensor], answers: list[Negatives]
    ) -> torch.Tensor:
        """That of the ordinary negatives, and BPR's of generated ones beside them.

        A generated negative is one only next to its positive, whose direction it shares: a loss that looked
        at its score alone would push the user away from both. A softmax pulls the user back by itself: for
        who has seen little the pair pushes there, and does not pull. docs/method.md says why.
        """
        loss_N = self._ordinary_loss(positive_N, scores[0], answers[0])
        if len(answers) > 1:
            scale, softened_N = self._temperature(), answers[1].softened_B
            beside_N = positive_N
            if self.config.loss.name != "bce" and softened_N is not None:
                beside_N = torch.where(softened_N, positive_N, positive_N.detach())
            joined_N = losses.bpr(beside_N / scale, scores[1] / scale, answers[1].mask_BK)
            loss_N = loss_N + self.config.adar.weight * joined_N
        return loss_N

    def _ordinary_loss(
        self, positive_N: torch.Tensor, score_NK: torch.Tensor, negatives: Negatives
    ) -> torch.Tensor:
        mask_NK, loss = negatives.mask_BK, self.config.loss
        if loss.name == "bpr":
            return losses.bpr(positive_N, score_NK, mask_NK)
        if loss.name == "bce":
            return losses.bce(positive_N, score_NK, mask_NK)
        corrected = loss.log_q and negatives.log_q_BK is not None
        log_weight = -negatives.log_q_BK if corrected else 0.0
        return losses.sampled_softmax(positive_N, score_NK, mask_NK, loss.temperature, log_weight)

    def _temperature(self) -> float:
        has_one = self.config.loss.name in ("sampled_softmax", "cross_entropy")
        return self.config.loss.temperature if has_one else 1.0

    def _penalty(
        self,
        batch: dict[str, torch.Tensor],
        pairs: Pairs,
        positive_ND: torch.Tensor,
        answers: list[Negatives],
    ) -> torch.Tensor:
        """`[N]`: half the squared lengths of a pair's vectors, and the mean of its negatives'.

        Of generated negatives those count that they are made of: an item that is only ever pushed down must
        be held back, too, or it would run away.
        """
        own = getattr(self.model, "l2_vectors", None)
        if not self.config.loss.l2:
            return positive_ND.new_zeros(())
        if "history" in batch:  # a hidden state is no parameter
            penalty_N = self._half_square(positive_ND)
        else:
            vectors = own(batch, pairs.positive_N) if own else (pairs.user_ND, positive_ND)
            penalty_N = self._half_square(*vectors)
        for negatives in answers:
            item_NK, vector_NKD = negatives.source or (negatives.item_BK, negatives.vector_BKD)
            if item_NK is not None:
                vector_NKD = own(batch, item_NK)[1] if own else vector_NKD
                penalty_N = penalty_N + self._half_square(vector_NKD).mean(1)
        return penalty_N

    def _seen(self, user_B: torch.Tensor, pairs: Pairs) -> Callable[[torch.Tensor], torch.Tensor] | None:
        if not self.config.sampler.mask_seen:
            return None

        def seen(item: torch.Tensor) -> torch.Tensor:
            if item.dim() == 1:  # once a user, however many positions
                return self.observed.contains_shared(user_B, item)[pairs.of_N]
            return self.observed.contains(pairs.user_N, item)

        return seen

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
        timesteps = uncrossed = histogram.sum()
        if timestep_BK is not None:
            timestep = timestep_BK[mask_BK]
            timesteps, uncrossed = timestep.sum(), (timestep == 1).sum()
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
        return torch.cat([torch.stack([s.double() for s in [*sums, timesteps, uncrossed]]), histogram])

"""Everything between a batch of interactions, or of sequence rows, and its loss.

Legend: B rows of the batch, N pairs of user and positive in them, L positions of a history, K negatives a
pair, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from adar_ray import kernels
from adar_ray.component import LossFunction
from adar_ray.config import Config
from adar_ray.custom import Blamed, blamed, is_custom
from adar_ray.errors import AdarError, counted
from adar_ray.interactions import PADDING
from adar_ray.interactions.pair_weights import PairWeights
from adar_ray.interactions.user_items import UserItems
from adar_ray.losses import bpr, in_single
from adar_ray.models.protocol import BaseModel, dot_score, snapshot, training_positions
from adar_ray.models.table import TablePairs
from adar_ray.rng import RowRng
from adar_ray.samplers.base import LazyNegatives, Negatives, SamplingContext, Source

HISTOGRAM_BINS = 10
_HARDNESS_OF = 64  # negatives per row whose hardness is measured; of thousands, these are enough
_MASKS = 1 << 16  # the stream of random numbers that hides positions; samplers count theirs from 0
_MODEL = _MASKS + 1  # the stream of what a model draws for all rows together


class StepStatistics:
    """Sums over rows: a step returns them as one tensor, and epochs and workers add them up."""

    FIELDS = ("loss", "penalty", "rows", "hardness", "negatives", "timesteps", "uncrossed")
    SIZE = len(FIELDS) + HISTOGRAM_BINS

    @staticmethod
    def of(
        loss_N: torch.Tensor,
        penalty_N: torch.Tensor,
        positive_N: torch.Tensor,
        negative_NK: torch.Tensor,
        mask_NK: torch.Tensor,
        timestep_NK: torch.Tensor | None,
        temperature: float,
    ) -> torch.Tensor:
        """The sums of one step, `[SIZE]`."""
        if kernels.runs_compiled(positive_N, negative_NK):
            histogram = np.zeros(HISTOGRAM_BINS)
            times_NK = positive_N.new_empty(len(positive_N), 0) if timestep_NK is None else timestep_NK
            scores = (positive_N, negative_NK, mask_NK, times_NK)
            arrays = (tensor.detach().contiguous().numpy() for tensor in scores)
            hardness, count, *times = kernels.step_statistics(*arrays, temperature, histogram)
            losses = [float(loss_N.sum()), float(penalty_N.sum()), len(loss_N)]
            return torch.tensor([*losses, hardness, count, *times, *histogram], dtype=torch.float64)
        # On a GPU nothing here may wait for a number.
        part_T = torch.arange(HISTOGRAM_BINS, device=loss_N.device)
        histogram_T = torch.zeros_like(part_T, dtype=torch.float64)
        timesteps = uncrossed = histogram_T.sum()
        if timestep_NK is not None:
            timesteps = timestep_NK.masked_fill(~mask_NK, 0).sum()
            uncrossed = ((timestep_NK == 1) & mask_NK).sum()
            # Clamped from below too: a model that has diverged has timesteps that are NaN.
            bins_NK = (timestep_NK * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1)
            in_part_NKT = (bins_NK[..., None] == part_T) & mask_NK[..., None]
            histogram_T = in_part_NKT.sum((0, 1)).to(torch.float64)
        hardness_NK = torch.sigmoid((negative_NK - positive_N[:, None]) / temperature) * mask_NK
        sums = [
            loss_N.sum(),
            penalty_N.sum(),
            torch.full_like(timesteps, len(loss_N)),
            hardness_NK.sum(),
            mask_NK.sum(),
        ]
        return torch.cat([torch.stack([s.double() for s in [*sums, timesteps, uncrossed]]), histogram_T])

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
class Loss:
    """A loss with its settings.

    Attributes:
        function: scores -> a number per row.
        temperature: divides its scores.
        is_softmax: whether negatives share a softmax with their positive.
    """

    function: LossFunction
    temperature: float = 1.0
    is_softmax: bool = False


@dataclass(frozen=True)
class Pairs:
    """What a batch trains on: users, as they are when they meet their positive, and that positive.

    Attributes:
        user_ND, positive_ND: their representations, without dimensions if nobody reads them.
        user_N, positive_N: ids.
        row_N: the pairs' positions in the batch of all workers.
    """

    user_ND: torch.Tensor
    positive_ND: torch.Tensor
    user_N: torch.Tensor
    positive_N: torch.Tensor
    row_N: torch.Tensor


@dataclass(frozen=True)
class Scores:
    """What the model makes of a batch's pairs.

    Attributes:
        positive_N: scores of the positives.
        negatives: of each sampler's negatives, `[N, K]`.
        penalty_N: the L2 penalty on users, positives and some samplers' negatives, if it came with the
            scores; else None.
        penalized: how many samplers' negatives, from the first, are in it.
    """

    positive_N: torch.Tensor
    negatives: list[torch.Tensor]
    penalty_N: torch.Tensor | None
    penalized: int


class _CustomModel(Blamed):
    """A base model of the user's own, whose errors name it."""

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        """Scores `[B, K]`, nothing else: another shape might fit by broadcasting."""
        score_BK = blamed(f"{self.whom}score(): ", self.target.score)(user_BD, item_BKD)
        wanted, found = [len(user_BD), item_BKD.shape[1]], list(score_BK.shape)
        if found != wanted:
            raise AdarError(f"{self.whom}score(): returns the shape {found}, not {wanted}; return [B, K]")
        return score_BK


class TrainingStep(nn.Module):
    """Computes the loss of a batch: model, samplers, loss function, L2 penalty.

    Args:
        observed: the training interactions of this worker's users.
        popularity_I: the number of training interactions of each item, of all users.
        targets: how many positions of a sequence row, counted from its end, to train on.
        weights: how much each pair counts; all equally if None.
    """

    def __init__(
        self,
        config: Config,
        model: Any,
        loss: Loss,
        samplers: nn.ModuleList,
        observed: UserItems,
        popularity_I: torch.Tensor,
        targets: int = 0,
        weights: PairWeights | None = None,
    ) -> None:
        super().__init__()
        self.model, self.samplers = model, samplers
        self.config, self.loss, self.observed, self.targets = config, loss, observed, targets
        self.weights, self.sampler_names = weights, config.sampler_names()
        self.is_custom = is_custom(config.model.name)
        self.popularity_I, self.seen_count_U = popularity_I, observed.counts()

    def forward(
        self, user_B: torch.Tensor, item: torch.Tensor, row_B: torch.Tensor, key: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of all pairs, and the sums of `StepStatistics`.

        Args:
            user_B: users.
            item: their positives `[B]`, or their sequence rows `[B, L + 1]`.
            row_B: the rows' positions in the batch of all workers; on the CPU, where random numbers are made.
            key: the step's key to random numbers: seed, epoch, step.
        """
        device = user_B.device
        draw = getattr(self.model, "step_snapshot", None)
        model = draw(RowRng(row_B, *key, _MODEL, device=device)) if draw else snapshot(self.model)
        if self.is_custom:
            model = _CustomModel(f"model.name {self.config.model.name}: ", model)
        by_id: TablePairs | None = getattr(self.model, "pairs", None)
        batch, pairs = self._pairs(model, user_B, item, row_B, key, by_id)
        context = SamplingContext(
            model.items,
            self.observed.n_items,
            dot_score if getattr(model, "scores_by_dot_product", False) else self._sure_score(model),
            seen=self.observed.seen_by(pairs.user_N) if self.config.sampler.mask_seen else None,
            # A sequential model predicts one item, however many a user would like.
            seen_count_B=None if "history" in batch else self.seen_count_U[pairs.user_N],
            user_B=pairs.user_N,
            positive_B=pairs.positive_N,
            popularity_I=self.popularity_I,
            layers=getattr(model, "item_layers", None),
            pairs=by_id,
            epoch=key[1],
        )
        answers: list[Negatives] = [
            self._ask(n, pairs, context, RowRng(pairs.row_N, *key, n, device=device))
            for n in range(len(self.samplers))
        ]
        scores = self._scores(model, pairs, answers, by_id)
        self._check_shapes(scores, answers)
        loss_N = self._loss(scores, answers)
        for negatives in answers:
            if negatives.loss_B is not None:
                loss_N = loss_N + negatives.loss_B
        auxiliary_loss = getattr(self.model, "auxiliary_loss", None)
        if auxiliary_loss:
            loss_N = loss_N + auxiliary_loss(
                batch, pairs.positive_N, RowRng(pairs.row_N, *key, len(answers), device=device)
            )
        penalty_N = self.config.loss.l2 * self._penalty(batch, pairs, scores, answers)
        if self.weights is not None:
            weight_N = self.weights(pairs.user_N, pairs.positive_N)
            loss_N, penalty_N = weight_N * loss_N, weight_N * penalty_N
        with torch.no_grad():
            studied, some = answers[-1], slice(_HARDNESS_OF)
            timestep_NK = studied.timestep_BK if studied.timestep_BK is None else studied.timestep_BK[:, some]
            statistics = StepStatistics.of(
                loss_N,
                penalty_N,
                scores.positive_N,
                scores.negatives[-1][:, some],
                studied.mask_BK[:, some],
                timestep_NK,
                self.loss.temperature,
            )
        return (loss_N + penalty_N).sum(), statistics

    def _sure_score(self, model: BaseModel) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The score without dropout, unless its gradient is wanted: what a sampler compares has to hold when
        it asks again."""

        def score(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                return model.score(user_BD, item_BKD)
            training = [part for part in self.model.modules() if part.training]
            for part in training:
                part.training = False
            try:
                return model.score(user_BD, item_BKD)
            finally:
                for part in training:
                    part.training = True

        return score

    def _pairs(
        self,
        model: BaseModel,
        user_B: torch.Tensor,
        item: torch.Tensor,
        row_B: torch.Tensor,
        key: tuple[int, ...],
        by_id: TablePairs | None,
    ) -> tuple[dict[str, torch.Tensor], Pairs]:
        """The model's input, and the pairs in it: all positions of all histories at once."""
        if item.dim() == 1:
            batch = {"user": user_B}
            reads_vectors = [
                is_custom(name) or getattr(sampler, "reads_vectors", True)
                for name, sampler in zip(self.sampler_names, self.samplers, strict=True)
            ]
            if by_id is None or any(reads_vectors):
                return batch, Pairs(model.users(batch), model.items(item), user_B, item, row_B)
            nothing_N0 = torch.empty(len(user_B), 0, device=user_B.device)
            return batch, Pairs(nothing_N0, nothing_N0, user_B, item, row_B)
        rng = RowRng(row_B, *key, _MASKS, device=item.device)
        history_BL, target_BL = training_positions(self.model, item, self.targets, rng)
        batch = {"user": user_B, "history": history_BL}
        user_BLD = model.users(batch)
        if user_BLD.shape[:-1] != history_BL.shape:
            raise AdarError(
                f"model.name {self.config.model.name}: users() returns the shape {list(user_BLD.shape)} for "
                f"histories of shape {list(history_BL.shape)}; return [B, L, D], the user as of each position"
            )
        of_N, at_N = (target_BL != PADDING).nonzero(as_tuple=True)
        positive_N = target_BL[of_N, at_N]
        return batch, Pairs(
            user_BLD[of_N, at_N],
            model.items(positive_N),
            user_B[of_N],
            positive_N,
            row_B[of_N.cpu()] * target_BL.shape[1] + at_N.cpu(),
        )

    def _ask(self, number: int, pairs: Pairs, context: SamplingContext, rng: RowRng) -> Negatives:
        """A sampler's negatives; the errors of a custom one name it."""
        sampler, name = self.samplers[number], self.sampler_names[number]
        if not is_custom(name):
            return sampler(pairs.user_ND, pairs.positive_ND, context, rng)
        whom = f"sampler.name {name}: "
        negatives = blamed(whom, sampler)(pairs.user_ND, pairs.positive_ND, context, rng)
        if not isinstance(negatives, Negatives):
            what = type(negatives).__name__
            raise AdarError(f"{whom}returns a {what}; return adar_ray.samplers.base.Negatives")
        return _checked(whom, negatives, len(pairs.user_N), context)

    def _scores(
        self, model: BaseModel, pairs: Pairs, answers: list[Negatives], by_id: TablePairs | None
    ) -> Scores:
        known: list[torch.Tensor] = []
        penalty_N = None
        if by_id is None:
            positive_N = model.score(pairs.user_ND, pairs.positive_ND[:, None]).squeeze(1)
        else:
            # In one pass with the first sampler's negatives, if each row has items of its own. A custom
            # sampler may have changed their vectors, unless nobody has made them.
            negative_NK = answers[0].item_BK
            is_own = (
                negative_NK is not None
                and len(negative_NK) == len(pairs.user_N)
                and answers[0].score_BK is None
                and (not is_custom(self.sampler_names[0]) or _is_unmade(answers[0]))
            )
            if negative_NK is None or not is_own:
                negative_NK = pairs.user_N.new_empty(len(pairs.user_N), 0)
            positive_N, score_NK, penalty_N = by_id.terms(pairs.user_N, pairs.positive_N, negative_NK)
            known = [score_NK] if is_own else []
        others = [
            model.score(pairs.user_ND, negatives.vector_BKD)
            if negatives.score_BK is None
            else negatives.score_BK
            for negatives in answers[len(known) :]
        ]
        single = [in_single(score) for score in (positive_N, *known, *others)]
        return Scores(single[0], single[1:], penalty_N, len(known))

    def _check_shapes(self, scores: Scores, answers: list[Negatives]) -> None:
        """Refuse masks of another shape than their negatives; they might fit by broadcasting."""
        for name, score_NK, negatives in zip(self.sampler_names, scores.negatives, answers, strict=True):
            masks, found = list(negatives.mask_BK.shape), list(score_NK.shape)
            if masks != found:
                raise AdarError(
                    f"sampler.name {name}: has a mask_BK of shape {masks} for negatives of shape {found}; "
                    "both have to be [B, K]"
                )

    def _loss(self, scores: Scores, answers: list[Negatives]) -> torch.Tensor:
        """The loss of the ordinary negatives, and BPR's loss of generated negatives that join them.

        A generated negative shares a direction with its positive. A loss that looked at its score alone would
        push the user away from both, so each is compared with its positive. A softmax pulls the user back by
        itself: there the pair only pushes. Of active users, who may like what is pushed down, it counts less,
        and pulls as well. docs/method.md says why.
        """
        ordinary, positive_N = answers[0], scores.positive_N
        loss_N = self.loss.function(positive_N, scores.negatives[0], ordinary.mask_BK, ordinary.log_q_BK)
        shape = getattr(loss_N, "shape", None)
        if shape != positive_N.shape:
            what = type(loss_N).__name__ if shape is None else f"tensor of shape {list(shape)}"
            raise AdarError(
                f"loss.name {self.config.loss.name}: returns a {what} for {counted(len(positive_N), 'row')}; "
                "return a number for each row"
            )
        if len(answers) > 1:
            scale, kept_N = self.loss.temperature, answers[1].kept_B
            beside_N, weight = positive_N, self.config.adar.weight
            if self.loss.is_softmax and kept_N is not None:
                beside_N = torch.where(kept_N < 1, positive_N, positive_N.detach())
                weight = weight * kept_N
            joined_N = bpr(beside_N / scale, scores.negatives[1] / scale, answers[1].mask_BK)
            loss_N = loss_N + weight * joined_N
        return loss_N

    def _penalty(
        self,
        batch: dict[str, torch.Tensor],
        pairs: Pairs,
        scores: Scores,
        answers: list[Negatives],
    ) -> torch.Tensor:
        """`[N]`: half the squared lengths of a pair's vectors, and the mean over its negatives'; a single 0
        without `loss.l2`.

        Generated negatives count by the items mixed into them: an item that is only ever pushed down has to
        be held back as well, or it would run away.
        """
        if not self.config.loss.l2:
            return scores.positive_N.new_zeros(())
        l2_vectors = getattr(self.model, "l2_vectors", None)
        if "history" in batch:  # a hidden state is not a parameter
            item_ND = l2_vectors(batch, pairs.positive_N)[1] if l2_vectors else pairs.positive_ND
            penalty_N = _half_square(item_ND)
        elif scores.penalty_N is not None:
            penalty_N, answers = scores.penalty_N, answers[scores.penalized :]
        elif l2_vectors:
            user_ND, item_ND = l2_vectors(batch, pairs.positive_N)
            penalty_N = _half_square(user_ND) + _half_square(item_ND)
        else:
            penalty_N = _half_square(pairs.user_ND) + _half_square(pairs.positive_ND)

        for negatives in answers:
            source = negatives.source
            if source is not None:  # each item of the pool once, however many negatives are made of it
                penalty_P = self._item_penalty(batch, source.item_P, source)
                penalty_N = penalty_N + source.means(penalty_P)
            elif negatives.item_BK is not None:
                penalty_N = penalty_N + self._item_penalty(batch, negatives.item_BK, negatives).mean(1)
        return penalty_N

    def _item_penalty(
        self, batch: dict[str, torch.Tensor], item: torch.Tensor, known: Source | Negatives
    ) -> torch.Tensor:
        """Half the squared lengths of what the L2 penalty holds back of items, in the shape of their ids."""
        by_id: TablePairs | None = getattr(self.model, "pairs", None)
        if by_id is not None:
            return by_id.item_squares(item)
        l2_vectors = getattr(self.model, "l2_vectors", None)
        if l2_vectors:
            return _half_square(l2_vectors(batch, item)[1])
        return _half_square(known.vector_PD if isinstance(known, Source) else known.vector_BKD)


def _is_unmade(negatives: Negatives) -> bool:
    return isinstance(negatives, LazyNegatives) and negatives.is_unmade


def _checked(whom: str, negatives: Negatives, rows: int, context: SamplingContext) -> Negatives:
    """A custom sampler's answer. Masked ids out of range become 0, because compiled loops follow them, too.

    Raises:
        AdarError: it is not as `Negatives` says.
    """
    mask_BK, item_BK, is_unmade = negatives.mask_BK, negatives.item_BK, _is_unmade(negatives)
    is_mask = isinstance(mask_BK, torch.Tensor) and mask_BK.dtype == torch.bool and mask_BK.dim() == 2
    if not is_mask or len(mask_BK) != rows or (rows and not mask_BK.shape[1]):
        raise AdarError(
            f"{whom}has a mask_BK of {_kind(mask_BK)}; return bool of shape [{rows}, K], and K of 1 or more"
        )
    whole, shared = mask_BK.shape, (1, mask_BK.shape[1])
    if item_BK is not None:
        is_item = isinstance(item_BK, torch.Tensor) and item_BK.dtype == torch.int64
        if not is_item or item_BK.shape not in (whole, shared):
            raise AdarError(
                f"{whom}has a mask_BK of shape {list(whole)} for an item_BK of {_kind(item_BK)}; return "
                "[B, K] for int64 of shape [B, K] or, if all rows share them, [1, K]"
            )
    if not is_unmade and negatives.score_BK is None:
        vector_BKD = negatives.vector_BKD
        is_vector = isinstance(vector_BKD, torch.Tensor) and vector_BKD.dim() == 3
        if not is_vector or vector_BKD.shape[:2] not in (whole, shared):
            raise AdarError(
                f"{whom}has a mask_BK of shape {list(whole)} for a vector_BKD of {_kind(vector_BKD)}; return "
                "[B, K] for [B, K, D] or, if all rows share them, [1, K, D]"
            )
    if item_BK is None or item_BK.is_cuda:  # which would have to be waited for, and stops by itself
        return negatives
    is_inside_BK = (item_BK >= 0) & (item_BK < context.n_items)
    if is_inside_BK.all():
        return negatives
    wrong_N = item_BK.expand(whole)[mask_BK & ~is_inside_BK]
    if len(wrong_N):
        raise AdarError(
            f"{whom}has item {int(wrong_N[0])} in item_BK where mask_BK is True; ids run from 0 to "
            f"{context.n_items - 1}"
        )
    sure_BK = item_BK.where(is_inside_BK, 0)
    known: dict[str, Any] = {"item_BK": sure_BK}
    if is_unmade:
        known["vector_BKD"] = lambda: context.vectors(sure_BK)
    return replace(negatives, **known)


def _kind(value: Any) -> str:
    """What a message says of a part of an answer."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"


def _half_square(vector: torch.Tensor) -> torch.Tensor:
    with torch.autocast(vector.device.type, enabled=False):
        return _HalfSquare.apply(in_single(vector))


class _HalfSquare(torch.autograd.Function):
    """Half the squared length of each vector. Its gradient is the vector; autograd takes four passes."""

    @staticmethod
    def forward(ctx: Any, vector: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(vector)
        flat_ND = vector.detach().flatten(0, -2)
        return 0.5 * dot_score(flat_ND, flat_ND[:, None]).view(vector.shape[:-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (vector,) = ctx.saved_tensors
        return gradient[..., None] * vector

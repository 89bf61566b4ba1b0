"""The ADAR sampler: negatives that exist in no catalog, as hard as the positive's score calls for.

The idea is that of "Adaptive Diffusion-based Augmentation for Recommendation" (arXiv 2601.01448): diffuse the
positive into noise and stop at the transition point, chosen per pair by a score-aware function. The paper's
exact formulas and settings are not public. Those below are this project's own derivation, documented in
docs/method.md.

Legend: B rows of the batch, K negatives per row, M candidates per negative, P vectors of the pool, D
dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from adar_ray import kernels
from adar_ray.adar.noise import NOISES, Pool
from adar_ray.adar.transition import diffuse, score_aware_boundary, search_angle, transition_angle
from adar_ray.component import SamplerComponent, Settings, setting
from adar_ray.distributed import sum_over_workers
from adar_ray.models.protocol import dot_score
from adar_ray.models.table import Gradients, Table
from adar_ray.rng import RowRng
from adar_ray.samplers.base import (
    BaseSampler,
    LazyNegatives,
    Negatives,
    SamplingContext,
    Source,
    excluded_items,
    need,
)

_TINY = 1e-6
_QUARTER = math.pi / 2  # all the way from a positive to its noise
_FEWEST = 4  # candidates that the most active users still get, unless M is lower
_SOFTER = 0.25  # power by which the boundary falls with the candidates
_ROUNDING = 1e-3  # what rounding may do to a linear score in single precision, in the user's units


class AdarSettings(Settings):
    """ADAR: positives diffused into noise up to their transition point."""

    beta: float = setting(
        0.9,
        "The boundary as a share of the positive's score: the higher, the harder the negatives.",
        search={"uniform": [0.5, 0.95]},
        gt=0,
        le=1,
    )
    gamma: float = setting(
        1.0,
        "Slope of the boundary over the positive's score: 1 is a fixed share of it.",
        search={"uniform": [0.5, 1]},
        ge=0.5,
        le=1,
    )
    candidates: int = setting(
        16,
        "M: the noise is the hardest of this many vectors of the pool; 1 is random noise.",
        search={"choice": [1, 2, 4, 8, 16, 32]},
        ge=1,
        le=65_536,
    )
    hidden_positives: float = setting(
        16.0,
        "Hidden positives to expect per seen item; active users get fewer candidates. 0 turns this off.",
        search={"choice": [0, 4, 16, 64]},
        ge=0,
        le=1e6,
    )
    negatives: int = setting(4, "K: negatives per positive.", search={"integer": [1, 8]}, ge=1, le=4_096)
    pool: int = setting(
        256,
        "Noise vectors that the batch shares. With fewer than negatives times candidates, negatives of a "
        "positive share candidates, and often repeat.",
        search={"choice": [256, 512, 1024]},
        ge=2,
        le=2**20,
    )
    noise: Literal["catalog", "isotropic"] = setting(
        "catalog",
        "What positives are diffused into: random items, or standard normal vectors as in the paper's text.",
    )
    joins: Literal["uniform", "popularity", "in_batch"] = setting(
        "uniform", "The ordinary negatives that generated ones join, with any loss but bpr and cross_entropy."
    )
    weight: float = setting(
        0.5,
        "Weight of generated negatives next to ordinary ones, with any loss but bpr. Next to a softmax "
        "active users get less of it.",
        search={"loguniform": [0.2, 1.5]},
        gt=0,
        le=1e6,
    )


class AdarSampler(BaseSampler):
    """Diffuses each positive toward the hardest of M noise vectors, up to its transition point.

    The transition point has a closed form if the score is linear in the item's vector, and is found by
    bisection if the score is a network. The gradient reaches the user and, through the noise, a real item;
    the positive enters detached, so that its own diffused copy never pushes it away.

    Settings `joins` and `weight` are for the training step, which combines these negatives with others.
    """

    reads_vectors = False
    r_mean: torch.Tensor
    momentum = 0.99  # of the running mean of the positives' scores, to which `gamma` refers

    def __init__(self, settings: AdarSettings = AdarSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.noise = NOISES[settings.noise]
        self.register_buffer("r_mean", torch.tensor(0.0))

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]` with their timesteps.

        With `torch.distributed` initialized and `gamma != 1`, the running mean covers all workers: then every
        worker has to call the sampler equally often.
        """
        settings = self.settings
        pool = self.noise(context, settings.pool, rng)
        pool_PD, mean_D = pool.vector_PD, pool.vector_PD.detach().mean(0)
        if context.pairs is None and pool_PD.shape[1:] != positive_BD.shape[1:]:
            own, others = list(pool_PD.shape[1:]), list(positive_BD.shape[1:])
            raise ValueError(
                f"SamplingContext.vectors gives items of {own} numbers, and positive_BD has {others}; a "
                "positive is the vector of its item"
            )
        compiled = context.score is dot_score and kernels.runs_compiled(user_BD, positive_BD, pool_PD)
        users, positives = _Rows.of(user_BD), _Rows.of(positive_BD)
        if context.pairs is not None:
            users = _Rows(context.pairs.users.weight, need(context.user_B, "user_B"), context.pairs.users)
            positive_B = need(context.positive_B, "positive_B")
            positives = _Rows(context.pairs.items.weight, positive_B, context.pairs.items)
        with torch.no_grad():
            M_B = self._candidates(user_BD.new_empty(len(user_BD)), context)
            kept_B = M_B / settings.candidates
            offset_B = rng.integers(settings.pool, 1, stream=1)[:, 0]
            if compiled:
                chosen = self._choose_compiled(users, positives, pool, mean_D, context, offset_B, M_B)
            else:
                chosen = self._choose(user_BD, positive_BD, pool, context, offset_B, M_B)
            r_B1 = chosen.in_units(chosen.positive_B1)
            beta_B1 = settings.beta * kept_B[:, None] ** _SOFTER
            z_B1 = score_aware_boundary(r_B1, beta_B1, settings.gamma, self._running_mean(r_B1))

        noise_BK = chosen.noise_BK

        def vectors(phi_BK: torch.Tensor) -> torch.Tensor:
            noise_BKD = pool_PD.index_select(0, noise_BK.flatten()).unflatten(0, noise_BK.shape)
            return diffuse(positives.vectors().detach()[:, None], noise_BKD, mean_D, phi_BK)

        known: dict[str, Any] = {
            "mask_BK": chosen.found_BK,
            "kept_B": None if context.seen_count_B is None else kept_B,
            "source": None if pool.item_P is None else Source(pool.item_P, pool_PD, noise_BK),
        }
        if compiled:
            timestep_BK, cos_BK, sin_BK, value_BK = _stop_at_boundary(chosen, z_B1)
            diffused = (mean_D, noise_BK, cos_BK, sin_BK)
            score_BK = _DiffusedScores.apply(users.table_ND, pool_PD, users, positives, diffused, value_BK)

            def make_vectors() -> torch.Tensor:
                return vectors(timestep_BK * _QUARTER)

            return LazyNegatives(make_vectors, score_BK=score_BK, timestep_BK=timestep_BK, **known)

        def scores(vector_BKD: torch.Tensor) -> torch.Tensor:
            """In the user's units."""
            return chosen.in_units(context.score(user_BD, vector_BKD))

        with torch.no_grad():
            b_BK = chosen.in_units(chosen.score_BK)
            phi_BK = self._transition(r_B1, b_BK, z_B1)
            if context.score is not dot_score:
                is_linear_B1 = self._is_linear(scores(mean_D[None, None]))
                if not is_linear_B1.all():  # row by row: others in the batch do not matter
                    found_BK = search_angle(lambda phi_BK: scores(vectors(phi_BK)), b_BK, z_B1)
                    phi_BK = torch.where(is_linear_B1, phi_BK, found_BK)
        return Negatives(vectors(phi_BK), timestep_BK=phi_BK / _QUARTER, **known)

    @staticmethod
    def _is_linear(off_B1: torch.Tensor) -> torch.Tensor:
        """Whether the mean vector's scores, in the users' units, are the means of the scores, row by row.

        With a linear score they are, and hardly with any other.
        """
        return off_B1.abs() <= max(_ROUNDING, 8 * torch.finfo(off_B1.dtype).eps)

    def _transition(self, r_B1: torch.Tensor, b_BK: torch.Tensor, z_B1: torch.Tensor) -> torch.Tensor:
        """Angles `[B, K]` of the transition points of a linear score."""
        return transition_angle(r_B1.expand_as(b_BK), b_BK, z_B1.expand_as(b_BK))

    def _candidates(self, like_B: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        """`[B]`: M, or fewer for active users.

        A share 1/M of the catalog is harder than the hardest of M. A user whose hidden positives are expected
        to have a larger share gets fewer candidates in proportion.
        """
        if context.seen_count_B is None:
            return torch.full_like(like_B, self.settings.candidates)
        expected_B = self.settings.hidden_positives * context.seen_count_B / context.n_items
        hidden_B = expected_B.to(like_B.dtype)
        return (1 / hidden_B.clamp(max=1 / _FEWEST)).clamp(max=self.settings.candidates)

    def _choose(
        self,
        user_BD: torch.Tensor,
        positive_BD: torch.Tensor,
        pool: Pool,
        context: SamplingContext,
        offset_B: torch.Tensor,
        M_B: torch.Tensor,
    ) -> _Noise:
        """The hardest of the first M_B unseen members of K windows into the pool, one beside the other.

        The pool is in random order, so a window of it is as random as M draws. Windows begin where the row's
        random number says.
        """
        K, M, P = self.settings.negatives, self.settings.candidates, self.settings.pool
        score_BP = context.score(user_BD, pool.vector_PD[None])
        mean_B1 = score_BP.mean(1, keepdim=True)
        deviation_B1 = (score_BP - mean_B1).square().mean(1, keepdim=True).sqrt()
        member_KM = torch.arange(K * M, device=score_BP.device).view(K, M)
        at_BKM = (offset_B[:, None, None] + member_KM) % P
        is_out_BKM = (member_KM[0] >= M_B[:, None].floor())[:, None].expand_as(at_BKM)
        if pool.item_P is not None:
            seen_BP = excluded_items(context, pool.item_P, len(user_BD))
            is_out_BKM = is_out_BKM | seen_BP.gather(1, at_BKM.flatten(1)).view_as(at_BKM)
        score_BKM = score_BP.gather(1, at_BKM.flatten(1)).view_as(at_BKM)
        best_BK, at_BK = score_BKM.masked_fill(is_out_BKM, -torch.inf).max(2)
        noise_BK = at_BKM.gather(2, at_BK[..., None])[..., 0]
        return _Noise(
            noise_BK,
            best_BK > -torch.inf,
            score_BP.gather(1, noise_BK),
            context.score(user_BD, positive_BD[:, None]),
            mean_B1,
            deviation_B1.clamp_min(_TINY),
        )

    def _choose_compiled(
        self,
        users: _Rows,
        positives: _Rows,
        pool: Pool,
        mean_D: torch.Tensor,
        context: SamplingContext,
        offset_B: torch.Tensor,
        M_B: torch.Tensor,
    ) -> _Noise:
        """`_choose` that scores only the vectors it chooses among, by dot products."""
        seen_BP = torch.empty(len(offset_B), 0, dtype=torch.bool)
        if pool.item_P is not None:
            seen_BP = excluded_items(context, pool.item_P, len(offset_B))
        noise_BK = offset_B.new_empty(len(offset_B), self.settings.negatives)
        found_BK = torch.empty_like(noise_BK, dtype=torch.bool)
        score_BK = mean_D.new_empty(noise_BK.shape)
        mean_B1, positive_B1 = mean_D.new_empty(2, len(offset_B), 1)
        kernels.hardest_of_windows(
            *_arrays(*users[:2], *positives[:2], pool.vector_PD, mean_D, seen_BP, offset_B, M_B),
            self.settings.candidates,
            *_arrays(noise_BK, found_BK, score_BK, mean_B1[:, 0], positive_B1[:, 0]),
        )
        unit_B1 = None
        if self.settings.gamma != 1:
            with torch.autocast(mean_D.device.type, enabled=False):
                off_PD = pool.vector_PD - mean_D
                user_BD = users.vectors()
                square_BD = (user_BD @ (off_PD.T @ off_PD / len(off_PD))) * user_BD
            unit_B1 = square_BD.sum(1, keepdim=True).clamp_min(0).sqrt().clamp_min(_TINY)
        return _Noise(noise_BK, found_BK, score_BK, positive_B1, mean_B1, unit_B1)

    def _running_mean(self, r_B1: torch.Tensor) -> torch.Tensor:
        """The running mean of r over batches and workers, this batch included."""
        if self.settings.gamma == 1 or not self.training:  # there it cancels out
            return self.r_mean
        # In the buffer's own precision: bfloat16 could not count the rows of a batch.
        total = torch.stack([r_B1.sum(dtype=self.r_mean.dtype), self.r_mean.new_tensor(float(len(r_B1)))])
        sum_over_workers([total])
        first, counts = self.r_mean == 0, (total[1] > 0) & total[0].isfinite()  # training may skip the batch
        batch_mean = torch.where(counts, total[0] / total[1].clamp_min(1), self.r_mean)
        self.r_mean.copy_(torch.where(first, batch_mean, self.r_mean.lerp(batch_mean, 1 - self.momentum)))
        return self.r_mean


@dataclass(frozen=True)
class _Noise:
    """What positives are diffused into, and scores.

    Attributes:
        noise_BK, found_BK: positions in the pool, and whether they count.
        score_BK, positive_B1, mean_B1: scores of the noise, of the positive and of the pool's mean.
        unit_B1: standard deviation of the pool's scores; None where it cancels out, which it does for
            `gamma` 1.
    """

    noise_BK: torch.Tensor
    found_BK: torch.Tensor
    score_BK: torch.Tensor
    positive_B1: torch.Tensor
    mean_B1: torch.Tensor
    unit_B1: torch.Tensor | None

    def in_units(self, score: torch.Tensor) -> torch.Tensor:
        """Scores `[B, ...]` in the user's units."""
        above = score - self.mean_B1
        return above if self.unit_B1 is None else above / self.unit_B1


class _Rows(NamedTuple):
    """Vectors of the batch's rows: rows of a tensor.

    Attributes:
        table_ND, row_B: the tensor, and which of its rows.
        owner: the table that collects gradients of its rows, if it is one.
    """

    table_ND: torch.Tensor
    row_B: torch.Tensor
    owner: Table | None

    @classmethod
    def of(cls, vector_BD: torch.Tensor) -> _Rows:
        return cls(vector_BD, torch.arange(len(vector_BD)), None)

    def vectors(self) -> torch.Tensor:
        """`[B, D]`."""
        return self.table_ND if self.owner is None else self.owner(self.row_B)

    def gradient(self, gradient_BD: torch.Tensor) -> torch.Tensor | None:
        """What autograd passes on: nothing if the table collects it."""
        if self.owner is None or self.owner.gradients is None:
            return gradient_BD
        self.owner.gradients.append(Gradients(self.row_B, gradient_BD))
        return None


def _arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _stop_at_boundary(noise: _Noise, z_B1: torch.Tensor) -> list[torch.Tensor]:
    """Timesteps, cosines and sines of their angles, and scores there, `[B, K]`."""
    answers = [torch.empty_like(noise.score_BK) for _ in range(4)]
    boundary_B1 = z_B1 if noise.unit_B1 is None else z_B1 * noise.unit_B1
    of_rows = (tensor[:, 0] for tensor in (noise.mean_B1, noise.positive_B1, boundary_B1))
    kernels.stop_at_boundary(*_arrays(noise.score_BK, *of_rows, *answers))
    return answers


class _DiffusedScores(torch.autograd.Function):
    """Dot products of users with diffused positives, whose values are known."""

    @staticmethod
    def forward(
        ctx: Any,
        user_ND: torch.Tensor,
        pool_PD: torch.Tensor,
        users: _Rows,
        positives: _Rows,
        diffused: tuple[torch.Tensor, ...],
        value_BK: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(user_ND, pool_PD, positives.table_ND)
        ctx.users, ctx.positives, ctx.diffused = users, positives, diffused
        return value_BK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BK: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        user_ND, pool_PD, positive_ND = ctx.saved_tensors
        users, positives = ctx.users, ctx.positives
        of_user, of_pool = user_ND.new_empty(len(gradient_BK), user_ND.shape[1]), torch.zeros_like(pool_PD)
        vectors = user_ND, users.row_B, positive_ND, positives.row_B, pool_PD
        kernels.diffused_backward(*_arrays(*vectors, *ctx.diffused, gradient_BK, of_user, of_pool))
        return users.gradient(of_user), of_pool, *(None,) * 4


COMPONENT = SamplerComponent(
    name="adar",
    settings=AdarSettings,
    build=lambda inputs, settings: AdarSampler(settings),
    joins=lambda settings: settings.joins,
)

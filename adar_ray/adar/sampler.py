"""The ADAR sampler: negatives that exist in no catalog, as hard as the positive's score calls for.

The idea is that of "Adaptive Diffusion-based Augmentation for Recommendation" (arXiv 2601.01448):
diffuse the positive into noise and stop at the transition point, chosen per pair by a score-aware
function. The paper's formulas and settings are not public. Those below are this project's own
derivation, documented in docs/method.md.

Legend: B rows of the batch, K negatives a row, M candidates a negative, P items of the pool, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from adar_ray.adar.noise import NOISES
from adar_ray.adar.schedule import Schedule, diffuse
from adar_ray.adar.transition import score_aware_boundary, search_angle, transition_angle
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives

_TINY = 1e-6
_LEAST = 4  # candidates that users who have seen much still get, where M is no lower
_SOFTER = 0.25  # power by which the boundary falls with the candidates
_ROUNDING = 1e-3  # what rounding may do to a linear score in single precision, in the user's units


class AdarSampler(nn.Module):
    """Diffuses each positive toward the hardest of M noise vectors, up to its transition point.

    The transition point is found in closed form where the score is linear in the item's vector, and by
    bisection where it is a network. The gradient reaches the user and, through the noise, a real item; the
    positive enters detached, so that its own diffused copy never pushes it away.

    Args:
        beta: how near to the positive's score the boundary lies, as a share of it; 0.5 to 0.95.
        gamma: slope of the boundary over the positive's score; -1 to 1.
        M: the noise is the hardest of M vectors of the pool; 1 to 32.
        hidden: how many hidden positives to expect for each item that a user has seen; 0 for none. They are
            among his highest scores, so that for users who have seen much of the catalog M is lower, and
            with it the boundary.
        K: negatives a positive; 1 to 8.
        phi_min: never nearer to the positive than this share of the way to noise.
        pool: noise vectors shared by the batch and scored by one matrix product.
        noise: where they come from, one of `noise.NOISES`: "catalog" takes random items.
        schedule: which steps there are between positive and noise, one of `schedule.SIGNALS`.
        T: their number.
        warmup: epochs in which negatives are plain noise: t = T and M = 1, with the catalog random items.
        attach: whether the gradient also reaches the positive, through its diffused copy.
        momentum: of the running mean of the positives' scores, which `gamma` refers to.
        dim: D, which Gaussian noise has to know.
    """

    def __init__(
        self,
        beta: float = 0.9,
        gamma: float = 1.0,
        M: int = 16,
        hidden: float = 16.0,
        K: int = 4,
        phi_min: float = 0.1,
        pool: int = 256,
        noise: str = "catalog",
        schedule: str = "cosine",
        T: int = 1000,
        warmup: int = 0,
        attach: bool = False,
        momentum: float = 0.99,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.beta, self.gamma, self.M, self.hidden, self.K = beta, gamma, M, hidden, K
        self.phi_min, self.pool, self.warmup, self.attach = phi_min, pool, warmup, attach
        self.momentum = momentum
        self.noise, self.schedule = NOISES[noise](dim), Schedule(schedule, T)
        self.register_buffer("r_mean", torch.tensor(0.0))

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]` with their timesteps as shares of T.

        With `torch.distributed` initialized and `gamma != 1`, the running mean is taken over all
        workers: then every worker has to call the sampler equally often.
        """
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        pool_PD, pool_P = self.noise(items, self.pool, rng)
        is_plain = items.epoch <= self.warmup
        with torch.no_grad():
            score_BP = items.score(user_BD, pool_PD[None])
            mean_B1 = score_BP.mean(1, keepdim=True)
            deviation_B1 = (score_BP - mean_B1).square().mean(1, keepdim=True).sqrt().clamp_min(_TINY)
            M_B1 = self._candidates(mean_B1, items)
            is_softened_B = M_B1[:, 0] < self.M
            if is_plain:
                M_B1 = torch.ones_like(M_B1)
            noise_BK, mask_BK = self._choose_noise(score_BP, pool_P, items, rng, M_B1)

            r_B1 = (items.score(user_BD, positive_BD[:, None]) - mean_B1) / deviation_B1
            b_BK = (score_BP.gather(1, noise_BK) - mean_B1) / deviation_B1
            beta_B1 = self.beta * (M_B1 / self.M) ** _SOFTER
            z_B1 = score_aware_boundary(r_B1, beta_B1, self.gamma, self._running_mean(r_B1))

        positive_B1D = (positive_BD if self.attach else positive_BD.detach())[:, None]
        noise_BKD = pool_PD.index_select(0, noise_BK.flatten()).unflatten(0, noise_BK.shape)
        mean_D = pool_PD.detach().mean(0)

        def scores(vector_BKD: torch.Tensor) -> torch.Tensor:
            """In the user's units."""
            return (items.score(user_BD, vector_BKD) - mean_B1) / deviation_B1

        def score_at(phi_BK: torch.Tensor) -> torch.Tensor:
            return scores(diffuse(positive_B1D, noise_BKD, mean_D, phi_BK))

        with torch.no_grad():
            if is_plain:
                phi_BK = torch.full_like(b_BK, math.pi / 2)
            else:
                # A linear score, and hardly any other, gives the mean vector the mean of the scores.
                off_B1 = scores(mean_D[None, None])
                is_linear = (off_B1.abs() <= max(_ROUNDING, 8 * torch.finfo(off_B1.dtype).eps)).all()
                phi_BK = self._transition(r_B1, b_BK, z_B1, None if is_linear else score_at)
            t_BK = self.schedule.timestep(phi_BK.clamp_min(self.phi_min * math.pi / 2))
            phi_BK = self.schedule.angle(t_BK).to(phi_BK.dtype)

        vector_BKD = diffuse(positive_B1D, noise_BKD, mean_D, phi_BK)
        source = None if pool_P is None else (pool_P[noise_BK], noise_BKD)
        return Negatives(
            vector_BKD,
            mask_BK,
            timestep_BK=t_BK.to(phi_BK.dtype) / self.schedule.T,
            softened_B=None if items.seen_count_B is None else is_softened_B,
            source=source,
        )

    def _transition(
        self,
        r_B1: torch.Tensor,
        b_BK: torch.Tensor,
        z_B1: torch.Tensor,
        score_at: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> torch.Tensor:
        """Angles `[B, K]` of the transition points; `score_at` is None where the score is linear."""
        if score_at is None:
            return transition_angle(r_B1.expand_as(b_BK), b_BK, z_B1.expand_as(b_BK))
        return search_angle(score_at, b_BK, z_B1)

    def _candidates(self, like_B1: torch.Tensor, items: Items) -> torch.Tensor:
        """`[B, 1]`: M, or fewer for users who have seen much.

        A share 1/M of the catalog is harder than the hardest of M. Where hidden positives have a larger
        share, the hardest of so many fewer is taken.
        """
        if items.seen_count_B is None:
            return torch.full_like(like_B1, self.M)
        hidden_B1 = (self.hidden * items.seen_count_B / items.n_items)[:, None].to(like_B1.dtype)
        return (1 / hidden_B1.clamp(max=1 / _LEAST)).clamp(max=self.M)

    def _choose_noise(
        self,
        score_BP: torch.Tensor,
        pool_P: torch.Tensor | None,
        items: Items,
        rng: RowRng,
        M_B1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions in the pool `[B, K]` of the hardest of M unseen candidates, and where there is one."""
        if items.seen is not None and pool_P is not None:
            score_BP = score_BP.masked_fill(items.seen(pool_P), -torch.inf)
        candidate_BKM = rng.integers(self.pool, self.K * self.M, stream=1).unflatten(1, (self.K, self.M))
        score_BKM = score_BP[:, None].expand(-1, self.K, -1).gather(2, candidate_BKM)
        is_beyond_BKM = (score_BKM > -torch.inf).cumsum(2) > M_B1[..., None]
        best_BK, at_BK = score_BKM.masked_fill(is_beyond_BKM, -torch.inf).max(2)
        return candidate_BKM.gather(2, at_BK[..., None])[..., 0], best_BK > -torch.inf

    def _running_mean(self, r_B1: torch.Tensor) -> torch.Tensor:
        """The running mean of r over batches, this one included, over all workers."""
        if self.gamma == 1 or not self.training:  # there it cancels out
            return self.r_mean
        # In the buffer's own precision: bfloat16 could not count the rows of a batch.
        total = torch.stack([r_B1.sum(dtype=self.r_mean.dtype), self.r_mean.new_tensor(float(len(r_B1)))])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        no_rows, first = total[1] == 0, self.r_mean == 0
        batch_mean = torch.where(no_rows, self.r_mean, total[0] / total[1].clamp_min(1))
        self.r_mean.copy_(torch.where(first, batch_mean, self.r_mean.lerp(batch_mean, 1 - self.momentum)))
        return self.r_mean

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
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist

from adar_ray.adar.noise import NOISES
from adar_ray.adar.schedule import Schedule, diffuse
from adar_ray.adar.transition import score_aware_boundary, search_angle, transition_angle
from adar_ray.component import SamplerComponent, Settings, setting
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext

_TINY = 1e-6
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
        "Slope of the boundary over the positive's score: 1 a fixed share, 0 one boundary for all.",
        search={"uniform": [-1, 1]},
        ge=-3,
        le=3,
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
    )
    negatives: int = setting(4, "K: negatives per positive.", search={"integer": [1, 8]}, ge=1, le=4_096)
    phi_min: float = setting(
        0.1,
        "Stay at least this share of the way away from the positive.",
        search={"quantized": [0.0, 0.3, 0.05]},
        ge=0,
        le=1,
    )
    pool: int = setting(
        256, "Noise vectors that the batch shares.", search={"choice": [64, 128, 256, 512]}, ge=2, le=2**20
    )
    noise: Literal["catalog", "gaussian", "gaussian_diagonal", "isotropic"] = setting(
        "catalog",
        "What positives are diffused into: random items; Gaussian vectors with the catalog's mean and "
        "covariance, or its diagonal; vectors of mean 0 and variance 1.",
    )
    schedule: Literal["cosine", "linear", "sigmoid"] = setting(
        "cosine", "Where the timesteps lie between a positive and its noise."
    )
    timesteps: int = setting(1000, "T: number of timesteps.", ge=1, le=1_000_000)
    warmup: int = setting(0, "First epochs, in which negatives are plain noise.", ge=0, le=1_000_000)
    attach: bool = setting(
        False, "Let the gradient of a negative also push the positive that it was made from."
    )
    joins: Literal["uniform", "popularity", "in_batch"] = setting(
        "uniform", "The ordinary negatives that generated ones join, with bce and sampled_softmax."
    )
    weight: float = setting(
        0.5,
        "Weight of generated negatives beside ordinary ones, with any loss but bpr.",
        search={"loguniform": [0.2, 1.5]},
        gt=0,
    )


class AdarSampler(BaseSampler):
    """Diffuses each positive toward the hardest of M noise vectors, up to its transition point.

    The transition point has a closed form if the score is linear in the item's vector, and is found by
    bisection if the score is a network. The gradient reaches the user and, through the noise, a real item;
    the positive enters detached, so that its own diffused copy never pushes it away.

    Settings `joins` and `weight` are for the training step, which combines these negatives with others.

    Args:
        dim: D of item representations; only Gaussian noise needs it.
    """

    r_mean: torch.Tensor
    momentum = 0.99  # of the running mean of the positives' scores, to which `gamma` refers

    def __init__(self, settings: AdarSettings = AdarSettings(), dim: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.noise = NOISES[settings.noise](dim)
        self.schedule = Schedule(settings.schedule, settings.timesteps)
        self.register_buffer("r_mean", torch.tensor(0.0))

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]` with their timesteps as shares of T.

        With `torch.distributed` initialized and `gamma != 1`, the running mean covers all workers: then every
        worker has to call the sampler equally often.
        """
        settings = self.settings
        pool_PD, pool_P = self.noise(context, settings.pool, rng)
        is_plain = context.epoch <= settings.warmup
        with torch.no_grad():
            score_BP = context.score(user_BD, pool_PD[None])
            mean_B1 = score_BP.mean(1, keepdim=True)
            deviation_B1 = (score_BP - mean_B1).square().mean(1, keepdim=True).sqrt().clamp_min(_TINY)
            M_B1 = self._candidates(mean_B1, context)
            is_softened_B = M_B1[:, 0] < settings.candidates
            if is_plain:
                M_B1 = torch.ones_like(M_B1)
            noise_BK, mask_BK = self._choose_noise(score_BP, pool_P, context, rng, M_B1)

            r_B1 = (context.score(user_BD, positive_BD[:, None]) - mean_B1) / deviation_B1
            b_BK = (score_BP.gather(1, noise_BK) - mean_B1) / deviation_B1
            beta_B1 = settings.beta * (M_B1 / settings.candidates) ** _SOFTER
            z_B1 = score_aware_boundary(r_B1, beta_B1, settings.gamma, self._running_mean(r_B1))

        positive_B1D = (positive_BD if settings.attach else positive_BD.detach())[:, None]
        noise_BKD = pool_PD.index_select(0, noise_BK.flatten()).unflatten(0, noise_BK.shape)
        mean_D = pool_PD.detach().mean(0)

        def scores(vector_BKD: torch.Tensor) -> torch.Tensor:
            """In the user's units."""
            return (context.score(user_BD, vector_BKD) - mean_B1) / deviation_B1

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
            t_BK = self.schedule.timestep(phi_BK.clamp_min(settings.phi_min * math.pi / 2))
            phi_BK = self.schedule.angle(t_BK).to(phi_BK.dtype)

        vector_BKD = diffuse(positive_B1D, noise_BKD, mean_D, phi_BK)
        source = None if pool_P is None else (pool_P[noise_BK], noise_BKD)
        return Negatives(
            vector_BKD,
            mask_BK,
            timestep_BK=t_BK.to(phi_BK.dtype) / self.schedule.T,
            softened_B=None if context.seen_count_B is None else is_softened_B,
            source=source,
        )

    def _transition(
        self,
        r_B1: torch.Tensor,
        b_BK: torch.Tensor,
        z_B1: torch.Tensor,
        score_at: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> torch.Tensor:
        """Angles `[B, K]` of the transition points; `score_at` is None if the score is linear."""
        if score_at is None:
            return transition_angle(r_B1.expand_as(b_BK), b_BK, z_B1.expand_as(b_BK))
        return search_angle(score_at, b_BK, z_B1)

    def _candidates(self, like_B1: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        """`[B, 1]`: M, or fewer for active users.

        A share 1/M of the catalog is harder than the hardest of M. A user whose hidden positives are expected
        to have a larger share gets so many fewer candidates.
        """
        if context.seen_count_B is None:
            return torch.full_like(like_B1, self.settings.candidates)
        expected_B = self.settings.hidden_positives * context.seen_count_B / context.n_items
        hidden_B1 = expected_B[:, None].to(like_B1.dtype)
        return (1 / hidden_B1.clamp(max=1 / _FEWEST)).clamp(max=self.settings.candidates)

    def _choose_noise(
        self,
        score_BP: torch.Tensor,
        pool_P: torch.Tensor | None,
        context: SamplingContext,
        rng: RowRng,
        M_B1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions in the pool `[B, K]` of the hardest of M unseen candidates, and False where there is
        none."""
        K, M = self.settings.negatives, self.settings.candidates
        if context.seen is not None and pool_P is not None:
            score_BP = score_BP.masked_fill(context.seen(pool_P), -torch.inf)
        candidate_BKM = rng.integers(self.settings.pool, K * M, stream=1).unflatten(1, (K, M))
        score_BKM = score_BP[:, None].expand(-1, K, -1).gather(2, candidate_BKM)
        is_beyond_BKM = (score_BKM > -torch.inf).cumsum(2) > M_B1[..., None]
        best_BK, at_BK = score_BKM.masked_fill(is_beyond_BKM, -torch.inf).max(2)
        return candidate_BKM.gather(2, at_BK[..., None])[..., 0], best_BK > -torch.inf

    def _running_mean(self, r_B1: torch.Tensor) -> torch.Tensor:
        """The running mean of r over batches and workers, this batch included."""
        if self.settings.gamma == 1 or not self.training:  # there it cancels out
            return self.r_mean
        # In the buffer's own precision: bfloat16 could not count the rows of a batch.
        total = torch.stack([r_B1.sum(dtype=self.r_mean.dtype), self.r_mean.new_tensor(float(len(r_B1)))])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        no_rows, first = total[1] == 0, self.r_mean == 0
        batch_mean = torch.where(no_rows, self.r_mean, total[0] / total[1].clamp_min(1))
        self.r_mean.copy_(torch.where(first, batch_mean, self.r_mean.lerp(batch_mean, 1 - self.momentum)))
        return self.r_mean


COMPONENT = SamplerComponent(
    name="adar",
    settings=AdarSettings,
    build=lambda inputs, settings: AdarSampler(settings, inputs.vector_size),
    joins=lambda settings: settings.joins,
)

"""MixGCF: the positive mixed, hop by hop, with the hardest of a few random items.

Legend: B rows of the batch, K negatives per row, N candidates per negative, H hops, D dimensions.
"""

from __future__ import annotations

import torch

from adar_ray.component import SamplerComponent
from adar_ray.rng import RowRng, uniform_numbers
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, Source, need
from adar_ray.samplers.candidates import CandidateSettings, uniform_candidates

_SHARES = 100  # the stream of random numbers of the shares; the candidates have others


class MixGCFSettings(CandidateSettings):
    """MixGCF (Huang et al., KDD 2021): the positive mixed, hop by hop, with the hardest of a few items."""


class MixGCFSampler(BaseSampler):
    """Huang et al., "MixGCF: An Improved Training Method for Graph Neural Network-based Recommender Systems"
    (KDD 2021).

    Positive mixing (eq. 5): each candidate's vector takes a random share, uniform in (0, 1), of the
    positive's; all candidates take the same share at one hop. Hop mixing (eq. 6 and 7): at each hop the
    mixture with the highest score is taken, and the negative is the mean over hops. The gradient reaches the
    positive through its share.

    For a model without hops (no `context.layers`) it is positive mixing alone. Departs from the paper by
    using the model's own score if that is not an inner product, and from the authors' code by an L2 penalty
    on the item of the first hop instead of its mixture.
    """

    def __init__(self, settings: MixGCFSettings = MixGCFSettings()) -> None:
        super().__init__()
        self.settings = settings

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`, each chosen among candidates of its own. Hop mixing needs
        `context.positive_B`."""
        K, N = self.settings.negatives, self.settings.candidates
        item_BN, mask_BN = uniform_candidates(context, rng, K * N)
        item_BKN, mask_BKN = (x.unflatten(1, (K, N)) for x in (item_BN, mask_BN))
        hops = context.layers or (lambda item: context.vectors(item)[..., None, :])
        positive_BHD = (
            hops(need(context.positive_B, "positive_B")) if context.layers else positive_BD[:, None]
        )
        H = positive_BHD.shape[1]
        share_BKH = uniform_numbers(rng, K * H, _SHARES).unflatten(1, (K, H)).to(positive_BHD)
        with torch.no_grad():
            mixed_BKNHD = _mix(positive_BHD[:, None, None], hops(item_BKN), share_BKH[:, :, None])
            score_BKNH = context.score(user_BD, mixed_BKNHD.flatten(1, 3)).unflatten(1, (K, N, H))
            at_BKH = score_BKNH.masked_fill(~mask_BKN[..., None], -torch.inf).argmax(2)
            item_BKH = item_BKN.gather(2, at_BKH)
        # Each chosen item's vector at the hop it was chosen for: the diagonal of hops by hops.
        chosen_BKHD = hops(item_BKH).diagonal(dim1=2, dim2=3).transpose(2, 3)
        mixed_BKHD = _mix(positive_BHD[:, None], chosen_BKHD, share_BKH)
        first_BK = item_BKH[..., 0]
        at_BK = torch.arange(first_BK.numel(), device=first_BK.device).view_as(first_BK)
        first = Source(first_BK.flatten(), chosen_BKHD[..., 0, :].flatten(0, 1), at_BK)
        return Negatives(mixed_BKHD.mean(2), mask_BKN.any(2), source=first)


def _mix(positive: torch.Tensor, negative: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return share[..., None] * positive + (1 - share[..., None]) * negative


COMPONENT = SamplerComponent(
    name="mixgcf", settings=MixGCFSettings, build=lambda inputs, settings: MixGCFSampler(settings)
)

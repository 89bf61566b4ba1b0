"""Losses of a positive's score against its negatives' scores, one number a row.

Legend: B rows of the batch, K negatives a row.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus


def bpr(positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B]`: mean over the row's negatives of `softplus(s_negative - s_positive)`.

    Rendle et al. (UAI 2009), eq. 4: -ln sigmoid of the score difference. A row with no negative
    left by the mask costs nothing.
    """
    return (shares(mask_BK) * softplus(negative_BK - positive_B[:, None])).sum(1)


def bce(positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B]`: binary cross-entropy, `softplus(-s_positive)` and the row's mean of `softplus(s_negative)`.

    He et al., "Neural Collaborative Filtering" (WWW 2017), eq. 7, with scores as logits.
    """
    return softplus(-positive_B) + (shares(mask_BK) * softplus(negative_BK)).sum(1)


def shares(mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B, K]`: the weight 1 shared equally by each row's negatives that the mask leaves."""
    return mask_BK / mask_BK.sum(1, keepdim=True).clamp_min(1)


def sampled_softmax(
    positive_B: torch.Tensor,
    negative_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    temperature: float = 1.0,
    log_weight_BK: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """`[B]`: cross-entropy of the positive among itself and its negatives.

    Logits are scores over the temperature; `log_weight_BK` is added to the negatives' (0 counts a
    negative once, log 2 twice). With all items but the positive for negatives it is the full
    cross-entropy. A row with no negative left by the mask costs nothing.
    """
    return _Softmax.apply(positive_B, negative_BK, mask_BK, temperature, log_weight_BK)


class _Softmax(torch.autograd.Function):
    """On a CPU it is the passes over a row's thousands of negatives that cost. Written as one function they
    are a third of what autograd makes of its parts."""

    @staticmethod
    def forward(ctx, positive_B, negative_BK, mask_BK, temperature, log_weight_BK):
        logit_BK = negative_BK / temperature
        if isinstance(log_weight_BK, torch.Tensor) or log_weight_BK:
            logit_BK += log_weight_BK
        logit_BK.masked_fill_(~mask_BK, -torch.inf)
        logit_B = positive_B / temperature
        top_B = torch.maximum(logit_BK.amax(1), logit_B) if logit_BK.shape[1] else logit_B
        share_BK = logit_BK.sub_(top_B[:, None]).exp_()  # of the softmax, before it is normalized
        negatives_B = share_BK.sum(1)
        total_B = negatives_B + (logit_B - top_B).exp()
        ctx.save_for_backward(share_BK, negatives_B, total_B)
        ctx.temperature = temperature
        return total_B.log() + top_B - logit_B

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient_B):
        share_BK, negatives_B, total_B = ctx.saved_tensors
        scale_B = gradient_B / (total_B * ctx.temperature)
        return -scale_B * negatives_B, share_BK * scale_B[:, None], None, None, None

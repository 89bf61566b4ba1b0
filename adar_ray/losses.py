"""Losses of a positive's score against its negatives' scores, one number per row.

Legend: B rows of the batch, K negatives per row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch.nn.functional import softplus

from adar_ray.component import LossComponent, LossFunction, Settings, setting

if TYPE_CHECKING:
    from typing_extensions import Self


def bpr(positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B]`: mean over the row's negatives of `softplus(s_negative - s_positive)`.

    Rendle et al. (UAI 2009), eq. 4: -ln sigmoid of the score difference. A row whose negatives are all masked
    costs nothing.

    Raises:
        ValueError: shapes do not fit each other.
    """
    _check_shapes(positive_B, negative_BK, mask_BK)
    return _BPR.apply(positive_B, negative_BK, mask_BK)


class _BPR(torch.autograd.Function):
    """One function, because a step of a small model is mostly what autograd needs for each operation."""

    @staticmethod
    def forward(
        ctx: Any, positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor
    ) -> torch.Tensor:
        gap_BK, share_BK = (negative_BK - positive_B[:, None]).masked_fill_(~mask_BK, 0), shares(mask_BK)
        ctx.save_for_backward(share_BK * gap_BK.sigmoid())
        return (share_BK * softplus(gap_BK)).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (slope_BK,) = ctx.saved_tensors
        negative_BK = slope_BK * gradient_B[:, None]
        return -negative_BK.sum(1), negative_BK, None


def bce(positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B]`: binary cross-entropy, `softplus(-s_positive)` and the row's mean of `softplus(s_negative)`.

    He et al., "Neural Collaborative Filtering" (WWW 2017), eq. 7, with scores as logits.

    Raises:
        ValueError: shapes do not fit each other.
    """
    _check_shapes(positive_B, negative_BK, mask_BK)
    cost_BK = softplus(negative_BK.masked_fill(~mask_BK, 0))
    return softplus(-positive_B) + (shares(mask_BK) * cost_BK).sum(1)


def in_single(score: torch.Tensor) -> torch.Tensor:
    """In single precision at least: products may be in bfloat16, but losses are not."""
    return score.to(torch.promote_types(score.dtype, torch.float32))


def shares(mask_BK: torch.Tensor) -> torch.Tensor:
    """`[B, K]`: a weight of 1 per row, shared equally by its unmasked negatives."""
    return mask_BK / mask_BK.sum(1, keepdim=True).clamp_min(1)


def sampled_softmax(
    positive_B: torch.Tensor,
    negative_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    temperature: float = 1.0,
    log_weight_BK: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """`[B]`: cross-entropy of the positive among itself and its negatives.

    Logits are scores over the temperature; `log_weight_BK` is added to the negatives' (0 counts a negative
    once, log 2 twice). With all items but the positive for negatives it is the full cross-entropy. A row
    whose negatives are all masked costs nothing.

    Raises:
        ValueError: shapes do not fit each other.
    """
    _check_shapes(positive_B, negative_BK, mask_BK)
    return _Softmax.apply(positive_B, negative_BK, mask_BK, temperature, log_weight_BK)


class _Softmax(torch.autograd.Function):
    """On a CPU the passes over a row's thousands of negatives dominate. As one function they take a third of
    the time that autograd needs for the parts."""

    @staticmethod
    def forward(
        ctx: Any,
        positive_B: torch.Tensor,
        negative_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        temperature: float,
        log_weight_BK: torch.Tensor | float,
    ) -> torch.Tensor:
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
    def backward(ctx: Any, gradient_B: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        share_BK, negatives_B, total_B = ctx.saved_tensors
        scale_B = gradient_B / (total_B * ctx.temperature)
        return -scale_B * negatives_B, share_BK * scale_B[:, None], None, None, None


def _check_shapes(positive_B: torch.Tensor, negative_BK: torch.Tensor, mask_BK: torch.Tensor) -> None:
    """Refuses shapes that only fit by broadcasting: the loss would be another one."""
    positives, negatives, masks = positive_B.shape, negative_BK.shape, mask_BK.shape
    if len(negatives) != 2 or positives != negatives[:1] or masks != negatives:
        raise ValueError(
            f"positive_B, negative_BK and mask_BK have the shapes {list(positives)}, {list(negatives)} and "
            f"{list(masks)}; give [B], [B, K] and [B, K]"
        )


def temperature_for(n_items: int) -> float:
    """The temperature of a softmax of cosines over a catalog of `n_items`.

    It is 0.2 for up to 12,000 items, falls with the root of their number, and is never below 0.07. The rule
    was found by trying; docs/method.md has the figures.
    """
    return max(0.2 * min(1.0, math.sqrt(12_000 / n_items)), 0.07)


class BPRSettings(Settings):
    """BPR (Rendle et al., UAI 2009): pairwise; a positive should score above each of its negatives."""


class BCESettings(Settings):
    """Binary cross-entropy: pointwise; positives should score high and negatives low."""


def _auto_or_positive(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (is_number and 0 < value <= 1e6):
        raise ValueError("give auto, or a number above 0 and up to 1,000,000")
    return value


class _SoftmaxSettings(Settings):
    temperature: Annotated[Literal["auto"] | float, BeforeValidator(_auto_or_positive)] = setting(
        "auto",
        "Divides the scores; auto is 0.2 for up to 12,000 items, 0.2 sqrt(12,000 / items) for more, and at "
        "least 0.07.",
        search={"loguniform": [0.05, 1.0]},
    )

    def for_catalog(self, n_items: int) -> Self:
        is_auto = self.temperature == "auto"
        return self.model_copy(update={"temperature": temperature_for(n_items)}) if is_auto else self

    @property
    def divisor(self) -> float:
        """The temperature, of settings that are for a catalog."""
        assert self.temperature != "auto"
        return self.temperature


class SampledSoftmaxSettings(_SoftmaxSettings):
    """Softmax over the positive and sampled negatives that the batch shares."""

    log_q: bool = setting(True, "Correct for popular items being drawn more often, where they are.")
    shared_negatives: int = setting(
        2048,
        "Uniform or popular negatives that the batch shares.",
        search={"choice": [512, 1024, 2048, 4096]},
        ge=1,
        le=2**20,
    )


class CrossEntropySettings(_SoftmaxSettings):
    """Softmax over all items."""


def _build_sampled_softmax(settings: SampledSoftmaxSettings) -> LossFunction:
    def loss(
        positive_B: torch.Tensor,
        negative_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        log_q_BK: torch.Tensor | None,
    ) -> torch.Tensor:
        log_weight = -log_q_BK if settings.log_q and log_q_BK is not None else 0.0
        return sampled_softmax(positive_B, negative_BK, mask_BK, settings.divisor, log_weight)

    return loss


BPR = LossComponent(
    name="bpr",
    settings=BPRSettings,
    build=lambda _: lambda positive_B, negative_BK, mask_BK, log_q_BK: bpr(positive_B, negative_BK, mask_BK),
    is_pairwise=True,
)
BCE = LossComponent(
    name="bce",
    settings=BCESettings,
    build=lambda _: lambda positive_B, negative_BK, mask_BK, log_q_BK: bce(positive_B, negative_BK, mask_BK),
)
SAMPLED_SOFTMAX = LossComponent(
    name="sampled_softmax",
    settings=SampledSoftmaxSettings,
    build=_build_sampled_softmax,
    is_softmax=True,
    temperature=lambda settings: settings.divisor,
    shared_negatives=lambda settings: settings.shared_negatives,
)
CROSS_ENTROPY = LossComponent(
    name="cross_entropy",
    settings=CrossEntropySettings,
    # With all items but the positive as negatives, the sampled softmax is the full one.
    build=lambda settings: (
        lambda positive_B, negative_BK, mask_BK, log_q_BK: sampled_softmax(
            positive_B, negative_BK, mask_BK, settings.divisor
        )
    ),
    is_softmax=True,
    takes_all_items=True,
    temperature=lambda settings: settings.divisor,
)

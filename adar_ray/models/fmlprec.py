"""FMLP-Rec: learnable filters over a history, applied to its spectrum.

Legend: B rows of the batch, L positions of a history, N = L + 1, F frequencies, K items a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize, pad

from adar_ray.interactions import PADDING
from adar_ray.models.protocol import dot_score
from adar_ray.models.sequence import FeedForward, InputLayer, Residual, embed_items, initialize
from adar_ray.rng import RowRng

_DRAWN = 1 << 30  # random integers are below this


class FMLPRec(nn.Module):
    """Zhou et al., "Filter-enhanced MLP is All You Need for Sequential Recommendation" (WWW 2022).

    A product of spectra is a circular convolution: every position's state knows the whole history, what came
    after it too. The paper therefore trains on the last position alone, and so does this model: `users`
    gives the zero vector at all the others, and `cloze` one target a row.

    Positions count from the end of the row, as in the paper.

    Args:
        n_items: size of the item table.
        length: L; longer histories are cut to their last L.
        dim: D.
        layers: blocks of a filter and a feed-forward layer.
        dropout: of the entering vectors and of what each layer adds.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        dim: int = 64,
        layers: int = 2,
        dropout: float = 0.2,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.length, self.cosine = length, cosine
        self.item, self.position = nn.Embedding(n_items, dim), nn.Embedding(length, dim)
        self.input_layer = InputLayer(dim, dropout)
        self.filter = nn.ModuleList(Filter(length, dim, dropout) for _ in range(layers))
        self.feed_forward = nn.ModuleList(FeedForward(dim, dropout) for _ in range(layers))
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        rows, width = batch["history"].shape
        # A negative number cuts off. The spectrum of an empty batch is an error: a row of padding stands in.
        item_BL = pad(batch["history"], (self.length - width, 0, 0, rows == 0), value=PADDING)
        x_BLD = self.input_layer(embed_items(self.item, item_BL), self.position.weight)
        for filter_, feed_forward in zip(self.filter, self.feed_forward, strict=True):
            x_BLD = feed_forward(filter_(x_BLD))
        user_B1D = x_BLD[:rows, -1:]
        user_B1D = normalize(user_B1D, dim=-1) if self.cosine else user_B1D
        return pad(user_B1D, (0, 0, width - 1, 0))

    def items(self, item: torch.Tensor) -> torch.Tensor:
        vector = self.item(item)
        return normalize(vector, dim=-1) if self.cosine else vector

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)

    def cloze(
        self, sequence_BN: torch.Tensor, targets: int, rng: RowRng
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A beginning of each row, and the item after it as the target of the last position; `[B, L]` both.

        The paper makes a row of every beginning, as a dataset of stride 1 does. Of rows with more targets
        one is drawn, all being as likely: what the next-item models learn at all positions in an epoch, this
        one learns over several.
        """
        items_B = (sequence_BN != PADDING).sum(1)
        drawn_B = rng.integers(_DRAWN, 1)[:, 0]
        dropped_B = (drawn_B * (items_B - 1).clamp(0, targets)) // _DRAWN  # at least two items stay
        column_BN = torch.arange(sequence_BN.shape[1], device=sequence_BN.device) - dropped_B[:, None]
        beginning_BN = sequence_BN.gather(1, column_BN.clamp_min(0)).masked_fill(column_BN < 0, PADDING)
        history_BL, target_BL = beginning_BN[:, :-1], torch.full_like(beginning_BN[:, 1:], PADDING)
        target_BL[:, -1] = beginning_BN[:, -1].masked_fill(history_BL[:, -1] == PADDING, PADDING)
        return history_BL, target_BL


class Filter(nn.Module):
    """The paper's filter layer: each dimension's spectrum over the positions times learned weights.

    The weights are complex, stored as real and imaginary parts `[F, D, 2]` with F = L // 2 + 1.
    """

    def __init__(self, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length // 2 + 1, dim, 2))
        self.residual = Residual(dim, dropout)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        spectrum_BFD = torch.fft.rfft(x_BLD, dim=1) * torch.view_as_complex(self.weight)
        return self.residual(x_BLD, torch.fft.irfft(spectrum_BFD, n=x_BLD.shape[1], dim=1))

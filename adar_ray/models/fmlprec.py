"""FMLP-Rec: learnable filters over a history, applied to its spectrum.

Legend: B rows of the batch, L positions of a history, N = L + 1, F frequencies, K items per row, D
dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from adar_ray.component import Settings, setting
from adar_ray.interactions import PADDING
from adar_ray.models.sequence import (
    FeedForward,
    InputLayer,
    Residual,
    SequentialModel,
    embed_items,
    initialize,
    sequential_component,
)
from adar_ray.models.table import Table
from adar_ray.rng import RowRng

_DRAWN = 1 << 30  # random integers are below this


class FMLPRecSettings(Settings):
    """FMLP-Rec (Zhou et al., WWW 2022): learnable filters over the spectrum of a history."""

    layers: int = setting(
        2,
        "Blocks of a filter and a feed-forward layer.",
        search={"integer": [1, 4]},
        structural=True,
        ge=1,
        le=64,
    )
    dropout: float = setting(
        0.2,
        "Share that is dropped of input vectors and of what each layer adds.",
        search={"quantized": [0.1, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


class FMLPRec(SequentialModel):
    """Zhou et al., "Filter-enhanced MLP is All You Need for Sequential Recommendation" (WWW 2022).

    A product of spectra is a circular convolution: the state at every position knows the whole history, later
    items included. The paper therefore trains on the last position only, and so does this model: `users`
    gives the zero vector at all others, and `cloze` one target per row.

    Positions count from the end of the row, as in the paper.

    Args:
        n_items: size of the item table.
        length: L; longer histories are cut to their last L items.
        embedding_dim: D.
        cosine: score by the cosine: representations have length one.
        sharded: workers share out the items (see `Table`).
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        embedding_dim: int,
        settings: FMLPRecSettings = FMLPRecSettings(),
        cosine: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.length = length
        self.item = Table(n_items, embedding_dim, sharded=sharded)
        self.position = nn.Embedding(length, embedding_dim)
        self.input_layer = InputLayer(embedding_dim, settings.dropout)
        self.filter = nn.ModuleList(
            Filter(length, embedding_dim, settings.dropout) for _ in range(settings.layers)
        )
        self.feed_forward = nn.ModuleList(
            FeedForward(embedding_dim, settings.dropout) for _ in range(settings.layers)
        )
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        rows, width = batch["history"].shape
        # A negative pad cuts off. An empty batch has no spectrum, so a row of padding stands in.
        item_BL = pad(batch["history"], (self.length - width, 0, 0, int(rows == 0)), value=PADDING)
        x_BLD = self.input_layer(embed_items(self.item, item_BL), self.position.weight)
        *layers, (last_filter, last_feed_forward) = zip(self.filter, self.feed_forward, strict=True)
        for filter_, feed_forward in layers:
            x_BLD = feed_forward(filter_(x_BLD))
        # Nobody asks for what the last layer makes of the other positions.
        user_B1D = last_feed_forward(last_filter(x_BLD)[:rows, -1:])
        user_B1D = self.represent(user_B1D)
        return pad(user_B1D, (0, 0, width - 1, 0))

    def cloze(
        self, sequence_BN: torch.Tensor, targets: int, rng: RowRng
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A prefix of each row, and the item after it as the target of the last position; `[B, L]` both.

        The paper makes a row of every prefix, as a dataset of stride 1 does. From rows with more targets one
        is drawn, all equally likely: this model learns over several epochs what next-item models learn in
        one.
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
    """The paper's filter layer: each dimension's spectrum over the positions, times learned weights.

    The weights are complex, stored as real and imaginary parts `[F, D, 2]` with F = L // 2 + 1.
    """

    def __init__(self, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length // 2 + 1, dim, 2))
        self.residual = Residual(dim, dropout)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        spectrum_BFD = torch.fft.rfft(x_BLD, dim=1) * torch.view_as_complex(self.weight)
        return self.residual(x_BLD, torch.fft.irfft(spectrum_BFD, n=x_BLD.shape[1], dim=1))


COMPONENT = sequential_component("fmlprec", FMLPRecSettings, FMLPRec, layer_weights=8, layer_activations=9)

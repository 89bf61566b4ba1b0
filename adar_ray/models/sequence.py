"""What sequential models share: items of a history as vectors, and the layers over them.

Legend: B rows of the batch, L positions of a history, N positions shown, R packed rows of W positions, D
dimensions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from adar_ray.component import ModelComponent, ModelInputs, S, Settings, setting
from adar_ray.interactions import PADDING
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.table import Table

_EPS = 1e-12  # of layer norms, as in BERT and RecBole; torch's 1e-5 is large beside vectors of std 0.02
_STD = 0.02

# A row is a user's history, not one interaction: thousands of rows a step would be few steps an epoch.
BATCH_SIZE = 64


def sequential_component(
    name: str, settings: type[S], model: Callable[..., nn.Module], **more: Any
) -> ModelComponent[S]:
    """The declaration of a model that is made of `(n_items, history_length, embedding_dim, settings, cosine,
    sharded)`.

    Args:
        more: what else `ModelComponent` takes; `defaults` come over those that sequential models share.
    """
    shared = {"train.batch_size": BATCH_SIZE, "loss.name": "sampled_softmax", "model.length_power": 0.0}
    defaults = shared | more.pop("defaults", {})

    def build(inputs: ModelInputs, settings: S) -> nn.Module:
        n_items, length, D = inputs.observed.n_items, inputs.history_length, inputs.embedding_dim
        return model(n_items, length, D, settings, inputs.cosine, inputs.sharded)

    return ModelComponent(
        name, settings, build, is_sequential=True, shards_items=True, defaults=defaults, **more
    )


class SequentialModel(DotProductModel):
    """A model of histories: users are hidden states."""

    @property
    def l2_vectors(self) -> Callable[..., tuple[None, torch.Tensor]] | None:
        """The table's rows if representations, being of length one, cannot shrink; as in MF."""
        return self._rows if self.cosine else None

    def _rows(self, batch: dict[str, torch.Tensor], item: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, self.item(item)


def embed_items(table: nn.Embedding, item_BL: torch.Tensor) -> torch.Tensor:
    """Rows of the table, `[B, L, D]`; PADDING gets the zero vector, which learns nothing."""
    padding_BL1 = (item_BL == PADDING)[..., None]
    return table(item_BL.clamp_min(0)).masked_fill(padding_BL1, 0.0)


def shown_positions(item_BL: torch.Tensor) -> torch.Tensor:
    """The positions that a model has to compute, `[B, L]`: items, and the last one of every row.

    So a user without a history has one position, of padding.
    """
    shown_BL = item_BL != PADDING
    shown_BL[:, -1] = True
    return shown_BL


class Packing:
    """Histories laid end to end in a few rows, `[R, W]`, where they used to have a row of L positions each.

    Most histories are far shorter than the longest, so that most positions of a batch are padding, which
    layers compute as well. A packed row is as wide as the batch's longest history.

    Args:
        item_BL: items, padded with PADDING on the left.
    """

    def __init__(self, item_BL: torch.Tensor) -> None:
        shown_BL = shown_positions(item_BL)
        self._shape = item_BL.shape
        self._of_N, self._at_N = shown_BL.nonzero(as_tuple=True)
        start_B, self._rows, self._width = _packed(shown_BL.sum(1).tolist())
        before_BL = shown_BL.cumsum(1) - 1
        self._slot_N = (shown_BL.new_tensor(start_B, dtype=torch.int64)[:, None] + before_BL)[shown_BL]

    def pack(self, x_BL: torch.Tensor, empty: int) -> torch.Tensor:
        """Integers of positions, packed, `[R, W]`; `empty` where a row has room left."""
        x_RW = x_BL.new_full((self._rows, self._width), empty)
        x_RW.view(-1)[self._slot_N] = x_BL[self._of_N, self._at_N]
        return x_RW

    def unpack(self, x_RWD: torch.Tensor) -> torch.Tensor:
        """Packed vectors, `[B, L, D]` again; zero where a history is padded."""
        x_BLD = x_RWD.new_zeros(*self._shape, x_RWD.shape[-1])
        x_BLD[self._of_N, self._at_N] = x_RWD.flatten(0, 1)[self._slot_N]
        return x_BLD

    def visible(self, causal: bool) -> torch.Tensor:
        """Which positions (last axis) each position may attend to, `[R, W, W]`: its own history's.

        Room that is left sees itself: a softmax over nothing would be NaN.
        """
        rows, length = self._shape
        of_RW = self.pack(torch.arange(rows, device=self._of_N.device)[:, None].expand(rows, length), -1)
        visible_RWW = of_RW[:, :, None] == of_RW[:, None]
        return visible_RWW.tril() if causal else visible_RWW


class Rows:
    """Histories as they are, a row each, in place of a `Packing`."""

    def __init__(self, item_BL: torch.Tensor) -> None:
        self._shown_BL = shown_positions(item_BL)

    def pack(self, x_BL: torch.Tensor, empty: int) -> torch.Tensor:
        return x_BL

    def unpack(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD

    def visible(self, causal: bool) -> torch.Tensor:
        itself_LL = torch.eye(self._shown_BL.shape[1], dtype=torch.bool, device=self._shown_BL.device)
        visible_BLL = self._shown_BL[:, None] | itself_LL
        return visible_BLL.tril() if causal else visible_BLL


def laid_out(item_BL: torch.Tensor) -> Packing | Rows:
    """Histories as layers are to compute them.

    An exported program is the same for all histories, and how they are packed depends on their lengths.
    """
    return Rows(item_BL) if torch.compiler.is_exporting() else Packing(item_BL)


def _packed(length_B: list[int]) -> tuple[list[int], int, int]:
    """Where each history starts if packed rows follow one another, their number R, and their width W.

    Each row takes the longest history left that fits, again and again, until none does.
    """
    left = sorted(range(len(length_B)), key=length_B.__getitem__)
    start_B, rows, width = [0] * len(length_B), 0, max(length_B, default=1)
    while left:
        at = rows * width
        rows += 1
        while fitting := bisect_right(left, rows * width - at, key=length_B.__getitem__):
            history = left.pop(fitting - 1)
            start_B[history] = at
            at += length_B[history]
    return start_B, rows, width


class TransformerSettings(Settings):
    """What models with a transformer have in common."""

    layers: int = setting(
        2,
        "Blocks of attention and a feed-forward layer.",
        search={"integer": [1, 4]},
        structural=True,
        ge=1,
        le=64,
    )
    heads: int = setting(
        2,
        "Attention heads; divides the embedding dimension.",
        search={"choice": [1, 2, 4]},
        structural=True,
        ge=1,
        le=1_024,
    )
    dropout: float = setting(
        0.2,
        "Share that is dropped of input vectors, attention weights and what each layer adds.",
        search={"quantized": [0.1, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


def heads_divide(embedding_dim: int, settings: TransformerSettings) -> None:
    """Raises ValueError if the attention heads of the settings do not divide the embedding dimension."""
    if embedding_dim % settings.heads:
        raise ValueError(f"model.embedding_dim {embedding_dim} is not a multiple of heads {settings.heads}")


def initialize(model: nn.Module) -> None:
    """Weights normal with std 0.02 and biases 0, as in BERT and RecBole; scales of layer norms stay 1."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, Table):
                module.draw(lambda rows: rows.normal_(std=_STD))
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=_STD)
            elif name == "bias":
                nn.init.zeros_(parameter)


class Residual(nn.Module):
    """Adds a layer's output to its input: `norm(x + dropout(addend))`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=_EPS)

    def forward(self, x: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.dropout(addend))


class InputLayer(nn.Module):
    """The input of the first layer: `dropout(norm(item vector + position vector))`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(dim, eps=_EPS), nn.Dropout(dropout)

    def forward(self, item_RWD: torch.Tensor, position_RWD: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(item_RWD + position_RWD))


class FeedForward(nn.Module):
    """Two dense layers at each position, four times as wide inside, with a GELU between them."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.residual = Residual(dim, dropout)

    def forward(self, x_RWD: torch.Tensor) -> torch.Tensor:
        return self.residual(x_RWD, self.outer(gelu(self.inner(x_RWD))))


class SelfAttention(nn.Module):
    """Vaswani et al., "Attention Is All You Need" (2017), section 3.2.2, with dropout on its weights."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.residual = Residual(dim, dropout)

    def forward(self, x_RWD: torch.Tensor, visible_RWW: torch.Tensor) -> torch.Tensor:
        # [3, R, heads, W, D / heads]
        query, key, value = (
            self.query_key_value(x_RWD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, visible_RWW[:, None], dropout)
        return self.residual(x_RWD, self.output(mixed.transpose(1, 2).flatten(2)))


class Transformer(nn.Module):
    """Blocks of self-attention and a feed-forward layer, normalized after each as in BERT.

    Args:
        dim: D, a multiple of `heads`.
        layers: blocks.
        dropout: of attention weights and of what each layer adds.
    """

    def __init__(self, dim: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.ModuleList(SelfAttention(dim, heads, dropout) for _ in range(layers))
        self.feed_forward = nn.ModuleList(FeedForward(dim, dropout) for _ in range(layers))

    def forward(self, x_RWD: torch.Tensor, visible_RWW: torch.Tensor) -> torch.Tensor:
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x_RWD = feed_forward(attention(x_RWD, visible_RWW))
        return x_RWD

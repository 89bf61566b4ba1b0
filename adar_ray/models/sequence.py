"""What sequential models share: items of a history as vectors, and the layers over them.

Legend: B rows of the batch, L positions of a history, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from adar_ray.component import Settings, setting
from adar_ray.interactions import PADDING

_EPS = 1e-12  # of layer norms, as in BERT and RecBole; torch's 1e-5 is large beside vectors of std 0.02
_STD = 0.02

# A row is a user's history, not one interaction: thousands of rows a step would be few steps an epoch.
BATCH_SIZE = 64


def embed_items(table: nn.Embedding, item_BL: torch.Tensor) -> torch.Tensor:
    """Rows of the table, `[B, L, D]`; PADDING gets the zero vector, which learns nothing."""
    padding_BL1 = (item_BL == PADDING)[..., None]
    return table(item_BL.clamp_min(0)).masked_fill(padding_BL1, 0.0)


def visible_positions(item_BL: torch.Tensor, causal: bool) -> torch.Tensor:
    """Which positions (last axis) each position may attend to, `[B, L, L]`: those with an item.

    Every position sees itself, even padding: a softmax over nothing would be NaN.
    """
    length = item_BL.shape[1]
    visible_BLL = (item_BL != PADDING)[:, None].expand(-1, length, -1)
    visible_BLL = visible_BLL.tril() if causal else visible_BLL
    return visible_BLL | torch.eye(length, dtype=torch.bool, device=item_BL.device)


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
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=_STD)
        elif name.endswith("bias"):
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

    def forward(self, item_BLD: torch.Tensor, position_BLD: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(item_BLD + position_BLD))


class FeedForward(nn.Module):
    """Two dense layers at each position, four times as wide inside, with a GELU between them."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.residual = Residual(dim, dropout)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.residual(x_BLD, self.outer(gelu(self.inner(x_BLD))))


class SelfAttention(nn.Module):
    """Vaswani et al., "Attention Is All You Need" (2017), section 3.2.2, with dropout on its weights."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.residual = Residual(dim, dropout)

    def forward(self, x_BLD: torch.Tensor, visible_BLL: torch.Tensor) -> torch.Tensor:
        # [3, B, heads, L, D / heads]
        query, key, value = (
            self.query_key_value(x_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, visible_BLL[:, None], dropout)
        return self.residual(x_BLD, self.output(mixed.transpose(1, 2).flatten(2)))


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

    def forward(self, x_BLD: torch.Tensor, visible_BLL: torch.Tensor) -> torch.Tensor:
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x_BLD = feed_forward(attention(x_BLD, visible_BLL))
        return x_BLD

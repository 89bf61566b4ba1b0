"""GRU4Rec: a recurrent network reads the history.

Legend: B rows of the batch, L positions of a history, N positions of all histories together, S rows that have
a step's position, K items per row, D dimensions, H of a state, G = 3 H of its gates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from adar_ray.component import Settings, setting
from adar_ray.models.sequence import SequentialModel, embed_items, sequential_component, shown_positions
from adar_ray.models.table import Table


class GRU4RecSettings(Settings):
    """GRU4Rec (Hidasi et al., ICLR 2016): a recurrent network reads the history."""

    layers: int = setting(2, "Layers of the GRU.", search={"integer": [1, 4]}, structural=True, ge=1, le=64)
    dropout: float = setting(
        0.2,
        "Share of the elements of input vectors that is dropped.",
        search={"quantized": [0.1, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


class GRU4Rec(SequentialModel):
    """Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016).

    As in RecBole's version, items enter as learned vectors instead of one-hot ones, the state is twice as
    wide, and a dense layer leads from it back to D, where the same vectors are scored. Histories are rows of
    a batch; the paper's session-parallel batches are left out.

    The GRU has no biases. A zero state stays zero while the input is zero, so that padding leaves no trace.

    Vectors start as Xavier normal, the GRU's matrices as Xavier uniform, the dense layer with torch's
    default.

    Args:
        n_items: size of the item table.
        length: L; no parameter depends on it, and any history will do.
        embedding_dim: D.
        cosine: score by the cosine: representations have length one.
        sharded: workers share out the items (see `Table`).
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        embedding_dim: int,
        settings: GRU4RecSettings = GRU4RecSettings(),
        cosine: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.item = Table(n_items, embedding_dim, sharded=sharded)
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = nn.GRU(embedding_dim, 2 * embedding_dim, settings.layers, bias=False, batch_first=True)
        self.dense = nn.Linear(2 * embedding_dim, embedding_dim)
        deviation = math.sqrt(2 / (n_items + embedding_dim))
        self.item.draw(lambda rows: rows.normal_(std=deviation))
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        item_BL = batch["history"]
        # cuDNN is several times as fast on whole rows, padding included; and an exported program is the same
        # for histories of all lengths.
        if item_BL.device.type != "cpu" or torch.compiler.is_exporting():
            state_BLH, _ = self.gru(self.dropout(embed_items(self.item, item_BL)))
            return self.represent(self.dense(state_BLH))
        length, length_B = item_BL.shape[1], shown_positions(item_BL).sum(1)
        # The first positions of all histories, the longest history first; then their second ones, and so on.
        by_length_B = length_B.argsort(descending=True, stable=True)
        step_N, rank_N = (torch.arange(length)[:, None] < length_B[by_length_B]).nonzero(as_tuple=True)
        of_N = by_length_B[rank_N]
        at_N = length - length_B[of_N] + step_N
        rows = step_N.bincount(minlength=1).tolist()
        state = self.dropout(embed_items(self.item, item_BL[of_N, at_N]))  # of the layer below
        for input_weight, state_weight_GH in self.gru.all_weights:
            state = _Recurrence.apply(linear(state, input_weight), state_weight_GH, rows)
        user_ND = self.represent(self.dense(state))
        user_BLD = user_ND.new_zeros(*item_BL.shape, user_ND.shape[1])
        user_BLD[of_N, at_N] = user_ND
        return user_BLD


class _Recurrence(torch.autograd.Function):
    """The states of a GRU layer, `[N, H]`, from its input times its weights, `[N, G]`, step after step.

    torch's own GRU adds to the gradient of the weights at every step, and most steps have few rows. Here one
    product after the last step does.

    `rows` says how many histories have a position at each step, never more than at the step before.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, input_NG: torch.Tensor, weight_GH: torch.Tensor, rows: list[int]) -> torch.Tensor:
        state_SH = input_NG.new_zeros(rows[0], weight_GH.shape[1])
        steps = []
        for input_SG in input_NG.split(rows):
            before_SH = state_SH[: len(input_SG)]
            hidden_SG = before_SH @ weight_GH.T
            state_SH = _state(input_SG, hidden_SG, before_SH)
            steps.append((state_SH, hidden_SG, before_SH))
        state_NH, hidden_NG, before_NH = (torch.cat(parts) for parts in zip(*steps, strict=True))
        ctx.save_for_backward(input_NG, hidden_NG, before_NH, weight_GH)
        ctx.rows = rows
        return state_NH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NH: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input_NG, hidden_NG, before_NH, weight_GH = ctx.saved_tensors
        parts = [part.detach().requires_grad_() for part in (input_NG, hidden_NG, before_NH)]
        with torch.enable_grad():
            state_NH = _state(*parts)
        # Each element of a state has gates of its own, so these are its derivatives by them.
        by_input_NG, by_hidden_NG, by_before_NH = torch.autograd.grad(
            state_NH, parts, torch.ones_like(state_NH)
        )
        by_hidden_N3H = by_hidden_NG.unflatten(1, (3, -1))
        gradient_N1H = gradient_NH.clone()[:, None]
        by_step = (x.split(ctx.rows)[::-1] for x in (gradient_N1H, by_hidden_N3H, by_before_NH))
        later_SH = gradient_NH[:0]
        for gradient_S1H, by_hidden_S3H, by_before_SH in zip(*by_step, strict=True):
            gradient_SH = gradient_S1H[:, 0]
            gradient_SH[: len(later_SH)] += later_SH
            hidden_SG = (by_hidden_S3H * gradient_S1H).flatten(1)
            later_SH = torch.addmm(gradient_SH * by_before_SH, hidden_SG, weight_GH)
        input_N3H = by_input_NG.unflatten(1, (3, -1)) * gradient_N1H
        hidden_NG = (by_hidden_N3H * gradient_N1H).flatten(1)
        return input_N3H.flatten(1), hidden_NG.T @ before_NH, None


def _state(input_NG: torch.Tensor, hidden_NG: torch.Tensor, before_NH: torch.Tensor) -> torch.Tensor:
    """A GRU's next states, with the gates in torch's order: reset, update, new."""
    width = before_NH.shape[1]
    reset_NH, update_NH = torch.sigmoid(input_NG[:, :-width] + hidden_NG[:, :-width]).chunk(2, 1)
    new_NH = torch.tanh(torch.addcmul(input_NG[:, -width:], reset_NH, hidden_NG[:, -width:]))
    return torch.lerp(new_NH, before_NH, update_NH)


COMPONENT = sequential_component("gru4rec", GRU4RecSettings, GRU4Rec, layer_weights=6, layer_activations=7)

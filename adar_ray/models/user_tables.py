"""Tables with a row per user, of which each worker holds those of its own users.

A model or a sampler that has such tables names them in `user_tables`, each with a function that fills rows
of it: `draw(rows, n_users, generator)`, with `n_users` the number of all users. The names are those of
parameters or buffers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

from adar_ray.interactions.users import Users

Draw = Callable[[torch.Tensor, int, "torch.Generator | None"], object]


def user_tables(module: nn.Module) -> Mapping[str, Draw]:
    """The module's user tables; none if it does not name any."""
    tables: Mapping[str, Draw] = getattr(module, "user_tables", {})
    return tables


@torch.no_grad()
def draw_by_lane(module: nn.Module, users: Users, begin: int) -> None:
    """Fills the users' rows anew, each lane from a seed of its own: the same rows whichever worker has them.

    The seeds follow from that of torch's own generator.

    Args:
        begin: the user of the tables' first row.
    """
    for name, draw in user_tables(module).items():
        table = get_tensor(module, name)
        for lane, (start, end) in enumerate(
            zip(users.bounds[:-1], users.bounds[1:], strict=True), users.lane
        ):
            key = repr((torch.initial_seed(), name, lane)).encode()
            seed = int.from_bytes(hashlib.sha256(key).digest()[:7], "big")
            draw(table[start - begin : end - begin], users.total, torch.Generator().manual_seed(seed))


def get_tensor(module: nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer by its name in the module's state."""
    owner, _, attribute = name.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(owner), attribute)
    return tensor

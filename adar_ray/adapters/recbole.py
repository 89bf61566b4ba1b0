"""Unchanged models of RecBole 1.2.1, trained on our datasets with ADAR's negatives.

The model, its loss and negatives, the batches, the trainer, early stopping and the ranking are RecBole's.
`add_adar` adds one term to a model's loss. It needs neither a list of models nor the names of their
attributes. It records what `forward` returns while the model computes its loss, and looks for the embedding
table whose vectors, multiplied by that, give what `predict` returns. This works for every model that scores
by such a product; `add_adar` refuses all others.

Legend: B rows of the batch, K negatives per row, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adar_ray.adapters.recbole_library import (
    NAME,
    at_home,
    import_recbole,
    training_pairs,
    write_interactions,
)
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, one_line
from adar_ray.interactions.user_items import UserItems
from adar_ray.losses import bpr
from adar_ray.models.protocol import dot_score
from adar_ray.samplers.base import Sampler, SamplingContext

_PROBED = 8  # rows to find out how a model scores


@dataclass(frozen=True)
class Trained:
    """A model at its best epoch on RecBole's validation.

    Attributes:
        loaders: RecBole's data loaders for train, valid and test.
        curve: the validation metric after each epoch.
        best_epoch: counted from 1.
        valid, test: metrics, by RecBole's names.
    """

    model: nn.Module
    loaders: tuple[Any, Any, Any]
    curve: list[float]
    best_epoch: int
    valid: dict[str, float]
    test: dict[str, float]


def train(
    name: str,
    dataset: Dataset,
    settings: dict[str, Any],
    sampler: Sampler | None = None,
    weight: float = 1.0,
    on_epoch: Callable[[int, float], None] = lambda epoch, score: None,
) -> Trained:
    """Train a RecBole model with RecBole, and read test once, at the best epoch.

    Args:
        name: RecBole's name of the model.
        dataset: for a sequential model, split by `leave-one-out`; for others, with train, valid and test.
        settings: RecBole's settings, over its defaults for the model.
        sampler: adds its negatives to the loss, such as `AdarSampler`; None leaves the loss unchanged.
        weight: of the term that the sampler's negatives add.
        on_epoch: called with the epoch, from 1, and the validation metric.

    Raises:
        AdarError: RecBole is not installed or has no such model, or the dataset or the sampler does not go
            with the model.
    """
    import_recbole()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import ModelType, get_model, get_trainer, init_seed

    try:
        kind = get_model(name)
    except (ValueError, AttributeError, ImportError) as error:
        raise AdarError(f"{name}: RecBole has no such model ({one_line(error)})") from error
    curve: list[float] = []

    def after_epoch(epoch: int, score: float) -> None:
        curve.append(score)
        on_epoch(epoch + 1, score)

    with at_home() as scratch:
        data = write_interactions(dataset, scratch, kind.type == ModelType.SEQUENTIAL)
        config = Config(name, NAME, config_dict=settings | data | {"checkpoint_dir": str(scratch)})
        loaders = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        model = kind(config, loaders[0]._dataset).to(config["device"])
        if sampler is not None:
            add_adar(model, loaders[0], sampler, weight)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        with closing(trainer.tensorboard):
            _, valid = trainer.fit(loaders[0], loaders[1], verbose=False, callback_fn=after_epoch)
            test = trainer.evaluate(loaders[2], load_best_model=True)
    best = max(range(len(curve)), key=lambda epoch: (curve[epoch], epoch))  # RecBole keeps the last of equals
    figures = ({key: float(value) for key, value in metrics.items()} for metrics in (valid, test))
    return Trained(model, loaders, curve, best + 1, *figures)


def add_adar(model: Any, train_loader: Any, sampler: Sampler, weight: float = 1.0) -> None:
    """Add `weight` times the BPR loss against the sampler's negatives to the model's own loss.

    Args:
        model: a RecBole model; `calculate_loss` is replaced on this object.
        train_loader: RecBole's; provides the seen items, and rows to probe the model with.

    Raises:
        AdarError: the model does not score by the product of two vectors that can be found.
    """
    user_field, item_field = model.USER_ID, model.ITEM_ID
    data = train_loader._dataset
    rows = train_loader.transform(data, data.inter_feat[torch.arange(min(_PROBED, len(data)))])
    # RecBole's item 0 is padding, so our ids are one lower.
    user_E, item_E = training_pairs(train_loader)
    observed = UserItems(user_E, item_E - 1, data.user_num, model.n_items - 1)
    seen_count_U = observed.counts()
    is_sequential = hasattr(model, "ITEM_SEQ")
    returned: list[Any] = []
    forward, own_loss = model.forward, model.calculate_loss

    def recorded(*args: Any, **more: Any) -> Any:
        returned.append(forward(*args, **more))
        return returned[-1]

    model.forward = recorded
    find = _find_vectors(model, rows, returned)

    def loss_with_adar(interaction: Any) -> Any:
        returned.clear()
        own = own_loss(interaction)
        user_B, positive_B = interaction[user_field], interaction[item_field] - 1
        # A model with a contrastive loss calls `forward` again for altered views; the first call counts.
        user_BD, vectors = find(returned[0], user_B)
        returned.clear()
        positive_BD = vectors(positive_B + 1)

        context = SamplingContext(
            lambda item: vectors(item + 1),
            model.n_items - 1,
            seen=observed.seen_by(user_B),
            seen_count_B=None if is_sequential else seen_count_U[user_B],
            user_B=user_B,
            positive_B=positive_B,
        )
        negatives = sampler(user_BD, positive_BD, context)
        positive_score_B = dot_score(user_BD, positive_BD[:, None])[:, 0]
        negative_score_BK = dot_score(user_BD, negatives.vector_BKD)
        term = weight * bpr(positive_score_B, negative_score_BK, negatives.mask_BK).mean()
        return (own[0] + term, *own[1:]) if isinstance(own, tuple) else own + term

    model.calculate_loss = loss_with_adar


Vectors = Callable[[torch.Tensor], torch.Tensor]
Find = Callable[[Any, torch.Tensor], tuple[torch.Tensor, Vectors]]


@torch.no_grad()
def _find_vectors(model: Any, rows: Any, returned: list[Any]) -> Find:
    """How to get `(user_BD, item ids -> vectors)` from what `forward` returned and the users of a batch.

    In a graph model, `forward` returns the vectors of all users and all items. In other general models, it
    returns those of the rows' users and items; in a sequential model, only those of the rows' users.
    """

    def graph(result: Any, user_B: torch.Tensor) -> tuple[torch.Tensor, Vectors]:
        return result[0][user_B], lambda item: result[1][item]

    def rows_and(table: nn.Embedding) -> Find:
        return lambda result, user_B: (result[0] if isinstance(result, tuple) else result, table)

    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == model.n_items]
    rows = rows.to(model.device)
    was_training = model.training
    model.eval()
    score_B = model.predict(rows).flatten()
    model.train(was_training)
    for find in (graph, *map(rows_and, tables)):
        try:
            user_BD, vectors = find(returned[0], rows[model.USER_ID])
            product_B = (user_BD * vectors(rows[model.ITEM_ID])).sum(-1)
            if product_B.shape == score_B.shape and torch.allclose(product_B, score_B, rtol=1e-4, atol=1e-6):
                return find
        except (IndexError, TypeError, RuntimeError):
            continue  # the shapes are not those that this function reads
    raise AdarError(
        f"{type(model).__name__}: does not score by the product of what its `forward` returns and an item's "
        "vector, so ADAR's negatives cannot be scored; train it without a sampler, or choose another model"
    )

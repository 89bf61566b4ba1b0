"""How a model, a sampler or a loss is declared.

A component lives in one file: its class or function, its settings, and a declaration that says how to build
it and what it needs. `adar_ray/registry.py` names the declarations. Configuration, `--show-config`, search
spaces and the reference pages follow from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from adar_ray.interactions.item_features import ItemFeatures
    from adar_ray.interactions.user_items import UserItems


class Settings(BaseModel):
    """The settings of one component, or one section of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        types = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in types and types & {int, float}:
            raise ValueError("give a number")
        return value

    def for_catalog(self, n_items: int) -> Self:
        """With numbers in place of what follows from the number of items."""
        return self


def setting(
    default: Any,
    description: str,
    *,
    search: Mapping[str, list[Any]] | None = None,
    structural: bool = False,
    **limits: Any,
) -> Any:
    """A field of `Settings`.

    Args:
        default: the only place where the default stands.
        description: one sentence for people; `--show-config` and the reference print it.
        search: a distribution to search, such as `{"uniform": [0.5, 0.95]}`; a space asks for it by
            `default`.
        structural: whether weights that were trained with another value do not fit. Population-based
            training, which moves weights between trials, refuses to search such a setting.
        limits: what Pydantic's `Field` takes, such as `ge=1`.
    """
    extra: dict[str, Any] = {} if search is None else {"search": dict(search)}
    if structural:
        extra["structural"] = True
    return Field(default, description=description, json_schema_extra=extra, **limits)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class ModelInputs:
    """What a model may be built from.

    Attributes:
        observed: the training interactions of this worker's users.
        embedding_dim: D, the length of a representation.
        cosine: whether the score is the cosine instead of the dot product.
        history_length: L, the longest history; for sequential models.
        first_user: the user that has id 0 in `observed`.
        sharded: whether workers share out the item table; only for a model that says `shards_items`.
        features: of the items; None if they have none, or the model does not say `reads_features`.
    """

    observed: UserItems
    embedding_dim: int
    cosine: bool = False
    history_length: int = 0
    first_user: int = 0
    sharded: bool = False
    features: ItemFeatures | None = None


def _fits_any(embedding_dim: int, settings: Any) -> None:
    pass


@dataclass(frozen=True)
class ModelComponent(Generic[S]):
    """A base model.

    Attributes:
        name: what `model.name` calls it, and the name of its settings block.
        settings: its own settings; their docstring is its one-line description.
        build: makes the model.
        is_sequential: whether it reads histories instead of user ids.
        has_cosine: whether it can score by the cosine.
        shards_items: whether workers can share out its item table, the only one that grows with the catalog.
        reads_features: whether items have features beside their ids. The model then has a method `add_items`,
            for items that were not there in training.
        is_graph: whether a step propagates all nodes, so that all have gradients.
        layer_weights: of each layer, in D^2; for the estimate of memory, as the next one is.
        layer_activations: numbers that a layer keeps of each position of a history, in D.
        adds_to_loss: whether it has an `auxiliary_loss`, so that its losses are not those of other models.
        check: raises ValueError if the settings do not go with the embedding dimension.
        defaults: values by `section.key`, such as `{"loss.name": "bce"}`, that replace the configuration's
            own defaults with this model.
        defaults_with_loss: the same by the name of a loss, in place of those.
    """

    name: str
    settings: type[S]
    build: Callable[[ModelInputs, S], nn.Module]
    is_sequential: bool = False
    has_cosine: bool = True
    shards_items: bool = False
    reads_features: bool = False
    is_graph: bool = False
    layer_weights: int = 0
    layer_activations: int = 0
    adds_to_loss: bool = False
    check: Callable[[int, S], None] = _fits_any
    defaults: Mapping[str, Any] = field(default_factory=dict)
    defaults_with_loss: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplerInputs:
    """What a sampler may be built from.

    Attributes:
        model: the base model.
        observed: the training interactions.
        shared_negatives: how many negatives the loss wants the whole batch to share; None if none.
    """

    model: Any
    observed: UserItems
    shared_negatives: int | None = None

    @cached_property
    def vector_size(self) -> int:
        """D of the model's item representations. Some models concatenate, so it may exceed
        `embedding_dim`."""
        parameter = next(self.model.parameters())
        with torch.no_grad():
            return self.model.items(torch.zeros(1, dtype=torch.int64, device=parameter.device)).shape[-1]


@dataclass(frozen=True)
class SamplerComponent(Generic[S]):
    """A source of negatives.

    Attributes:
        name: what `sampler.name` calls it, and the name of its settings block.
        settings: its own settings; their docstring is its one-line description.
        build: makes the sampler.
        takes_all_items: whether its negatives are the whole catalog, as the full cross-entropy wants.
        shares: whether its negatives are those of the batch where the loss wants these, so that its own
            number of `negatives` has no effect.
        joins: for a sampler of generated negatives, the name of the ordinary sampler it joins beside a loss
            that is not pairwise; None for a sampler that always stands alone.
    """

    name: str
    settings: type[S]
    build: Callable[[SamplerInputs, S], nn.Module]
    takes_all_items: bool = False
    shares: bool = False
    joins: Callable[[S], str] | None = None


class LossFunction(Protocol):
    """What a loss is: scores in, a number per row out."""

    def __call__(
        self,
        positive_B: torch.Tensor,
        negative_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        log_q_BK: torch.Tensor | None,
    ) -> torch.Tensor:
        """`[B]` losses.

        Args:
            positive_B: the positives' scores.
            negative_BK: the negatives' scores.
            mask_BK: False for negatives that do not count.
            log_q_BK: log-probability of drawing each negative, less that of drawing the row's positive; None
                if all items are equally likely.
        """
        ...


@dataclass(frozen=True)
class LossComponent(Generic[S]):
    """A loss.

    Attributes:
        name: what `loss.name` calls it, and the name of its settings block.
        settings: its own settings; their docstring is its one-line description.
        build: makes the loss function.
        is_pairwise: whether it compares each negative with its positive. Generated negatives may then replace
            ordinary ones; with other losses they join them.
        is_softmax: whether negatives share a softmax with their positive.
        takes_all_items: whether its negatives are the whole catalog.
        temperature: divides its scores; None if it has none.
        shared_negatives: how many negatives it wants the whole batch to share; None if none.
    """

    name: str
    settings: type[S]
    build: Callable[[S], LossFunction]
    is_pairwise: bool = False
    is_softmax: bool = False
    takes_all_items: bool = False
    temperature: Callable[[S], float] | None = None
    shared_negatives: Callable[[S], int] | None = None

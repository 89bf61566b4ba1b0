"""The configuration of a run: one YAML file, and `--set section.key=value` over it.

`model.name`, `loss.name` and `sampler.name` pick components. Each component has a block of its own settings,
named after it and declared in its own file; see `adar_ray.component`.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError, create_model, field_validator, model_validator

from adar_ray.component import Settings, setting
from adar_ray.custom import is_custom
from adar_ray.documents import explain, parse_yaml, read_yaml, to_yaml
from adar_ray.errors import AdarError, one_line
from adar_ray.limits import check_list
from adar_ray.metrics import METRICS
from adar_ray.registry import LOSSES, MODELS, SAMPLERS, settings_blocks

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

TRACKERS = ("mlflow", "wandb")  # libraries that `train.callbacks` may name


class DataConfig(Settings):
    """How interactions reach the workers."""

    cache: Literal["auto", "always", "never"] = setting(
        "auto",
        "Keep the training rows in every worker after the first pass (always), stream them again each epoch "
        "(never), or keep them up to 64 million interactions (auto).",
    )


def _known(kind: str, name: str, components: Collection[str]) -> str:
    if name not in components and not is_custom(name):
        raise ValueError(f"there is no {kind} {name!r}{nearest(name, components)}")
    return name


class ModelConfig(Settings):
    """The base model."""

    name: str = setting(
        "lightgcn", f"One of {', '.join(MODELS)}; or a custom model, as module:callable.", structural=True
    )
    embedding_dim: int = setting(
        64,
        "Length of a user's or an item's embedding.",
        search={"choice": [32, 64, 128]},
        structural=True,
        ge=1,
        le=65_536,
    )
    cosine: bool = setting(
        False,
        "Score by the cosine instead of the dot product.",
        search={"choice": [True, False]},
        structural=True,
    )
    length_power: float = setting(
        0.25,
        "With cosine: items are ranked by the cosine times the length of their vector to this power. 0 ranks "
        "by the cosine, 1 by the dot product.",
        search={"uniform": [0, 1]},
        ge=0,
        le=2,
    )
    tables: Literal["replicated", "sharded"] = setting(
        "replicated",
        "Every worker has all vectors of items (replicated), or its share of them, and asks the others for "
        "those that a step needs (sharded): for tables larger than a worker.",
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known("model", name, MODELS)


class LossConfig(Settings):
    """What training minimizes."""

    name: str = setting("bpr", f"One of {', '.join(LOSSES)}; or a custom loss, as module:callable.")
    l2: float = setting(
        1e-4,
        "L2 regularization: times half the squared length of the batch's vectors, mean per row.",
        search={"loguniform": [1e-5, 1e-1]},
        ge=0,
        le=1e6,
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known("loss", name, LOSSES)


class SamplerConfig(Settings):
    """Where negatives come from."""

    name: str = setting(
        "adar", f"One of {', '.join(SAMPLERS)}; or a custom sampler, as module:callable.", structural=True
    )
    mask_seen: bool = setting(
        True,
        "Never give a training item of the user as a negative; if false, only the pair's item is excluded.",
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known("sampler", name, SAMPLERS)


class OptimizerConfig(Settings):
    """How Adam follows the gradient. In an embedding table it moves only the rows of the batch."""

    lr: float = setting(1e-3, "Learning rate.", search={"loguniform": [3e-4, 1e-2]}, gt=0, le=1e30)
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant",
        "After the warm-up, keep the learning rate, or decay it to 0 by the last step of train.epochs.",
        search={"choice": ["constant", "linear", "cosine"]},
    )
    warmup: float = setting(
        0.0,
        "Share of the steps of train.epochs over which the learning rate first rises to lr.",
        search={"choice": [0.0, 0.02, 0.1]},
        ge=0,
        le=1,
    )
    clip: float = setting(
        0.0,
        "Clip the norm of a step's gradients, all of them together, to this; 0: never.",
        search={"loguniform": [0.01, 10]},
        ge=0,
        le=1e6,
    )
    weight_decay: float = setting(
        0.0,
        "A step shrinks the weights that it updates by this times the learning rate (AdamW), except biases "
        "and other one-dimensional weights.",
        search={"loguniform": [1e-4, 1]},
        ge=0,
        le=1e6,
    )


class TrainConfig(Settings):
    """The training loop."""

    epochs: int = setting(100, "Maximum number of passes over the training interactions.", ge=1, le=50_000)
    batch_size: int = setting(
        2048, "Interactions, or sequence rows, per step, over all workers together.", ge=1, le=2**30
    )
    accumulate: int = setting(
        1,
        "Parts that a batch is computed in, one after the other, to take less memory; their gradients add up "
        "to those of the whole batch.",
        ge=1,
        le=2**20,
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        "With bfloat16, the matrix products of a training step are computed in it, for GPUs. Weights, "
        "losses and rankings stay in float32.",
    )
    seed: int = setting(0, "Seed of everything random.", ge=0, lt=2**31)
    metric: str = setting(
        "ndcg@20",
        f"Validation metric that decides which epoch is best, the highest: one of {', '.join(METRICS)} at a "
        "cutoff; or your own, as module:callable@K.",
    )
    valid_users: int = setting(
        0, "Validate on at most this many users, drawn at random once; 0: on all.", ge=0, lt=2**31
    )
    patience: int = setting(10, "Stop after this many epochs without a better one.", ge=1, le=1_000_000)
    threads: int = setting(
        1,
        "CPU threads per worker. Another number adds in another order and rounds differently.",
        ge=1,
        le=4_096,
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "auto gives each worker a GPU if there are enough."
    )
    gpus: float = setting(
        1.0,
        "Share of a GPU that a worker reserves, if it uses one. Less than 1 needs a single worker.",
        gt=0,
        le=1,
    )
    on_nan: Literal["stop", "skip"] = setting(
        "stop",
        "At a step whose loss is not a number, stop, or skip the step and count it. To skip, all workers "
        "wait for each other at every step.",
    )
    callbacks: list[str] = setting(
        [],
        f"What training reports steps and epochs to: {', '.join(TRACKERS)}; or your own, as module:callable.",
    )

    @field_validator("callbacks")
    @classmethod
    def _are_known(cls, names: list[str]) -> list[str]:
        for name in names:
            _known("callback", name, TRACKERS)
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice")
        return names


class CheckpointsConfig(Settings):
    """What an interrupted run resumes from. There is one at the end of every epoch."""

    minutes: float = setting(
        10.0,
        "Save within an epoch too, after this many minutes without a checkpoint; 0: never.",
        ge=0,
        le=1e6,
    )
    steps: int = setting(0, "Save within an epoch too, every so many steps; 0: never.", ge=0, lt=2**31)
    keep: int = setting(
        2,
        "Keep this many of the newest, in case one is damaged, the last that ends an epoch, and that of the "
        "best epoch.",
        ge=1,
        le=1000,
    )


def parse_metric(metric: str) -> tuple[str, int]:
    """`"ndcg@20"` -> `("ndcg", 20)`, `"my_metrics:spread@5"` -> `("my_metrics:spread", 5)`; raises ValueError
    for anything else."""
    name, _, k = metric.partition("@")
    if not (name in METRICS or is_custom(name)) or not re.fullmatch("[1-9][0-9]{0,5}", k):
        known = ", ".join(f"{known}@K" for known in METRICS)
        raise ValueError(
            f"train.metric {metric!r} is not a metric: give one of {known}, or your own as "
            "module:callable@K, with a whole number K up to 999999"
        )
    return name, int(k)


# A class made at run time, which a type checker cannot follow.
_fields: Any = {name: (block, block()) for name, block in settings_blocks().items()}
_Blocks: Any = create_model("_Blocks", __base__=Settings, **_fields)


class Config(_Blocks):
    """Everything that tells one run from another, except the dataset and the number of workers.

    Besides the sections below, it has a block of settings for every component that has any, such as
    `config.adar.beta`. `load_config` makes one, with the defaults that its model declares.
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    custom: dict[str, Any] = setting({}, "Settings of custom components, for them to read.")

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def settings_of(self, name: str) -> Settings:
        """The settings block of a component of the registry; an empty one if it has no settings."""
        block: Settings | None = getattr(self, name, None)
        return Settings() if block is None else block

    def for_catalog(self, n_items: int) -> Self:
        blocks = {name: block for name, block in self if isinstance(block, Settings)}
        return self.model_copy(update={name: block.for_catalog(n_items) for name, block in blocks.items()})

    def component_names(self) -> list[str]:
        """What `model.name`, `loss.name`, `sampler.name`, `train.callbacks` and, if it is the user's own,
        `train.metric` say."""
        metric = parse_metric(self.train.metric)[0]
        own = [] if metric in METRICS else [metric]
        return [self.model.name, self.loss.name, self.sampler.name, *self.train.callbacks, *own]

    def sampler_names(self) -> list[str]:
        """The samplers that train: that of the loss, then the one that joins it, if any; the last one is
        studied.

        Generated negatives replace ordinary ones in a pairwise loss and join them beside any other.
        """
        sampler, loss = SAMPLERS.get(self.sampler.name), LOSSES.get(self.loss.name)
        if sampler is None or sampler.joins is None or (loss is not None and loss.is_pairwise):
            return [self.sampler.name]
        if loss is not None and loss.takes_all_items:
            return ["all", self.sampler.name]
        return [sampler.joins(self.settings_of(self.sampler.name)), self.sampler.name]

    def used(self) -> dict[str, dict[str, Any]]:
        """The sections and blocks that have an effect, as plain values: what a run's config.yaml records."""
        blocks = {
            "model": [self.model.name],
            "loss": [self.loss.name],
            "sampler": self.sampler_names()[::-1],
        }
        names = []
        for section in ("data", "model", "loss", "sampler", "optimizer", "train", "checkpoints"):
            names += [section, *blocks.get(section, [])]
        used = {name: getattr(self, name).model_dump() for name in names if hasattr(self, name)}
        return used | ({"custom": dict(self.custom)} if self.custom else {})

    def used_by_key(self) -> dict[str, Any]:
        """The settings that have an effect, by `section.key`."""
        used = self.used()
        return {f"{section}.{key}": value for section, keys in used.items() for key, value in keys.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        model, loss = MODELS.get(self.model.name), LOSSES.get(self.loss.name)
        if model is not None:
            if self.model.cosine and not model.has_cosine:
                raise ValueError(
                    f"model.cosine does not go with model.name {model.name}, whose score is a network's"
                )
            model.check(self.model.embedding_dim, self.settings_of(model.name))
        takes_all_items = loss is not None and loss.takes_all_items
        if self.model.tables == "sharded":
            if model is None or not model.shards_items:
                able = ", ".join(name for name, known in MODELS.items() if known.shards_items)
                raise ValueError(f"model.tables sharded goes with model.name {able}, not {self.model.name}")
            if takes_all_items:
                raise ValueError(
                    f"model.tables sharded does not go with loss.name {self.loss.name}, which takes all "
                    "items: use sampled_softmax"
                )
        first = SAMPLERS.get(self.sampler_names()[0])
        if takes_all_items and not (first and first.takes_all_items):
            raise ValueError(
                f"loss.name {self.loss.name} takes all items as negatives, not those of sampler.name "
                f"{self.sampler.name}: use all or adar"
            )
        if first is not None and first.takes_all_items and not takes_all_items:
            raise ValueError(f"sampler.name {first.name} goes only with loss.name cross_entropy")
        parse_metric(self.train.metric)
        return self


_SECTIONS: dict[str, type[Settings]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "sampler": SamplerConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
    "checkpoints": CheckpointsConfig,
    **settings_blocks(),
}


def load_config(
    file: str | Path | None = None,
    settings: Iterable[str] = (),
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The configuration of a YAML file, a mapping and `section.key=value` settings, in that order.

    Logs a note if settings are of components that are not in use.

    Raises:
        AdarError: names the file or setting, the key, and the nearest key there is.
    """
    check_setting_list(settings)
    settings = tuple(settings)
    if isinstance(file, Mapping):
        raise AdarError("file: is a mapping; give it as values")
    origin = "configuration" if file is None else str(file)
    content = {} if file is None else read_yaml(Path(file))
    if not isinstance(content, Mapping):
        raise AdarError(f"{file}: has no sections; `adar-ray train --show-config` shows what it may hold")
    config = build_config([(origin, content), (origin, values or {}), *map(read_setting, settings)], origin)
    if note := note_on_unused(settings, config):
        logger.warning("note: %s", note)
    return config


def with_settings(values: Mapping[str, Mapping[str, Any]], settings: Iterable[str]) -> Config:
    """The configuration of a mapping and `section.key=value` settings, whether or not all are in use."""
    return build_config([("configuration", values), *map(read_setting, settings)], "configuration")


def check_setting_list(settings: Any) -> None:
    """Refuses what is not a list of `section.key=value`."""
    if isinstance(settings, Mapping):
        raise AdarError("settings: is a mapping; give a list of section.key=value, such as ['adar.beta=0.8']")
    check_list("settings", settings)


def build_config(layers: Iterable[tuple[str, Mapping[str, Any]]], origin: str) -> Config:
    """The configuration of several layers of sections, each over those before it and all over the model's
    defaults.

    Args:
        layers: each layer's origin, for messages, and its sections.
        origin: their common origin, for faults of the combination.
    """
    merged: dict[str, dict[str, Any]] = {}
    set_by: dict[str, str] = {}
    for name, sections in layers:
        _merge(merged, set_by, sections, name)
    _add_model_defaults(merged)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        # A fault of a whole block is blamed on the layer that set it last.
        blamed = [by for key, by in set_by.items() if key == where or key.startswith(f"{where}.")]
        raise AdarError(f"{blamed[-1] if blamed and where else origin}: {explain(error)}") from error


def recorded_config(sections: Mapping[str, Any], origin: str) -> Config:
    """The configuration that a run or a model was written with.

    Raises:
        AdarError: this version has other settings.
    """
    # Before there was a choice, items were ranked by the cosine.
    before = (origin, {"model": {"length_power": 0.0}})
    try:
        return build_config([before, (origin, sections)], origin)
    except AdarError as error:
        # What a message suggests after its first clause is for who writes a configuration.
        problem = str(error).removeprefix(f"{origin}: ").partition("; ")[0]
        raise AdarError(
            f"{origin}: was written by another version of adar-ray ({problem}); "
            "use that version, or train again"
        ) from error


def read_setting(setting: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """`section.key=value` as a layer of `build_config`."""
    path, equals, text = str(setting).partition("=")
    section, dot, key = path.strip().partition(".")
    origin = f"--set {one_line(setting, 100)}"
    if not (equals and dot and key and key.isprintable()):
        with_key = [name for name in _all_keys() if name.partition(".")[2] == path.strip()]
        hint = f"; did you mean {with_key[0]}?" if with_key else ", such as --set adar.beta=0.8"
        raise AdarError(f"{origin}: give it as section.key=value{hint}")
    value = parse_yaml(text, origin)
    check_key(section, key, origin)
    return origin, {section: {key: value}}


def note_on_unused(settings: Iterable[str], config: Config) -> str | None:
    """A line for people about `section.key=value` settings of components that are not in use; else None."""
    used = config.used_by_key()
    names = [name for name in (setting.partition("=")[0] for setting in settings) if name not in used]
    if not names:
        return None
    be = "has" if len(names) == 1 else "have"
    return f"{', '.join(names)} {be} no effect here: the component is not in use"


def _merge(
    into: dict[str, dict[str, Any]], set_by: dict[str, str], values: Mapping[str, Any], origin: str
) -> None:
    for section, keys in values.items():
        if section == "run":
            continue  # a run's own config.yaml: its dataset, workers and versions
        check_key(section, None, origin)
        if keys is not None and not isinstance(keys, Mapping):
            raise AdarError(f"{origin}: section {section} has no keys")
        for key in keys or {}:
            check_key(section, key, origin)
            set_by[f"{section}.{key}"] = origin
        into.setdefault(section, {}).update(keys or {})


def _add_model_defaults(sections: dict[str, dict[str, Any]]) -> None:
    """Sets what the model declares a default for and no layer has set."""
    name = sections.get("model", {}).get("name", ModelConfig().name)
    model = MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        return
    loss = sections.get("loss", {}).get("name", model.defaults.get("loss.name", LossConfig().name))
    with_loss = model.defaults_with_loss.get(loss, {}) if isinstance(loss, str) else {}
    for path, value in {**model.defaults, **with_loss}.items():
        section, _, key = path.partition(".")
        sections.setdefault(section, {}).setdefault(key, value)


def check_key(section: str, key: str | None, origin: str) -> None:
    """Refuses a section or key that the configuration does not have."""
    if section == "custom":
        return
    if section not in _SECTIONS:
        raise AdarError(
            f"{origin}: there is no section {section!r}{nearest(section, (*_SECTIONS, 'custom'))}"
        )
    if key is not None and key not in _SECTIONS[section].model_fields:
        everywhere = _all_keys()
        same_key = [name for name in everywhere if name.partition(".")[2] == key]
        hint = f"; did you mean {same_key[0]}?" if same_key else nearest(f"{section}.{key}", everywhere)
        raise AdarError(f"{origin}: there is no key {section}.{key}{hint}")


def _all_keys() -> list[str]:
    return [f"{section}.{key}" for section, block in _SECTIONS.items() for key in block.model_fields]


def nearest(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown name ends: with the nearest known name, or with all of them."""
    known = sorted(known)
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(known)}"


def search_range(name: str) -> dict[str, list[Any]] | None:
    """The distribution that a key such as `adar.beta` declares for searches; None if it declares none.

    Raises:
        AdarError: there is no such key.
    """
    return _declared(name, "search")


def is_structural(name: str) -> bool:
    """Whether weights that were trained with another value of a key such as `model.cosine` do not fit.

    Raises:
        AdarError: there is no such key.
    """
    return bool(_declared(name, "structural"))


def _declared(name: str, what: str) -> Any:
    """What `setting` was told about a key; None if it was not."""
    section, _, key = name.partition(".")
    check_key(section, key, name)
    extra = _SECTIONS[section].model_fields[key].json_schema_extra if section in _SECTIONS else None
    return extra.get(what) if isinstance(extra, dict) else None


def explained(config: Config) -> str:
    """The sections in use as YAML, with the sentence that explains each key."""
    lines = []
    for name, values in config.used().items():
        block = _SECTIONS.get(name)
        lines += [f"# {block.__doc__}" if block else "# Settings of custom components.", f"{name}:"]
        for key, value in values.items():
            if block:
                lines.append(f"  # {block.model_fields[key].description}")
            lines.append(f"  {key}: {to_yaml(value, flow=True).splitlines()[0]}")
    lines += [
        "# Other components have blocks of their own. Name one to see its block, such as sampler.name=dns.",
        f"#   models: {', '.join(MODELS)}",
        f"#   losses: {', '.join(LOSSES)}",
        f"#   samplers: {', '.join(SAMPLERS)}",
    ]
    return "\n".join(lines) + "\n"

"""The configuration of a run: one YAML file, and `--set section.key=value` over it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adar_ray.errors import AdarError, one_line
from adar_ray.metrics import METRICS


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """How interactions reach the workers."""

    cache: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Keep the training rows in every worker after the first pass (always), stream them "
        "again each epoch (never), or keep them if they are at most 64 million interactions (auto).",
    )


MODELS = ("mf", "neumf", "ngcf", "lightgcn", "simgcl", "gru4rec", "sasrec", "bert4rec", "fmlprec")
SEQUENTIAL_MODELS = ("gru4rec", "sasrec", "bert4rec", "fmlprec")
GRAPH_MODELS = ("ngcf", "lightgcn", "simgcl")


class ModelConfig(Section):
    """The base model."""

    name: str = Field(
        "mf",
        description=f"The base model: one of {', '.join(MODELS)}; or your own, as module:callable.",
    )
    dim: int = Field(64, ge=1, description="Length of a representation.")
    layers: int = Field(2, ge=1, description="Layers of whatever the model has; mf has none.")
    heads: int = Field(2, ge=1, description="Attention heads; for sasrec and bert4rec.")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of activations dropped; for neumf, ngcf and sequential models."
    )
    cosine: bool = Field(False, description="Score by the cosine instead of the dot product; not for neumf.")
    mask: float = Field(0.2, gt=0, lt=1, description="Share of positions hidden in training; for bert4rec.")
    noise: float = Field(0.1, ge=0, description="Length of the views' noise; for simgcl.")
    contrast: float = Field(0.2, ge=0, description="Weight of the loss between views; for simgcl.")
    contrast_temperature: float = Field(0.2, gt=0, description="Temperature of that loss; for simgcl.")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in MODELS and not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(f"there is no model {name!r}{nearest(name, MODELS)}")
        return name


class LossConfig(Section):
    """What is minimized."""

    name: Literal["bpr", "bce", "sampled_softmax", "cross_entropy"] = Field(
        "bpr", description="The loss: pairwise, pointwise, over sampled items, over all items."
    )
    temperature: float = Field(
        0.2, gt=0, description="Divides the scores; for sampled_softmax and cross_entropy."
    )
    log_q: bool = Field(
        True,
        description="Correct for popular items being drawn more often, where they are; for sampled_softmax.",
    )
    l2: float = Field(
        1e-4, ge=0, description="Penalty: times half the squared length of the batch's vectors, mean a row."
    )


class SamplerConfig(Section):
    """Where negatives come from."""

    name: Literal[
        "adar", "uniform", "popularity", "in_batch", "dns", "mixgcf", "dens", "ahns", "srns", "all"
    ] = Field("adar", description="The sampler; all is cross_entropy without ADAR.")
    joins: Literal["uniform", "popularity", "in_batch"] = Field(
        "uniform", description="The ordinary negatives that ADAR's join; with bce and sampled_softmax."
    )
    negatives: int = Field(
        1, ge=1, description="Negatives a positive, of every sampler but adar and shared ones."
    )
    shared: int = Field(
        512, ge=1, description="Uniform or popular negatives that the batch shares; with sampled_softmax."
    )
    candidates: int = Field(
        16, ge=1, description="Items among which a negative is chosen; for dns, mixgcf, dens, ahns and srns."
    )
    top: int = Field(1, ge=1, description="One of this many hardest candidates is taken; for dns.")
    alpha: float = Field(0.75, ge=0, description="Power of the popularity; for popularity.")
    mask_seen: bool = Field(True, description="Never give a training item of the user as a negative.")


class AhnsConfig(Section):
    """The ahns sampler: the candidate whose score is nearest to `beta (positive's + alpha)^(p + 1)`."""

    alpha: float = Field(1.0, gt=0, description="Added to the positive's score.")
    beta: float = Field(0.1, gt=0, description="Hardness of negatives.")
    p: float = Field(
        -2.0, le=-1, description="At -1 the target is fixed; the lower, the faster it falls with the score."
    )


class DensConfig(Section):
    """The dens sampler."""

    warmup: int = Field(100, ge=1, description="Epochs over which irrelevant factors come to matter less.")
    gamma: float = Field(0.3, ge=0, description="Weight of the gates' own loss.")


class SrnsConfig(Section):
    """The srns sampler."""

    memory: int = Field(20, ge=1, description="Candidates remembered a user.")
    alpha: float = Field(1.0, ge=0, description="Weight of the deviation of a candidate's score.")
    warmup: int = Field(50, ge=1, description="Epochs over which the deviation comes to count.")
    temperature: float = Field(1.0, gt=0, description="The lower, the harder what is remembered.")


class AdarConfig(Section):
    """The method's own parameters; see docs/method.md."""

    beta: float = Field(0.9, gt=0, le=1, description="The boundary as a share of the positive's score.")
    gamma: float = Field(1.0, ge=-3, le=3, description="Slope of the boundary over the positive's score.")
    M: int = Field(16, ge=1, description="The noise is the hardest of M from the pool.")
    hidden: float = Field(
        16.0, ge=0, description="Hidden positives to expect a seen item: who has seen much gets a lower M."
    )
    K: int = Field(4, ge=1, description="Negatives a positive.")
    phi_min: float = Field(
        0.1, ge=0, le=1, description="Never nearer to the positive than this share of the way."
    )
    pool: int = Field(256, ge=2, description="Noise vectors that the batch shares.")
    noise: Literal["catalog", "gaussian", "gaussian_diagonal", "isotropic"] = Field(
        "catalog",
        description="What positives are diffused into: random items; Gaussian vectors with the catalog's "
        "mean and covariance, or its diagonal; of mean 0 and variance 1.",
    )
    schedule: Literal["cosine", "linear", "sigmoid"] = Field(
        "cosine", description="Which steps there are between a positive and its noise."
    )
    T: int = Field(1000, ge=1, description="Their number.")
    warmup: int = Field(0, ge=0, description="Epochs in which negatives are plain noise.")
    attach: bool = Field(
        False, description="Let the gradient of a negative push the positive that it was made of, too."
    )
    weight: float = Field(
        0.5, gt=0, description="Weight of generated negatives beside ordinary ones; with any loss but bpr."
    )


class OptimizerConfig(Section):
    """How parameters follow the gradient."""

    name: Literal["adam", "sparse_adam"] = Field(
        "adam", description="sparse_adam updates the rows of the batch alone: for large tables."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate.")


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(100, ge=1, description="Passes over the training interactions, at most.")
    batch_size: int = Field(
        2048, ge=1, description="Interactions, or sequence rows, a step, over all workers together."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of everything random.")
    metric: str = Field("ndcg@20", description="Decides on validation which epoch is best.")
    valid_users: int = Field(
        0, ge=0, description="Rank for so many of validation's users at most, drawn at random; 0: for all."
    )
    patience: int = Field(10, ge=1, description="Epochs without a better one after which training stops.")
    threads: int = Field(
        1, ge=1, description="CPU threads a worker. Another number rounds sums in another order."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU a worker where there are."
    )


class Config(Section):
    """Everything that tells one run from another, but for the data set and the number of workers."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    adar: AdarConfig = AdarConfig()
    ahns: AhnsConfig = AhnsConfig()
    dens: DensConfig = DensConfig()
    srns: SrnsConfig = SrnsConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.optimizer.name == "sparse_adam" and self.model.name != "mf":
            raise ValueError(
                f"optimizer.name sparse_adam does not go with model.name {self.model.name}, "
                "whose gradient reaches every row: use adam"
            )
        if self.model.cosine and self.model.name == "neumf":
            raise ValueError("model.cosine does not go with model.name neumf, whose score is a network's")
        if self.model.dim % self.model.heads and self.model.name in ("sasrec", "bert4rec"):
            raise ValueError(f"model.dim {self.model.dim} is no multiple of model.heads {self.model.heads}")
        if self.loss.name == "cross_entropy" and self.sampler.name not in ("all", "adar"):
            raise ValueError(
                f"loss.name cross_entropy takes all items as negatives, not those of sampler.name "
                f"{self.sampler.name}: use all or adar"
            )
        if self.sampler.name == "all" and self.loss.name != "cross_entropy":
            raise ValueError("sampler.name all goes with loss.name cross_entropy alone")
        if self.sampler.top > self.sampler.candidates:
            raise ValueError(
                f"sampler.top {self.sampler.top} is more than sampler.candidates {self.sampler.candidates}"
            )
        if self.sampler.name == "srns" and self.sampler.negatives > self.srns.memory:
            raise ValueError(
                f"sampler.negatives {self.sampler.negatives} is more than srns.memory {self.srns.memory}, "
                "among which they are chosen"
            )
        parse_metric(self.train.metric)
        return self


_KEYS = {section: tuple(field.annotation.model_fields) for section, field in Config.model_fields.items()}


def parse_metric(metric: str) -> tuple[str, int]:
    """`"ndcg@20"` -> `("ndcg", 20)`; raises ValueError for anything else."""
    name, _, k = metric.partition("@")
    if name not in METRICS or not k.isdecimal() or int(k) < 1:
        known = ", ".join(f"{known}@K" for known in METRICS)
        raise ValueError(f"train.metric {metric!r} is no metric: give one of {known} with a whole number K")
    return name, int(k)


def load_config(
    file: str | Path | None = None,
    settings: Iterable[str] = (),
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The configuration of a YAML file, a mapping and `section.key=value` settings, in that order.

    Raises:
        AdarError: names the file or setting, the key, and the nearest key there is.
    """
    origin = "configuration" if file is None else str(file)
    content = {} if file is None else read_yaml(Path(file))
    if not isinstance(content, Mapping):
        raise AdarError(f"{file}: holds no sections; see `adar-ray train --show-config` for what it may hold")
    return build_config([(origin, content), (origin, values or {}), *map(read_setting, settings)], origin)


def build_config(layers: Iterable[tuple[str, Mapping[str, Any]]], origin: str) -> Config:
    """The configuration of several layers of sections, each over those before it.

    Args:
        layers: where a layer comes from, for messages, and its sections.
        origin: where they all come from, for what is wrong with them together.
    """
    merged: dict[str, dict[str, Any]] = {}
    set_by: dict[str, str] = {}
    for name, sections in layers:
        _merge(merged, set_by, sections, name)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise AdarError(f"{set_by.get(where, origin)}: {explain(error)}") from error


def read_setting(setting: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """`section.key=value` as a layer of `build_config`."""
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    origin = f"--set {setting}"
    if not (equals and dot and key):
        raise AdarError(f"{origin}: give it as section.key=value, such as --set adar.beta=0.8")
    value = read_value(text, origin)
    check_key(section, key, origin)
    return origin, {section: {key: value}}


def read_value(text: str, origin: str) -> Any:
    """What stands behind the equals sign of a setting, as YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise AdarError(f"{origin}: the value cannot be read ({one_line(error)})") from error


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(file: Path) -> Any:
    """What a YAML file holds; `{}` if that is nothing. Runs nothing that it names."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise AdarError(f"{file}: cannot be read ({one_line(error.strerror)})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AdarError(f"{file}: is not valid YAML ({one_line(error)})") from error
    return {} if content is None else content


def _merge(
    into: dict[str, dict[str, Any]], set_by: dict[str, str], values: Mapping[str, Any], origin: str
) -> None:
    for section, keys in values.items():
        if section == "run":
            continue  # what a run's own config.yaml says of itself: data set, workers, versions
        check_key(section, None, origin)
        if keys is not None and not isinstance(keys, Mapping):
            raise AdarError(f"{origin}: section {section} holds no keys")
        for key in keys or {}:
            check_key(section, key, origin)
            set_by[f"{section}.{key}"] = origin
        into.setdefault(section, {}).update(keys or {})


def check_key(section: str, key: str | None, origin: str) -> None:
    """Refuses a section, or a key of it, that the configuration does not have."""
    if section not in _KEYS:
        raise AdarError(f"{origin}: there is no section {section!r}{nearest(section, _KEYS)}")
    if key is not None and key not in _KEYS[section]:
        everywhere = [f"{known}.{k}" for known, keys in _KEYS.items() for k in keys]
        same_key = [name for name in everywhere if name.partition(".")[2] == key]
        hint = f"; did you mean {same_key[0]}?" if same_key else nearest(f"{section}.{key}", everywhere)
        raise AdarError(f"{origin}: there is no key {section}.{key}{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; there are {', '.join(known)}"


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: where, what, and the value."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"])
    return one_line(f"{where}: {message}, not {first['input']!r}" if where else message)


def explained(config: Config) -> str:
    """The configuration as YAML, with the sentence that explains each key."""
    lines = []
    for name, section in config:
        lines += [f"# {type(section).__doc__}", f"{name}:"]
        for key, field in type(section).model_fields.items():
            lines += [
                f"  # {field.description}",
                f"  {key}: {yaml.safe_dump(getattr(section, key)).split()[0]}",
            ]
    return "\n".join(lines) + "\n"

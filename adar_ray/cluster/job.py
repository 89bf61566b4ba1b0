"""A job for a cluster: one declarative YAML file. docs/files.md explains its keys.

A job is a list of `adar-ray` commands that run one by one, and the resources they get. No shell runs them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator

from adar_ray.component import Settings
from adar_ray.config import Config, nearest, read_setting
from adar_ray.documents import explain, parse_json, parse_yaml, read_yaml
from adar_ray.durations import Seconds
from adar_ray.errors import AdarError, has_secret, one_line
from adar_ray.limits import MOST_REPEATS
from adar_ray.workers import WorkerRange

JOB, NAME = "ADAR_RAY_JOB", "ADAR_RAY_JOB_NAME"  # the environment variables that the driver reads
COMMANDS = ("prepare", "train", "tune", "evaluate", "recommend", "export", "publish")
WITH_OUT = ("prepare", "train", "tune", "recommend", "export")
_WORKERS = {"train": "--workers", "tune": "--workers-per-trial"}
_REFUSED = {
    "--workers": "set workers.number instead",
    "--workers-per-trial": "set workers.number instead",
    "--resume": "a job resumes by itself",
    "--replace": "a job overwrites nothing: put $name into the address",
    "--rollback": "a job that resumes would go back one version more: roll back by hand",
    "--debug": "everyone who can see the job would see a traceback",
    "--show-config": "a step that prints the configuration trains nothing",
    "--help": "a step that prints help does nothing else",
    "-h": "a step that prints help does nothing else",
}
# Not TOKENIZERS_PARALLELISM, and not PWD and OLDPWD, which are folders.
_SECRET = re.compile(
    r"SECRET|TOKEN(?!IZ)|PASSW|CREDENTIAL|PRIVATE|KEY$|CONNECTION_?STRING|(^|_)(PAT|AUTH)$"
    r"|WEBHOOK|(?<!^)(?<!^OLD)PWD$",
    re.IGNORECASE,
)
# Tokens of GitHub, GitLab, Hugging Face and Slack, and an address without a scheme; not the tag of an image,
# and no metric such as my_metrics:revenue@10.
_SECRET_VALUE = re.compile(
    r"\b(gh[opsur]|hf)_[A-Za-z0-9]{30}|\bgithub_pat_\w{22}|\bglpat-\w|\bxox[a-z]-\w"
    r"|(^|[\s=])[\w.+-]+:[^\s:/@]+@(?!sha256:|\d+(\W|$))[\w.-]+"
)
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}"


class EntryPoint(Settings):
    """Resources of the process that runs the steps."""

    cpus: float = Field(1, ge=0, le=4_096, description="CPUs; 0 runs it on the head, without a reservation.")
    gpus: float = Field(0, ge=0, le=4_096, description="GPUs.")
    memory: ByteSize = Field(ByteSize(0), ge=0, le=2**50, description="Memory, such as 2GiB.")


class Workers(Settings):
    """Resources of each `train`, and of each trial of a `tune`."""

    number: int | str = Field(
        1, description="Ray Train workers, or a range such as 1:4; 0 trains in the entry point."
    )
    cpus: int | None = Field(None, ge=1, le=4_096, description="CPUs per worker; sets train.threads.")
    gpus: float | None = Field(
        None, ge=0, le=1, description="GPUs per worker; sets train.device and train.gpus."
    )

    @field_validator("number")
    @classmethod
    def _is_a_number_or_a_range(cls, number: int | str) -> int | str:
        try:
            return WorkerRange.parse(number, "workers.number").asked
        except AdarError as error:
            raise ValueError(str(error)) from error


class Job(Settings):
    """Everything that is submitted, except the name."""

    storage: str = Field(description="Address of the data and runs; $storage in the steps.")
    steps: list[str] = Field(min_length=1, description="Commands of adar-ray, run one by one.")
    parameters: dict[str, str] = Field({}, description="Values that the steps use as $NAME.")
    settings: list[str] = Field([], description="section.key=value, for every train and tune step.")
    entry_point: EntryPoint = EntryPoint()
    workers: Workers = Workers()
    owner: str | None = Field(None, description="Whom to ask about the job; default: whoever submits it.")
    labels: dict[str, str] = Field({}, max_length=64, description="What else to find the job by.")
    environment: dict[str, str] = Field({}, description="Environment variables of all processes; no secrets.")
    ship: str | None = Field(None, description="Folder to send along, relative to the job file.")
    image: str | None = Field(None, description="Container image to run the processes in.")
    retries: int = Field(
        0, ge=0, le=MOST_REPEATS, description="Retries of a step whose failure may pass by itself."
    )
    time_limit: Seconds | None = Field(None, description="Longest duration: seconds, or such as 30m or 2h.")

    @classmethod
    def load(cls, file: str | Path, settings: Iterable[str] = ()) -> Job:
        """Read a job from a YAML file.

        Args:
            settings: `key=value` over the file: keys of the job, or `section.key` of the configuration.

        Raises:
            AdarError: names the file or setting, the key, and the nearest known key.
        """
        of_job: list[str] = []
        of_configuration: list[str] = []
        for setting in settings:
            section, dot, _ = setting.partition("=")[0].strip().partition(".")
            (of_configuration if dot and section in Config.model_fields else of_job).append(setting)
        layers = [
            (str(file), read_yaml(Path(file), as_text=True)),
            *(_read_setting(setting) for setting in of_job),
        ]
        for setting in of_configuration:
            read_setting(setting)
        job = cls._validated(layers, str(file), of_configuration)
        folder = None if job.ship is None else str((Path(file).parent / job.ship).resolve())
        return job.model_copy(update={"ship": folder})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read a job that `to_json` wrote."""
        return cls._validated([("job", parse_json(text, "job"))], "job")

    @classmethod
    def _validated(
        cls, layers: Iterable[tuple[str, Any]], origin: str, more_settings: Iterable[str] = ()
    ) -> Job:
        content: dict[str, Any] = {}
        set_by: dict[str, str] = {}
        for name, layer in layers:
            if not isinstance(layer, Mapping):
                raise AdarError(f"{name}: has no keys of a job, such as storage and steps")
            _check_keys(layer, cls, name)
            for key, value in layer.items():
                set_by[key] = name
                both_have_keys = isinstance(value, Mapping) and isinstance(content.get(key), Mapping)
                content[key] = {**content[key], **value} if both_have_keys else value
        try:
            job = cls.model_validate(content)
            job = job.model_copy(update={"settings": [*job.settings, *more_settings]})
            job._check()
        except ValidationError as error:
            where = error.errors()[0]["loc"]
            blamed = set_by.get(str(where[0]), origin) if where else origin
            raise AdarError(f"{blamed}: {explain(error)}") from error
        except AdarError as error:
            raise AdarError(f"{origin}: {error}") from error
        return job

    @field_validator("parameters")
    @classmethod
    def _names_are_valid(cls, parameters: dict[str, str]) -> dict[str, str]:
        for name in parameters:
            if not re.fullmatch(_VARIABLE, name) or name in ("storage", "name"):
                raise ValueError(
                    f"{name!r} cannot name a parameter: use letters, digits and _, except storage and name"
                )
        return parameters

    @field_validator("environment")
    @classmethod
    def _variables_are_valid(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(_VARIABLE, name) or name in (JOB, NAME):
                raise ValueError(
                    f"{one_line(name, 80)!r} cannot name a variable: use letters, digits and _, except {JOB} "
                    f"and {NAME}"
                )
        return environment

    @field_validator("owner", "labels")
    @classmethod
    def _labels_are_short(cls, given: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for text in (*given, *given.values()) if isinstance(given, dict) else [given]:
            if text is not None and not re.fullmatch(_LABEL, text):
                raise ValueError(
                    f"{one_line(text, 80)!r} is not a label: give up to 63 letters, digits, or any of "
                    "- _ . @, with a letter or digit first"
                )
        return given

    @field_validator("settings")
    @classmethod
    def _settings_are_known(cls, settings: list[str]) -> list[str]:
        for setting in settings:
            read_setting(setting)
        return settings

    @field_validator("storage")
    @classmethod
    def _storage_is_absolute(cls, storage: str) -> str:
        if not _is_absolute(storage):
            raise ValueError("give an address that all machines share: s3://... or an absolute path")
        return storage.rstrip("/")

    @model_validator(mode="after")
    def _code_has_one_origin(self) -> Job:
        if self.ship is not None and self.image is not None:
            raise ValueError("give ship or image, not both: an image contains its own code")
        return self

    def _check(self) -> None:
        """Refuse secrets, which all who can list jobs would see, unknown steps, and what has no effect."""
        visible = "which everyone who can list jobs would see; set it where the cluster starts"
        for name in self.environment:
            if _SECRET.search(name):
                raise AdarError(f"environment.{name}: looks like a secret, {visible}")
        given = (self.storage, self.image or "", *self.steps, *self.settings)
        for text in (*given, *self.parameters.values(), *self.environment.values()):
            if has_secret(text) or _SECRET_VALUE.search(text):
                raise AdarError(f"an address, a step or a value contains a password or a key, {visible}")
        commands = {words[0] for words in self.commands("name")}
        for key, is_given in (("settings", self.settings), ("workers", self.workers != Workers())):
            if is_given and commands.isdisjoint(_WORKERS):
                raise AdarError(f"{key}: no step is a train or a tune, which they are for; leave them out")
        used = {name for step in self.steps for name in _names_in(step)} - {"storage", "name"}
        for name in self.parameters:
            if name not in used:
                hint = nearest(name, used) if used else "; leave it out"
                raise AdarError(f"parameters.{name}: no step uses ${name}{hint}")

    def commands(self, name: str) -> list[list[str]]:
        """The steps as command lines for `adar-ray`, if the job has this name.

        Raises:
            AdarError: a step is not a command that a job can run.
        """
        given = {"storage": self.storage, "name": name}
        known = given | {
            key: _filled(value, given, f"parameters.{key}") for key, value in self.parameters.items()
        }
        return [self._command(f"steps.{number}", step, known) for number, step in enumerate(self.steps, 1)]

    def _command(self, where: str, step: str, known: Mapping[str, str]) -> list[str]:
        try:
            command, *words = [_filled(word, known, where) for word in shlex.split(step)] or [""]
        except ValueError as error:
            raise AdarError(f"{where}: {step!r} cannot be read ({error})") from error
        if command not in COMMANDS:
            raise AdarError(f"{where}: there is no step {command!r}{nearest(command, COMMANDS)}")
        for word in words:
            if (flag := word.partition("=")[0]) in _REFUSED:
                raise AdarError(f"{where}: drop {flag}: {_REFUSED[flag]}")
        out = option(words, "--out")
        if command in WITH_OUT and out is None:
            raise AdarError(f"{where}: {command} needs --out")
        for flag in ("--out", "--to", "--recommendations"):
            address = option(words, flag)
            if address is not None and not _is_absolute(address):
                raise AdarError(f"{where}: {flag} {address} is lost when the job ends: begin with $storage")
        return [command, *self._resources(command), *words, *self._settings(command)]

    def _resources(self, command: str) -> list[str]:
        if command not in _WORKERS:
            return []
        workers = self.workers
        number = workers.number
        if command == "tune":  # with more workers a trial there are fewer trials at a time
            number = max(WorkerRange.parse(number).least, 1)
        words = [_WORKERS[command], str(number)]
        if workers.cpus is not None:
            words += ["--set", f"train.threads={workers.cpus}"]
        if workers.gpus is not None:
            words += ["--set", f"train.device={'cuda' if workers.gpus else 'cpu'}"]
        if workers.gpus:
            words += ["--set", f"train.gpus={workers.gpus:g}"]
        return words

    def _settings(self, command: str) -> list[str]:
        return [word for setting in self.settings if command in _WORKERS for word in ("--set", setting)]

    def to_json(self) -> str:
        """The job as JSON, without what only matters to whoever submits it, and `ship`, a path there."""
        return self.model_dump_json(exclude={"ship", "owner", "labels"})

    @property
    def fingerprint(self) -> str:
        """Tells whether two jobs run the same."""
        return sha256(self.to_json().encode()).hexdigest()


def _read_setting(setting: str) -> tuple[str, dict[str, Any]]:
    """Read `key=value` or `key.key=value` as a layer of a job."""
    path, equals, text = setting.partition("=")
    key, dot, inner = path.strip().partition(".")
    origin = f"--set {one_line(setting, 100)}"
    if not equals:
        raise AdarError(f"{origin}: write it as key=value, such as --set storage=/data")
    if dot and key not in Job.model_fields:
        known = (*Job.model_fields, *Config.model_fields)
        raise AdarError(f"{origin}: there is no key {path.strip()}{nearest(key, known)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AdarError(f"{origin}: is not UTF-8; write it in UTF-8") from error
    # What is text is taken as it is written: a shell has removed the quotation marks already.
    is_text = key in ("parameters", "labels", "environment") and inner
    value = text.strip() if is_text else parse_yaml(text, origin, as_text=True)
    return origin, {key: {inner: value} if dot else value}


def _check_keys(content: Mapping[str, Any], section: type[Settings], origin: str, where: str = "") -> None:
    fields = section.model_fields
    for key, value in content.items():
        if key not in fields:
            raise AdarError(f"{origin}: there is no key {where}{key}{nearest(key, fields)}")
        inner = fields[key].annotation
        if isinstance(value, Mapping) and inner in (EntryPoint, Workers):
            _check_keys(value, inner, origin, f"{where}{key}.")


def check_name(name: str) -> str:
    """Refuse a name that cannot be part of an address."""
    if not re.fullmatch(_NAME, name):
        raise AdarError(f"--name {name!r}: use letters, digits, - and _, and start with a letter or digit")
    return name


def option(words: list[str], flag: str) -> str | None:
    """The value of an option in a command line, the last one if there are several; None if there is none."""
    value = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _names_in(text: str) -> set[str]:
    """The names that `_filled` replaces."""
    return {found["named"] or found["braced"] for found in Template.pattern.finditer(text)} - {None}


def _filled(text: str, known: Mapping[str, str], where: str) -> str:
    """Replace every `$name` in `text` by its value."""
    try:
        return Template(text).substitute(known)
    except KeyError as error:
        raise AdarError(f"{where}: there is no ${error.args[0]}{nearest(error.args[0], known)}") from error
    except ValueError as error:
        raise AdarError(f"{where}: {text!r} has a $ without a name; write it as $$") from error


def _is_absolute(address: str) -> bool:
    return "://" in address or address.startswith("/")

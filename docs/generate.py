"""Writes the reference pages of the site from the code; MkDocs runs it at every build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
import mkdocs_gen_files

from adar_ray.cli.main import cli
from adar_ray.config import Config
from adar_ray.data.formats import FORMATS
from adar_ray.registry import LOSSES, MODELS, SAMPLERS, settings_blocks

TABLES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("Models", "model", MODELS),
    ("Losses", "loss", LOSSES),
    ("Samplers", "sampler", SAMPLERS),
)


def cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def limits(field: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        found.append(", ".join(f"`{choice}`" for choice in choices))
    return ", ".join(found)


def search_range(field: Any) -> str:
    extra = field.json_schema_extra or {}
    return ", ".join(f"{kind} {values}" for kind, values in extra.get("search", {}).items())


def settings_table(name: str, block: type[Any]) -> Iterator[str]:
    yield f"## {name}\n\n{block.__doc__}\n"
    yield "| key | default | values | searched over | meaning |\n| --- | --- | --- | --- | --- |"
    for key, field in block.model_fields.items():
        row = (f"`{name}.{key}`", f"`{field.default}`", limits(field), search_range(field), field.description)
        yield f"| {' | '.join(map(cell, row))} |"
    yield ""


def configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield (
        "One YAML file and `--set section.key=value` over it. `model.name`, `loss.name` and `sampler.name` "
        "pick components; each has a block of its own. Blocks of components that are not chosen have no "
        "effect. *Searched over* is the range that a [space](../tuning.md) takes for `default`.\n"
    )
    sections = ("data", "model", "loss", "sampler", "optimizer", "train")
    for name in sections:
        yield from settings_table(name, type(getattr(Config(), name)))
    for name, block in settings_blocks().items():
        yield from settings_table(name, block)
    yield "## custom\n\nFree keys, for [custom components](../custom.md) to read as `config.custom`.\n"


def components() -> Iterator[str]:
    yield "# Models, losses, samplers\n"
    for title, section, table in TABLES:
        yield f"## {title}\n\n| `{section}.name` | what it is | its settings |\n| --- | --- | --- |"
        for name, component in table.items():
            keys = ", ".join(f"`{key}`" for key in component.settings.model_fields)
            yield f"| `{name}` | {cell(component.settings.__doc__)} | {keys} |"
        yield ""


def formats() -> Iterator[str]:
    yield "# Source formats\n\n`adar-ray prepare` recognizes a source's format, or takes it as `--format`.\n"
    yield "| `--format` | what it is |\n| --- | --- |"
    for format in FORMATS.values():
        yield f"| `{format.name}` | {cell(format.description)} |"


def command_line() -> Iterator[str]:
    yield "# Command line\n"
    yield (
        "Progress and messages go to stderr, results to stdout. Exit status: 0 done, 1 failed with one line "
        "that says why, 2 wrong usage, 130 interrupted.\n"
    )
    yield from commands(cli, "adar-ray")


def commands(group: click.Group, path: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
            continue
        context = click.Context(command, info_name=f"{path} {name}")
        yield f"## {path} {name}\n\n```text\n{command.get_help(context)}\n```\n"


for page, lines in (
    ("configuration", configuration()),
    ("components", components()),
    ("formats", formats()),
    ("command-line", command_line()),
):
    with mkdocs_gen_files.open(f"reference/{page}.md", "w") as out:
        out.write("\n".join(lines) + "\n")

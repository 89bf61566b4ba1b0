"""Writes the reference pages of the site from the code, and the notebooks. MkDocs runs it at every build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import mkdocs_gen_files
import yaml
from nbconvert import MarkdownExporter
from pydantic.fields import FieldInfo

from adar_ray.cli.main import cli
from adar_ray.component import Settings
from adar_ray.config import Config, search_range
from adar_ray.data.formats import FORMATS
from adar_ray.registry import LOSSES, MODELS, SAMPLERS, settings_blocks

SECTIONS = ("data", "model", "loss", "sampler", "optimizer", "train")
COMPONENTS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("Models", "model", MODELS),
    ("Losses", "loss", LOSSES),
    ("Samplers", "sampler", SAMPLERS),
)
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
HELP: dict[str, Any] = {"terminal_width": 100, "help_option_names": ["-h", "--help"]}
PROPERTIES = {
    "is_sequential": "sequential",
    "is_pairwise": "pairwise",
    "is_softmax": "softmax",
    "takes_all_items": "all items",
    "joins": "generated",
}


def row(*cells: object) -> str:
    one_line = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(one_line)} |"


def head(*titles: str) -> str:
    return f"{row(*titles)}\n{row(*['---'] * len(titles))}"


def as_yaml(value: object) -> str:
    """A value as it is written in a configuration."""
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def values(field: FieldInfo) -> str:
    """The values that a setting may have: its choices or its limits."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    return ", ".join(
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in SIGNS.items()
        if hasattr(limit, name)
    )


def searched(key: str) -> str:
    """The range that a search space takes for `default`."""
    distribution = search_range(key) or {}
    return ", ".join(f"`{kind}: {as_yaml(bounds)}`" for kind, bounds in distribution.items())


def defaults(path: str, field: FieldInfo) -> str:
    """The default of a setting, and those of the models that declare another, some for a loss only."""
    models: dict[str, list[str]] = {}
    for name, model in MODELS.items():
        if path in model.defaults:
            models.setdefault(as_yaml(model.defaults[path]), []).append(f"`{name}`")
        for loss, values in model.defaults_with_loss.items():
            if path in values:
                models.setdefault(as_yaml(values[path]), []).append(f"`{name}` and `{loss}`")
    others = (f"`{value}` with {', '.join(names)}" for value, names in models.items())
    return "; ".join((f"`{as_yaml(field.default)}`", *others))


def settings(name: str, block: type[Settings], title: str) -> Iterator[str]:
    yield f"## {name}\n\n{title}{block.__doc__}\n"
    yield head("key", "default", "values", "searched over", "meaning")
    for key, field in block.model_fields.items():
        path = f"{name}.{key}"
        yield row(f"`{path}`", defaults(path, field), values(field), searched(path), field.description)
    yield ""


def configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield (
        "A configuration is one YAML file; `--set section.key=value` takes precedence over it. `model.name`, "
        "`loss.name` and `sampler.name` pick components, and each component has a block of its own settings. "
        "Blocks of components that are not in use have no effect. Some models have defaults of their own, "
        "some for one loss only, which apply where nothing sets the key. *Searched over* is the range that a "
        "[search space](../tuning.md) takes for `default`.\n"
    )
    for name in SECTIONS:
        yield from settings(name, type(getattr(Config(), name)), "")
    for _, section, components in COMPONENTS:
        for name, component in components.items():
            if name in settings_blocks():
                yield from settings(name, component.settings, f"With `{section}.name={name}`. ")
    yield "## custom\n\nFree keys, which [custom components](../custom.md) read as `config.custom`."


def component_tables() -> Iterator[str]:
    yield "# Models, losses, samplers\n"
    yield "Each can also be a [custom component](../custom.md), `module:callable`.\n"
    yield (
        "A *sequential* model reads histories; others know users by their ids. *Generated* negatives replace "
        "ordinary ones in a *pairwise* loss, and [join](../method.md#losses) them in any other. The loss and "
        "the sampler marked *all items* belong together; generated negatives can join them.\n"
    )
    for title, section, components in COMPONENTS:
        yield f"## {title}\n"
        yield head(f"`{section}.name`", "what it is", "properties", "its settings")
        for name, component in components.items():
            keys = [f"`{key}`" for key in component.settings.model_fields]
            link = f"[{', '.join(keys)}](configuration.md#{name})" if keys else ""
            found = [word for key, word in PROPERTIES.items() if getattr(component, key, None)]
            yield row(f"`{name}`", component.settings.__doc__, ", ".join(found), link)
        yield ""


def formats() -> Iterator[str]:
    yield "# Source formats\n"
    yield "`adar-ray prepare` detects the format of a source, or takes it as `--format`.\n"
    yield head("`--format`", "what it is", "file names")
    for format in FORMATS.values():
        names = ", ".join(f"`{name}`" for name in (*format.sure_names, *format.other_names))
        yield row(f"`{format.name}`", format.description, names)


def command_line() -> Iterator[str]:
    yield "# Command line\n"
    yield (
        "Progress and messages go to stderr, results to stdout. The exit status is 0 for success, 1 for a "
        "failure that one line explains, 2 for wrong usage, and 130 after an interrupt.\n"
    )
    yield from commands(cli, "adar-ray")


def commands(group: click.Group, path: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
            continue
        context = click.Context(command, info_name=f"{path} {name}", **HELP)
        yield f"## {path} {name}\n\n```text\n{command.get_help(context)}\n```\n"


PAGES = {
    "configuration": configuration(),
    "components": component_tables(),
    "formats": formats(),
    "command-line": command_line(),
}

for page, lines in PAGES.items():
    with mkdocs_gen_files.open(f"reference/{page}.md", "w") as out:
        out.write("\n".join(lines) + "\n")

for notebook in sorted(Path(__file__).parents[1].glob("examples/*.ipynb")):
    text, _ = MarkdownExporter().from_filename(str(notebook))
    with mkdocs_gen_files.open(f"examples/{notebook.stem}.md", "w") as out:
        out.write(text.replace(".ipynb)", ".md)"))

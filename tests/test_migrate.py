"""The page about other libraries names only settings, commands and functions that there are."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pkgutil import resolve_name
from typing import Any

import click
import pytest

import adar_ray
from adar_ray.baselines.als import als
from adar_ray.cli.main import cli
from adar_ray.config import check_key, load_config
from adar_ray.documents import parse_yaml
from adar_ray.inference.recommender import Recommender
from tests.test_snippets import ROOT

PAGE = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
OTHERS = ("recbole.", "implicit.")
FILES = (".inter", ".yaml", ".parquet")


def own_code(line: str) -> list[str]:
    """What a line has in code; a table's first cells are the other library's."""
    return re.findall(r"`([^`]+)`", line.split("|", 2)[2] if line.startswith("|") else line)


LINES = [own_code(line) for line in re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).splitlines()]
CODE = sorted({code for line in LINES for code in line})


def blocks(language: str) -> list[str]:
    return [block for of, block in BLOCKS if of == language]


# Settings.


@pytest.mark.parametrize("line", [line for line in LINES if any("=" in code for code in line)])
def test_settings_of_a_line_train_together(line: list[str]) -> None:
    load_config(settings=[code for code in line if re.fullmatch(r"\w+\.\w+=\S+", code)])


def test_the_translated_configuration_is_one() -> None:
    (ours,) = [block for block in blocks("yaml") if block.startswith("# adar-ray\n")]
    config = load_config(values=parse_yaml(ours, "docs/migrate.md"))
    assert (config.model.name, config.loss.name, config.train.patience) == ("sasrec", "cross_entropy", 11)


@pytest.mark.parametrize("name", [code for code in CODE if re.fullmatch(r"\w+(\.\w+)+", code)])
def test_dotted_names_exist(name: str) -> None:
    if name.startswith("adar_ray."):
        resolve_name(name)
    elif not name.startswith(OTHERS) and not name.endswith(FILES):
        section, _, key = name.partition(".")
        check_key(section, key, "docs/migrate.md")


# Commands.


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and its arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def accept(command: click.Command, words: list[str]) -> None:
    """Raises what click does if a command does not take these arguments; others may be missing."""
    context = click.Context(command, **cli.context_settings)  # a command keeps its first help option
    given, _, _ = command.make_parser(context).parse_args(words.copy())
    for parameter in command.params:
        if parameter.name in given:
            parameter.type_cast_value(context, given[parameter.name])


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
def test_printed_commands_are_complete(line: str) -> None:
    command, words = find(shlex.split(line, comments=True)[1:])
    command.make_context(command.name, words, **cli.context_settings)


@pytest.mark.parametrize("code", [code for code in CODE if code.startswith("adar-ray ")])
def test_commands_in_the_text_exist(code: str) -> None:
    accept(*find(shlex.split(code)[1:]))


@pytest.mark.parametrize("code", [code for code in CODE if code.startswith("--")])
def test_options_belong_to_a_command(code: str) -> None:
    refusals = []
    for command in cli.commands.values():
        try:
            accept(command, shlex.split(code))
        except click.UsageError as error:
            refusals.append(error.message)
    assert len(refusals) < len(cli.commands), refusals


# Python.


def check_call(call: ast.Call, names: dict[str, Any]) -> bool:
    """Whether a call is one of ours; raises TypeError if what it calls takes other arguments."""
    root, _, rest = ast.unparse(call.func).partition(".")
    method = call.func.attr if isinstance(call.func, ast.Attribute) else root
    if root in names:
        function = names[root]
        for name in filter(None, rest.split(".")):
            function = getattr(function, name)
    elif method in vars(Recommender):
        function = getattr(Recommender.__new__(Recommender), method)
    else:
        return False
    inspect.signature(function).bind(*call.args, **{str(word.arg): word.value for word in call.keywords})
    return True


@pytest.mark.parametrize("code", [code for code in CODE if re.fullmatch(r"[\w.]+\(.*\)", code)])
def test_calls_in_the_text_fit_what_they_call(code: str) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert check_call(call, {"adar_ray": adar_ray, "als": als, "load": adar_ray.load})


@pytest.mark.parametrize("block", blocks("python"))
def test_printed_code_fits_what_it_calls(block: str) -> None:
    tree = ast.parse(block)
    names = {
        alias.name: resolve_name(f"{node.module}:{alias.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("adar_ray")
        for alias in node.names
    }
    calls = [check_call(node, names) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert any(calls) or not names

"""YAML and JSON, read within bounds and refused in one line.

The YAML says what JSON can say: mappings, lists, text, numbers, booleans and null. It has no tags, no
aliases and no dates, and no key is in a mapping twice. What is read takes no more memory than the text
suggests. What is written like a time, such as 1:30, is text.

What this program writes and reads back is sealed: it ends with the SHA-256 of everything before that, as a
key or, in YAML, as a comment. What was cut off or has changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from adar_ray.errors import AdarError, one_line

LONGEST_YAML = 1 << 18  # bytes; people write these files, and PyYAML takes seconds for more
LONGEST_JSON = 1 << 23  # bytes; a manifest takes 200 for each file
LONGEST_LINES = 1 << 26
MOST_VALUES = 1 << 17  # in JSON; pydantic takes kilobytes to say what is wrong with one
DEEPEST_YAML = 32
LONGEST_NUMBER = 100  # characters
# What comes before and after the checksum at the end of a sealed document.
_RECORD_SEAL = b'"sha256": "', b'"\n}\n'
_LINES_SEAL = b'"sha256": "', b'"}\n'
_YAML_SEAL = b"# sha256: ", b"\n"

R = TypeVar("R", bound=BaseModel)


def parse_yaml(data: bytes | str, origin: str, *, as_text: bool = False) -> Any:
    """The content of a YAML document; None if there is none.

    Args:
        origin: where it comes from, for the message.
        as_text: whether numbers and booleans stay text as it is written, such as 1.10, 007 and no.

    Raises:
        AdarError: it is not YAML, or it says what JSON cannot say.
    """
    try:
        return yaml.load(_text(data, LONGEST_YAML), Loader=_TextLoader if as_text else _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise AdarError(f"{origin}: is not valid YAML ({place}{one_line(error.problem, 200)})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise AdarError(f"{origin}: is not valid YAML ({one_line(error, 200)})") from error


def read_yaml(file: Path, *, as_text: bool = False) -> Any:
    """The content of a YAML file; `{}` if it is empty.

    Args:
        as_text: as for `parse_yaml`.

    Raises:
        AdarError: it cannot be read, is not YAML, or says what JSON cannot say.
    """
    try:
        with file.open("rb") as stream:
            content = parse_yaml(stream.read(LONGEST_YAML + 1), str(file), as_text=as_text)
    except OSError as error:
        raise AdarError(f"{file}: cannot be read ({one_line(error.strerror)})") from error
    return {} if content is None else content


def parse_json(data: bytes | str, origin: str, remedy: str = "") -> Any:
    """The content of a JSON document.

    Args:
        origin, remedy: where it comes from, and what to do if it is damaged; for the message.

    Raises:
        AdarError: it is not JSON, or nested too deep.
    """
    try:
        text = _text(data, LONGEST_JSON)
        if text.count(",") > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        return from_json(text)
    except ValueError as error:
        raise damaged(origin, one_line(error, 200), remedy) from error


def parse_record(data: bytes, origin: str, record: type[R], remedy: str = "") -> R:
    """A record from a sealed JSON document.

    Args:
        origin, remedy: where it comes from, and what to do if it is damaged; for the message.

    Raises:
        AdarError: it is damaged, or no such record.
    """
    _unsealed(data, _RECORD_SEAL, LONGEST_JSON, origin, remedy)
    content = parse_json(data, origin, remedy)
    del content["sha256"]
    try:
        return record.model_validate(content)
    except ValidationError as error:
        raise damaged(origin, explain(error), remedy) from error


def parse_lines(data: bytes, origin: str, record: type[R], remedy: str = "") -> list[R]:
    """The records in sealed JSON lines.

    Args:
        origin, remedy: where they come from, and what to do if they are damaged; for the message.

    Raises:
        AdarError: they are damaged, or no such records.
    """
    text = _unsealed(data, _LINES_SEAL, LONGEST_LINES, origin, remedy).removesuffix(b", ") + b"}"
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.count(b",") > MOST_VALUES:
                raise ValueError(f"it holds more than {MOST_VALUES:,} values")
            records.append(record.model_validate_json(line))
        except ValueError as error:
            problem = explain(error) if isinstance(error, ValidationError) else str(error)
            raise damaged(origin, f"line {number}: {problem}", remedy) from error
    return records


def parse_sealed_yaml(data: bytes, origin: str, remedy: str = "") -> Any:
    """The content of a sealed YAML document.

    Args:
        origin, remedy: where it comes from, and what to do if it is damaged; for the message.

    Raises:
        AdarError: it is damaged.
    """
    return parse_yaml(_unsealed(data, _YAML_SEAL, LONGEST_YAML, origin, remedy), origin)


def to_record(content: Mapping[str, Any]) -> bytes:
    """`content` as a sealed JSON document, which `parse_record` reads back."""
    text = json.dumps({**content, "sha256": ""}, indent=2, ensure_ascii=False) + "\n"
    return _sealed(text, _RECORD_SEAL)


def to_lines(contents: Iterable[Mapping[str, Any]]) -> bytes:
    """`contents`, at least one, as JSON lines of which the last is sealed. `parse_lines` reads them back."""
    *others, last = contents
    lines = [json.dumps(content) + "\n" for content in (*others, {**last, "sha256": ""})]
    return _sealed("".join(lines), _LINES_SEAL)


def to_sealed_yaml(content: Any) -> bytes:
    """`content` as a sealed YAML document, which `parse_sealed_yaml` reads back."""
    return _sealed(f"{to_yaml(content)}# sha256: \n", _YAML_SEAL)


def is_sealed(data: bytes) -> bool:
    """Whether a document ends with a checksum, right or wrong: this program wrote it, or somebody edited what
    it wrote."""
    return any(_split(data, seal) is not None for seal in (_RECORD_SEAL, _YAML_SEAL))


def to_yaml(value: Any, *, flow: bool = False) -> str:
    """`value` as a YAML document, which `parse_yaml` reads back. Mappings keep their order.

    Args:
        flow: write lists and mappings in one line.
    """
    width = math.inf if flow else None
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=flow, width=width, sort_keys=False)


_IN_WORDS = {
    "extra_forbidden": "there is no such key",
    "missing": "is missing",
    "string_type": "give text",
    "list_type": "give a list",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
}


def in_words(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, of what Pydantic says of it."""
    known = _IN_WORDS.get(error["type"])
    return known.format(**error.get("ctx", {})) if known else error["msg"].removeprefix("Value error, ")


def explain(error: ValidationError) -> str:
    """The first fault, in one line: where, what, and the value."""
    first = error.errors()[0]
    message = in_words(first)
    where = one_line(".".join(str(part) for part in first["loc"]), 100)
    value = first["input"]
    is_said = isinstance(value, Mapping) or (isinstance(value, str) and repr(value) in message)
    if not where or is_said or first["type"] in ("missing", "extra_forbidden"):
        return one_line(f"{where}: {message}" if where else message)
    return one_line(f"{where}: {message}, not {value!r}")


def damaged(origin: str, problem: str, remedy: str = "") -> AdarError:
    """The error that says that a file is damaged, and what to do."""
    return AdarError(f"{origin}: is damaged ({problem})" + (f"; {remedy}" if remedy else ""))


def _sealed(text: str, seal: tuple[bytes, bytes]) -> bytes:
    """A document with an empty checksum, filled in."""
    head = text.encode().removesuffix(seal[1])
    return head + hashlib.sha256(head).hexdigest().encode() + seal[1]


def _unsealed(data: bytes, seal: tuple[bytes, bytes], longest: int, origin: str, remedy: str) -> bytes:
    """What comes before the seal of a document, which has to be right."""
    parts = _split(data, seal)
    if len(data) > longest:
        problem = f"it is longer than {longest:,} bytes"
    elif parts is None:
        problem = "it does not end with a checksum: it was cut off, edited, or written by an earlier version"
    elif hashlib.sha256(parts[0]).hexdigest().encode() != parts[1]:
        problem = "wrong checksum: it has changed since it was written"
    else:
        return parts[0].removesuffix(seal[0])
    raise damaged(origin, problem, remedy)


def _split(data: bytes, seal: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
    """What comes before the checksum at the end of a document, and the checksum; None if there is none."""
    before, after = seal
    end = len(data) - len(after)
    head, checksum = data[: max(end - 64, 0)], data[max(end - 64, 0) : end]
    return (head, checksum) if head.endswith(before) and data.endswith(after) else None


def _text(data: bytes | str, longest: int) -> str:
    data = data.encode() if isinstance(data, str) else data
    if len(data) > longest:
        raise ValueError(f"it is longer than {longest:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8; convert the file, for instance with iconv") from error


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """What is wrong with an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """The part of YAML that documents may use, and 1e-3 as a number, although YAML 1.1 wants 1.0e-3."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"write out the value that *{event.anchor} stands for", event)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _refusal(f"leave out the tag {tag}; quote what is text", event)
        if self.depth == DEEPEST_YAML:
            raise _refusal(f"nested more than {DEEPEST_YAML} levels deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refusal("a list or a mapping cannot be a key", key_node)
            if key in keys:
                raise _refusal(f"the key {one_line(key_node.value, 60)} is there twice", key_node)
            keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if re.search("[\0\ud800-\udfff]", node.value):
            raise _refusal("a character that no text may hold", node)
        return self.construct_yaml_str(node)


class _TextLoader(_Loader):
    """All scalars but null are text."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: no aliases, and text that looks like a number in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _number(construct: Callable[[Any, yaml.ScalarNode], Any]) -> Callable[[Any, yaml.ScalarNode], Any]:
    """`construct`, except for numbers that nothing here can hold."""

    def bounded(loader: _Loader, node: yaml.ScalarNode) -> Any:
        if ":" in node.value:  # to the base 60, which YAML 1.1 reads 1:30 as
            return loader.construct_text(node)
        try:
            number = construct(loader, node) if len(node.value) <= LONGEST_NUMBER else None
        except ValueError as error:  # YAML 1.1 takes 0x_ for a number
            raise _refusal(str(error), node) from error
        if number is None or (isinstance(number, int) and number.bit_length() > 63):
            raise _refusal(f"the number {one_line(node.value, 30)} is too long: quote it if it is text", node)
        return number

    return bounded


# Dates, `=` and `<<` are text.
for _loader, _types in ((_Loader, "bool|int|float|null"), (_TextLoader, "null")):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if re.search(f":({_types})$", tag)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(yaml.SafeLoader.construct_yaml_float))
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )

"""Change valid files so that they are nearly valid: their bytes, their words, their structure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

TOKENS = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\t",
        b" ",
        b'"',
        b"'",
        b'""',
        b",",
        b";",
        b"|",
        b"::",
        b"=",
        b"#",
    ),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"[]",
        b"{}",
        b":",
        b": ",
        b"- ",
        b"? ",
        b"<<: ",
        b"&a ",
        b"*a",
        b"!!set ",
        b"!!x ",
    ),
    *(
        b"!!timestamp ",
        b"!!binary ",
        b"!!python/object/apply:os.system ",
        b"---\n",
        b"...\n",
        b"%YAML 1.1\n",
        b"|\n",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xff",
        b"\xc3",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\xed\xa0\x80",
        "é".encode(),
    ),
    *(
        b"null",
        b"~",
        b"true",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b".nan",
        b".inf",
        b"nan",
        b"NULL",
        b"\\N",
        b"None",
    ),
    *(
        b"0",
        b"-1",
        b"1.5",
        b"1e400",
        b"-0",
        b"0x_",
        b"0x10",
        b"1:30",
        b"1_0",
        b"2001-99-99",
        b"1e12",
        b"1e-320",
    ),
    *(
        b"9223372036854775808",
        b"-9223372036854775809",
        b"2147483648",
        b"9" * 400,
        b"9" * 5000,
        b"1." + b"1" * 400,
    ),
    *(
        b"..",
        b"../",
        b"/",
        b"$",
        b"$x",
        b"${",
        b"%s",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"\x1b[31m",
        b"a" * 3000,
    ),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        1.5,
        -0.5,
        1e-320,
        1e300,
        float("nan"),
        float("inf"),
        2**31,
        2**63,
        10**400,
    ),
    *(
        "",
        "\0",
        "..",
        "../x",
        "/",
        "a" * 3000,
        "é\n",
        "\ud800",
        "1",
        "nan",
        "2001-01-01",
        "$x",
        "a.b:c",
        "a..b:c",
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {"a": {"a": 1}}}, [1, "1", 1.0]),
)
DEPTHS = (10, 100, 5000, 100_000)


def mutate_bytes(random: Random, data: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """`data` after a few changes.

    Args:
        tokens: words of the format, to insert or to put in place of others.
    """
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        data = random.choice(_MUTATIONS)(random, data, (*TOKENS, *tokens))
    return data


def mutate_document(random: Random, data: bytes, tree: Any, tokens: Sequence[bytes] = ()) -> bytes:
    """A document after a few changes of its bytes, or of its content `tree`, written as JSON."""
    if random.random() < 0.5:
        return mutate_bytes(random, data, tokens)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        tree = mutate_tree(random, tree)
    text = _as_json(tree)
    return mutate_bytes(random, text, tokens) if random.random() < 0.2 else text


def mutate_tree(random: Random, tree: Any, values: Sequence[Any] = VALUES) -> Any:
    """A copy of a tree of mappings and lists in which one place has changed."""
    places = list(_places(tree))
    at = random.choice(places)
    old = _get(tree, at)
    kind = random.random()
    if kind < 0.5 or not at:
        return _with(tree, at, random.choice(values))
    if kind < 0.6:
        return _with(tree, at, [old])
    if kind < 0.7:
        return _with(tree, at, _get(tree, random.choice(places)))
    if kind < 0.8:
        return _without(tree, at)
    parent, key = _get(tree, at[:-1]), at[-1]
    if isinstance(parent, list):
        return _with(tree, at[:-1], [*parent, old] if kind < 0.9 else parent[::-1])
    name = random.choice([*parent, "x", "", f"{key}s", 3])
    return _with(tree, at[:-1], {name if k == key else k: v for k, v in parent.items()})


# Bytes


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + int(random.paretovariate(0.7)))


def _flip(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _cut(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _end_early(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _repeat(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    start, end = _span(random, data)
    return (
        data[:end]
        + data[start:end] * random.choice((1, 1, 1, 10, 1000 if end - start < 100 else 1))
        + data[end:]
    )


def _move(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    start, end = _span(random, data)
    rest = data[:start] + data[end:]
    at = random.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def _insert(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    at = random.choice((0, len(data), random.randrange(len(data) + 1)))
    return data[:at] + random.choice(tokens) + data[at:]


def _replace_word(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    words = list(re.finditer(rb"[\w.+-]+", data))
    if not words:
        return data
    word = random.choice(words)
    new = random.choice((random.choice(tokens), random.choice(words)[0]))
    return data[: word.start()] + new + data[word.end() :]


def _change_lines(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines.insert(at, random.choice((b"\n", b" \n", b"\t\n", b"#\n", b",\n")))
    return b"".join(lines)


def _nest(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """Deep nesting, closed again or not."""
    opening, closing = random.choice(
        ((b"[", b"]"), (b'{"a": ', b"}"), (b"{a: ", b"}"), (b"- ", b""), (b"(", b")"))
    )
    depth = random.choice(DEPTHS)
    at = random.randrange(len(data) + 1)
    return data[:at] + opening * depth + random.choice((b"1" + closing * depth, b"")) + data[at:]


def _bomb(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """YAML whose aliases stand for more than any memory holds."""
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"]
    for number in range(1, 12):
        lines.append(b"a%d: &a%d [%s]\n" % (number, number, b", ".join([b"*a%d" % (number - 1)] * 9)))
    return b"".join(lines) + data


_Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
_COMMON: tuple[_Mutation, ...] = (_flip, _cut, _repeat, _move, _insert, _insert, _replace_word, _replace_word)
_MUTATIONS: tuple[_Mutation, ...] = (*_COMMON * 4, *(_change_lines,) * 4, _end_early, _nest, _bomb)


# Trees

_Path = tuple[Any, ...]


def _places(tree: Any, path: _Path = ()) -> Iterator[_Path]:
    yield path
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from _places(value, (*path, key))


def _get(tree: Any, path: _Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _with(tree: Any, path: _Path, value: Any) -> Any:
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = _with(tree[path[0]], path[1:], value)
    return copy


def _without(tree: Any, path: _Path) -> Any:
    parent = _get(tree, path[:-1]).copy()
    del parent[path[-1]]
    return _with(tree, path[:-1], parent)


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False).encode(errors="surrogatepass")

"""The pieces of an HTML page that needs no other file. Plotly draws its figures in the browser."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from adar_ray.reporting.formatting import escaped

# They stand out from white and from black.
BLUE, RED, GRAY, ORANGE, PURPLE, GREEN = "#2a7fc1", "#d6304a", "#7d8794", "#c96a00", "#8a63c9", "#2d8a55"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, GRAY)


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; empty parts are left out."""
    heading, css, script = escaped(title), _resource("page.css"), _resource("page.js")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n<noscript>The figures need JavaScript; the tables do not.</noscript>"
        + f'\n<script type="text/plain" id="plotly">{_library()}</script>\n'
        f'<script type="module">\n{script}</script>\n</body>\n</html>\n'
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _library() -> str:
    """Plotly's JavaScript, packed: 2 MB instead of 5."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def section(heading: str, *content: str) -> str:
    return "\n".join([f"<section>\n<h2>{html.escape(heading)}</h2>", *content, "</section>"])


def paragraph(text: str) -> str:
    """A paragraph. It escapes `text`, which may hold what a user wrote."""
    return f"<p>{html.escape(text)}</p>"


def pair(*sections: str) -> str:
    """Sections side by side if the page is wide enough."""
    return f'<div class="pair">{"".join(sections)}</div>'


def grid(figures: Iterable[str]) -> str:
    """Small figures, as many in a row as the page is wide enough for."""
    return f'<div class="grid">{"".join(figures)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: Iterable[int] = ()) -> str:
    """A table that breaks its cells, then scrolls sideways, if the page is too narrow.

    Args:
        texts: the columns that do not hold numbers.
    """
    left = set(texts)

    def row(cells: Sequence[str], tag: str, breaks: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in left else ''}>{_breakable(cell, breaks)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    head = f"<thead><tr>{row(header, 'th', './:_')}</tr></thead>\n" if any(header) else ""
    body = "\n".join(f"<tr>{row(cells, 'td', './:')}</tr>" for cells in rows)
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _breakable(text: str, breaks: str) -> str:
    """`text`, escaped, that may be broken after these characters where letters follow."""
    return re.sub(rf"([{breaks}])(?=[^\W\d])", r"\1<wbr>", html.escape(text))


def metric_table(metrics: Mapping[str, str]) -> str:
    """A table of texts by `metric@k`: a row per metric, a column per cutoff."""
    names = dict.fromkeys(name.partition("@")[0] for name in metrics)
    cutoffs = dict.fromkeys(name.partition("@")[2] for name in metrics)
    rows = [[name, *(metrics.get(f"{name}@{k}", "") for k in cutoffs)] for name in names]
    return table(["metric", *(f"@{k}" for k in cutoffs)], rows, texts=(0,))


def figure(
    says: str,
    traces: Iterable[Mapping[str, Any]],
    x: str | Mapping[str, Any],
    y: str | Mapping[str, Any],
    height: int = 320,
) -> str:
    """A figure whose points tell what they are when they are pointed at.

    Args:
        says: what it shows, for screen readers.
        traces: what to draw, above each other.
        x, y: the axes: their titles, or Plotly's attributes. Plotly reads tags in texts, so what a user
            wrote has to be escaped.
        height: in pixels.
    """
    x, y = ({"title": {"text": axis}} if isinstance(axis, str) else axis for axis in (x, y))
    content = {"data": list(traces), "layout": {"xaxis": x, "yaxis": y, "height": height}}
    text = json.dumps(_finite(content), allow_nan=False).replace("<", r"\u003c")
    return (
        f'<figure tabindex="0" role="img" aria-label="{escaped(says)}"><div></div>'
        f'<script type="application/json">{text}</script></figure>'
    )


def trace(
    x: Iterable[Any], y: Iterable[Any], says: Sequence[str] | None = None, **look: Any
) -> dict[str, Any]:
    """Points, a line or bars of a figure.

    Args:
        says: what each point tells when it is pointed at; lines end with `<br>`.
        look: Plotly's attributes. A trace with a name is in the legend.
    """
    hover = {"hoverinfo": "skip"} if says is None else {"hoverinfo": "text", "hovertext": says}
    legend = {} if "name" in look else {"showlegend": False}
    return {"x": list(x), "y": list(y), **hover, **legend, **look}


def dots(color: str, size: int | Sequence[int]) -> dict[str, Any]:
    """A trace's markers without an edge, all of one size in pixels or each of its own."""
    return {"color": color, "size": size, "opacity": 1, "line": {"width": 0}}


def epoch_axis(last: int) -> dict[str, Any]:
    """An axis of the epochs up to the last, which labels no halves of them."""
    return {"title": {"text": "epoch"}, **({"dtick": 1} if last <= 8 else {})}


def _finite(value: Any) -> Any:
    """`value` with None for the numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

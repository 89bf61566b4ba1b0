"""The pieces of an HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from adar_ray.reporting.formatting import escaped

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1f2933; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; overflow-wrap: anywhere; }
p.summary { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e8ebef; }
th { font-weight: 600; border-bottom: 2px solid #cbd2d9; }
th.text, td.text { text-align: left; }
table.prose td { vertical-align: top; }
table.prose td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.wide { max-width: 46rem; }
.pair { display: grid; column-gap: 2rem;
        grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
.grid { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; empty parts are left out."""
    heading = escaped(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def section(heading: str, *content: str) -> str:
    return "\n".join([f"<section>\n<h2>{html.escape(heading)}</h2>", *content, "</section>"])


def paragraph(text: str) -> str:
    """A paragraph. It escapes `text`, which may hold what a user wrote."""
    return f"<p>{html.escape(text)}</p>"


def pair(*sections: str) -> str:
    """Sections side by side if the page is wide enough."""
    return f'<div class="pair">{"".join(sections)}</div>'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: Iterable[int] = (), prose: bool = False
) -> str:
    """A table that scrolls sideways if the page is too narrow.

    Args:
        texts: the columns that do not hold numbers.
        prose: whether the last column holds sentences, which are wrapped.
    """
    left = set(texts)

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in left else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    kind = ' class="prose"' if prose else ""
    return (
        f'<div class="scroll"><table{kind}>\n<thead><tr>{row(header, "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )

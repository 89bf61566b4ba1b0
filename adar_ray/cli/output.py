"""What commands print: results on stdout, as tables or JSON; everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = Mapping[str, Any]


def show(result: Row | Sequence[Row], as_json: bool, title: str | None = None) -> None:
    """Print rows as a table, or one row as a table of two columns; or either as JSON."""
    if as_json:
        click.echo(json.dumps(result))
        return
    rows = [{"": k, " ": v} for k, v in result.items()] if isinstance(result, Mapping) else result
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {column for column in columns if any(isinstance(row.get(column), (int, float)) for row in rows)}
    table = Table(
        title=title and escape(title),
        title_justify="left",
        show_header=any(column.strip() for column in columns),
    )
    for column in columns:
        table.add_column(escape(column), justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(column))) for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={inner}" for name, inner in value.items())
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:
            return f"{value:.3g}"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def message(text: str, *, newline: bool = True) -> None:
    """Tell the user something that is not a result."""
    click.echo(text, err=True, nl=newline)

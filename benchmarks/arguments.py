"""Command-line arguments that benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_source(parser: argparse.ArgumentParser, dataset: str) -> None:
    """`--source` and `--work`, for a benchmark of one dataset."""
    parser.add_argument("--source", type=Path, required=True, help=f"{dataset} as published, file or folder")
    add_work(parser)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """`--sources` and `--work`, for a benchmark of several datasets."""
    parser.add_argument(
        "--sources", type=Path, required=True, help="folder with a subfolder per dataset, as published"
    )
    add_work(parser)


def add_work(parser: argparse.ArgumentParser) -> None:
    """`--work`."""
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared datasets and runs")

"""`doctor`: whether commands will work on this machine, with this storage and this cluster."""

from __future__ import annotations

import dataclasses
import sys

import click

from adar_ray.cli.command import command
from adar_ray.cli.output import show
from adar_ray.errors import FAILED


@command("doctor")
@click.option(
    "--address",
    help="The dashboard of a head, such as http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, else "
    "RAY_ADDRESS if it starts with http, else none.",
)
@click.option("--storage", help="Address of the folder that runs are to be written to.")
def doctor_command(address: str | None, storage: str | None, as_json: bool) -> None:
    """Check versions, this machine, the storage and the cluster.

    A line per check says what was found and what to do. Exits with status 1 if a check has failed.
    """
    from adar_ray.cli.checks import diagnose

    findings = []
    for finding in diagnose(address, storage):
        findings.append(finding)
        if not as_json:  # at once: some checks take a few seconds
            click.echo(f"{finding.status:8} {finding.check:17} {finding.message}")
    if as_json:
        show([dataclasses.asdict(finding) for finding in findings], True)
    if any(finding.status == "failed" for finding in findings):
        sys.exit(FAILED)

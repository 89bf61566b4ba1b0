"""The entry point of `adar-ray`: all commands, and the settings of the process that runs them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from types import FrameType

import click

from adar_ray.cli.compare import compare_command
from adar_ray.cli.data import data, prepare_command
from adar_ray.cli.doctor import doctor_command
from adar_ray.cli.job import job
from adar_ray.cli.published import published_command
from adar_ray.cli.runs import (
    evaluate_command,
    export_command,
    publish_command,
    recommend_command,
    report_command,
    similar_command,
)
from adar_ray.cli.serve import serve_command
from adar_ray.cli.train import train_command
from adar_ray.cli.tune import tune_command

COMMANDS = (
    *(data, prepare_command, train_command, tune_command, compare_command),
    *(evaluate_command, recommend_command, similar_command, export_command, report_command),
    *(publish_command, published_command, serve_command, job, doctor_command),
)

IMPORT_SECONDS = 0.05  # after which a signal that came during an import comes again
GARBAGE_AFTER = 10_000
"""Objects more than at Python's last look for garbage, before it looks again; its own default is 700."""


@click.group(
    commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="adar-ray")
def cli() -> None:
    """Train recommenders with adaptive diffusion negatives (ADAR), distributed on Ray."""


def main() -> None:
    """Run a command in a process of its own."""
    take_signals()
    # Ray Tune's own handler of Ctrl-C waits for trials. They end with this process, and continue later.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # What a command imports stays. Python would look through it for garbage a hundred times meanwhile.
    gc.set_threshold(GARBAGE_AFTER)
    cli()


def take_signals() -> None:
    """Make SIGTERM, which schedulers send, clean up like Ctrl-C.

    Both work even if a shell started this process in the background, which makes it ignore SIGINT. Cleaning
    up is not interrupted by another SIGTERM.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _imports(frame):
            later = threading.Timer(IMPORT_SECONDS, os.kill, (os.getpid(), number))
            later.daemon = True
            later.start()
            return
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported. If C code does that, as pyarrow does, exceptions may be dropped."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()

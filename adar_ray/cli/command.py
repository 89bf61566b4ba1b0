"""What all commands share: the options `--json` and `--debug`, and how errors end a command."""

from __future__ import annotations

import functools
import shlex
import traceback
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from adar_ray.errors import FAILED, INTERRUPTED, TERMINATED, AdarError, TerminatedError, error_line


def command(
    name: str, *, hint: Callable[..., str] = lambda **arguments: "nothing was written"
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function; an error becomes one line on stderr and an exit status.

    Args:
        name: what the user types.
        hint: gets the command's arguments; says how to continue after an interruption.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.command(name, help=function.__doc__)
        @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def run(debug: bool, as_json: bool, **arguments: Any) -> None:
            try:
                function(as_json=as_json, **arguments)
            except click.ClickException:
                raise  # click reports wrong usage itself
            except KeyboardInterrupt:
                _fail(f"interrupted; {hint(**arguments)}", debug, INTERRUPTED)
            except TerminatedError as error:
                _fail(f"{error}; {hint(**arguments)}", debug, TERMINATED, error)
            except (AdarError, OSError) as error:
                _fail(describe(error), debug, cause=error)
            except Exception as error:
                _fail(f"{describe(error)} (--debug shows where)", debug, cause=error)

        return run

    return decorate


def describe(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, AdarError):
        return str(error)
    if isinstance(error, OSError):
        from adar_ray.storage import describe_os_error

        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{describe_os_error(error)}"
    return error_line(error)


class Duration(click.ParamType):
    """A value of an option in seconds, given as `parse_duration` takes it."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        from adar_ray.durations import parse_duration

        try:
            return parse_duration(value)
        except AdarError as error:
            self.fail(str(error), parameter, context)


def trust_option(whose: str) -> Callable[[Any], Any]:
    """The option `--trust` of a command that opens a folder which may name code."""
    return click.option(
        "--trust", is_flag=True, help=f"Run custom components that the files of {whose} name."
    )


new_items_option = click.option(
    "--new-items",
    metavar="FILE",
    help="File of items that were not there in training, with their features, to take beside the others; for "
    "twotower.",
)


def refuse_all_but_resume(what: str, **but: str) -> None:
    """Refuse options beside `--resume`, which takes everything else from the run or search it resumes.

    Args:
        what: "run" or "search", for the message.
        but: the options that go with it, by their parameters' names.
    """
    if given_beside("resume", *but):
        rest = f" but {', '.join(but.values())}" if but else ""
        raise click.UsageError(f"--resume takes everything{rest} from the {what}; drop the other options")


def given_beside(*names: str) -> bool:
    """Whether options are given beside `--json`, `--debug` and these, which are parameters' names."""
    context = click.get_current_context()
    return any(
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        for name in context.params.keys() - {"as_json", "debug", *names}
    )


def refuse_trust(trust: bool, options: str = "--resume") -> None:
    """Refuse `--trust` without the options that it goes with: what the user names himself needs none."""
    if trust:
        raise click.UsageError(f"--trust goes with {options}; components that you name yourself need none")


def _fail(message: str, debug: bool, status: int = FAILED, cause: Exception | None = None) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"adar-ray: {message}", err=True)
    raise SystemExit(status) from cause  # a step of a job asks for the cause


def resume_hint(mark: str, command: str, advice: str) -> Callable[..., str]:
    """How an interrupted command says how to continue, if its folder holds `mark` already."""

    def hint(out: str | None, resume: str | None, **arguments: Any) -> str:
        from adar_ray.storage import Folder

        address = resume or out
        if address is None or not Folder.at(address).exists(mark):
            return "nothing was written"
        return f"{advice} with `adar-ray {command} --resume {shlex.quote(address)}`"

    return hint

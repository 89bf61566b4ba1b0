"""The exception for errors that a user can fix, and what messages share."""

import re

# Exit statuses of a command.
FAILED = 1
WRONG_USAGE = 2
MAY_PASS = 75  # of a step of a job: what failed may pass by itself; EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130
TERMINATED = 143

LONGEST_MESSAGE = 800
# The password in an address, and the values of options that are called like a secret.
_SECRET = re.compile(
    r"(?<=://)[^/\s@:\[]*:(?!\d{1,5}(?:[/?#]|$))\S+(?=@)"
    r"|((?:secret|token|passw|signature|credential|access_?key|account_?key|api_?key)[\w-]*|\bsig)"
    r"=[^&;\s]*[^&\s:;,)]",
    re.IGNORECASE,
)
_LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class AdarError(Exception):
    """An error that the user can fix: one line that names the file, row, key or flag and what to do.

    The command line prints it and exits with status 1. It is one line whatever it quotes: what cannot be
    printed becomes a space, secrets become ***, and the middle of a long message is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else " " for c in without_secrets(message))
        if len(line) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2 - 3
            line = f"{line[:half]} ... {line[-half:]}"
        super().__init__(line)


class ComponentError(AdarError):
    """A custom component cannot be made."""


class TransientError(AdarError):
    """An AdarError that may pass by itself, such as a lost worker: trying again may help."""


class TerminatedError(TransientError):
    """The process was told to end, and has saved what it had: the same command goes on from there."""


def may_pass(error: BaseException | None) -> bool:
    """Whether an error may pass by itself, so that the same command may succeed later.

    An AdarError may not, because the user has to change something, unless it is a TransientError or follows
    from an error of the operating system. A missing or forbidden file may not, either. Everything else may: a
    full disk, storage that does not answer, a crash.
    """
    if isinstance(error, TransientError):
        return True
    if isinstance(error, AdarError):
        return isinstance(error.__cause__, (AdarError, OSError)) and may_pass(error.__cause__)
    return not isinstance(error, _LASTING)


def has_secret(text: str) -> bool:
    """Whether a text holds a password in an address, or an option such as `secret_key=...`."""
    return _SECRET.search(text) is not None


def without_secrets(text: str) -> str:
    """`text` with `***` in place of secrets."""
    return _SECRET.sub(lambda found: f"{found[1]}=***" if found[1] else "***", text)


def counted(number: float, one: str, many: str | None = None) -> str:
    """A number and what it counts, such as `1 item` and `2,000 items`.

    Args:
        one: what follows 1.
        many: what follows any other number; `one` with an s by default.
    """
    return f"{number:,.15g} {one if number == 1 else many or one + 's'}"


def gigabytes(size: float) -> str:
    """Bytes for people, such as `1.5 GB`."""
    return f"{size / 1e9:,.1f} GB"


def one_line(text: object, limit: int = 300) -> str:
    """`text` without line breaks and secrets, cut to `limit` characters; for messages of other libraries."""
    line = without_secrets(" ".join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def error_line(error: BaseException, limit: int = 300) -> str:
    """An error's message in one line. Any but an AdarError needs its class as well to be understood."""
    line = one_line(error, limit)
    return line if isinstance(error, AdarError) else f"{type(error).__name__}: {line}"

"""The exception for errors that a user can fix, and what messages share."""

INTERRUPTED = 130  # exit status of a command that is interrupted


class AdarError(Exception):
    """An error that the user can fix: one line that names the file, row, key or flag and what to do.

    The command line prints it and exits with status 1.
    """


class TransientError(AdarError):
    """An AdarError that may pass by itself, such as a lost worker: trying again may help."""


def one_line(text: object, limit: int = 300) -> str:
    """`text` without line breaks, cut to `limit` characters; for messages of other libraries."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""The one exception that the command line turns into one line and exit status 1."""


class AdarError(Exception):
    """Something the user can mend: says what is wrong, where (file, row, key or flag), and what to do."""


def one_line(text: object, limit: int = 300) -> str:
    """`text` without line breaks, cut to `limit` characters, for messages of other libraries."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

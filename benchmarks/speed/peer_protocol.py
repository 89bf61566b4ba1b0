"""What a peer's process does: one JSON line in, one JSON line out. It needs nothing but Python.

A peer is another library. It runs in an environment of its own, and imports nothing of ours but this module.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[..., dict[str, Any]]


def serve(commands: Mapping[str, Command]) -> None:
    """Answer commands until the input ends. Whatever else the peer prints goes to the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = commands[asked.pop("command")](**asked)
        except Exception as error:  # the peer's own; the benchmark goes on without it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(answer), file=answers, flush=True)


def seconds(work: Callable[[], object]) -> dict[str, Any]:
    """How long the work takes, as an answer."""
    started = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - started}

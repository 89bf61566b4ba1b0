"""Runs a command from a small process and writes how it ended to a file, as JSON.

python launcher.py FILE COMMAND...

A process counts the memory that its parent had when it was started as its own. So a benchmark with tensors in
its memory cannot start what it measures by itself.
"""

import json
import os
import sys
import time


def main() -> None:
    started = time.perf_counter()
    process = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open(sys.argv[1], "w") as file:
        json.dump(
            {"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "peak_bytes": peak_bytes}, file
        )


if __name__ == "__main__":
    main()

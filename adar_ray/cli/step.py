"""One step of a job: runs `adar-ray`, and ends when the driver that started it ends.

    python -m adar_ray.cli.step WORD...

A killed driver cannot end its step, and Ray does not either. The step would keep training next to the driver
that takes over the job. So the driver holds the other end of the step's standard input, which closes when the
driver dies.

Its exit status is that of `adar-ray`, except that an error that may pass by itself ends with `MAY_PASS`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from adar_ray.cli.main import main
from adar_ray.errors import FAILED, MAY_PASS, may_pass

CLEANUP_SECONDS = 5.0


def _end_with_the_driver() -> None:
    os.read(0, 1)  # not sys.stdin: a thread must not hold its lock when Python exits
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEANUP_SECONDS)
    os._exit(FAILED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    try:
        main()
    except SystemExit as ended:
        sys.exit(MAY_PASS if ended.code == FAILED and may_pass(ended.__cause__) else ended.code)

"""One step of a job: `adar-ray`, which ends with the driver that started it.

    python -m adar_ray.cluster.step WORD...

A driver that is killed tells nobody, and Ray does not end what it had started. A step that went on would
train beside the driver that takes the job over. So the driver holds the other end of the step's standard
input, which closes with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from adar_ray.cli import main

TIDY_SECONDS = 5.0


def _end_with_the_driver() -> None:
    os.read(0, 1)  # not sys.stdin, which a thread must not hold when Python ends
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(TIDY_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    main()

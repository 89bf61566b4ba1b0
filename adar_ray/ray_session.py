"""The Ray session that a command runs in: the cluster's where there is one, else one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

# Ray Train asks its workers for news once a second by default, which small runs spend waiting.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")

import ray
import ray.exceptions
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.data import DataContext

from adar_ray.errors import AdarError, one_line

# Ray Data's own tasks need CPUs beside the workers'; a run that waits for one hangs silently.
DATA_CPUS = 2


@contextlib.contextmanager
def ray_session(worker_cpus: int = 0, *, may_wait: bool = False) -> Iterator[None]:
    """Connects to `RAY_ADDRESS`, or starts Ray here with room for `worker_cpus` and Ray Data.

    A session that was there before stays as it is, and stays up. `may_wait` is for workers that take turns,
    and need not all fit at once.

    Raises:
        AdarError: the cluster cannot be reached, or has fewer CPUs than needed.
    """
    started = not ray.is_initialized()
    if started:
        _start(worker_cpus)
    try:
        # What a job's entry point holds, this process, is nobody else's.
        total = ray.cluster_resources().get("CPU", 0) - float(os.environ.get("ADAR_RAY_ENTRY_POINT_CPUS", 0))
        # An autoscaler adds nodes once there is work that waits for them.
        if total < worker_cpus + 1 and not (may_wait or is_autoscaler_v2()):
            raise AdarError(
                f"the Ray cluster has {total:g} CPUs, and workers need {worker_cpus}, data 1; "
                "lower --workers or add nodes"
            )
        with _quiet_and_ordered_data():
            yield
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt, now and afterwards, around `fit` of Ray Train and `run` of Ray Tune.

    Both leave a handler of their own behind, and that of Ray Train exits the process.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _cause(error: BaseException) -> BaseException:
    """What went wrong in a task, without the layers that Ray wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        # A task's error is of its cause's class as well, and has a whole traceback for its message.
        is_wrapper = isinstance(inner, ray.exceptions.RayTaskError)
        if isinstance(inner, AdarError) and not is_wrapper:
            return AdarError(str(inner).partition("\n")[0])  # Ray Data has added lines of its own
        if isinstance(inner, OSError) and not is_wrapper:
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return AdarError(f"a Ray task failed: {one_line(error, 400)}")


def _start(worker_cpus: int) -> None:
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**common)
        else:
            cpus = max(os.cpu_count() or 1, worker_cpus) + DATA_CPUS
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
    except Exception as error:  # a start that takes too long is no more than that
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise AdarError(f"Ray on {where} cannot be reached or started ({one_line(error, 160)})") from error


@contextlib.contextmanager
def _quiet_and_ordered_data() -> Iterator[None]:
    """Ray Data in a fixed order, as everything here relies on, and without its own progress bars."""
    context = DataContext.get_current()
    before = (
        context.execution_options.preserve_order,
        context.enable_progress_bars,
        context.raise_original_map_exception,
    )
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray.train", "ray.tune")]
    levels = [logger.level for logger in loggers]
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    # Otherwise Ray Data wraps what a task raises, and loses it on the way here.
    context.raise_original_map_exception = True
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # errors are raised as well
    try:
        yield
    finally:
        context.execution_options.preserve_order = before[0]
        context.enable_progress_bars, context.raise_original_map_exception = before[1:]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

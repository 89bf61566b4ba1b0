"""The Ray session that a command runs in: the cluster's if there is one, else one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray
import ray.exceptions
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.data import DataContext

from adar_ray.errors import AdarError, one_line
from adar_ray.process import environment_kept, log_levels_kept, random_states_kept, signal_handlers_kept

logger = logging.getLogger(__name__)

# Ray Data's own tasks need CPUs beside the workers'; a run that waits for one hangs silently.
DATA_CPUS = 2


@contextlib.contextmanager
def ray_session(worker_cpus: int = 0, *, may_wait: bool = False) -> Iterator[None]:
    """Connects to `RAY_ADDRESS`, or starts Ray on this machine with room for `worker_cpus` and Ray Data.

    An existing session stays as it is, and stays up. What Ray changes in this process, such as its signal
    handlers and environment, is restored at the end.

    Args:
        may_wait: for workers that take turns and do not all have to fit at once.

    Raises:
        AdarError: the cluster cannot be reached, or has fewer CPUs than needed.
    """
    with random_states_kept(), environment_kept(), signal_handlers_kept(), log_levels_kept():
        is_ours = not ray.is_initialized()
        if is_ours:
            _start(worker_cpus)
        try:
            _check_cpus(worker_cpus, may_wait)
            with _quiet_and_ordered_data():
                yield
        except ray.exceptions.RayError as error:
            raise _cause(error) from error
        finally:
            if is_ours:
                ray.shutdown()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt around `fit` of Ray Train and `run` of Ray Tune, and afterwards.

    Both leave signal handlers of their own behind, and that of Ray Train exits the process.
    """
    with signal_handlers_kept():
        try:
            yield
        except SystemExit as error:
            raise KeyboardInterrupt from error


def _check_cpus(worker_cpus: int, may_wait: bool) -> None:
    # The entry point of a cluster job, this process, occupies CPUs that nobody else can use.
    total = ray.cluster_resources().get("CPU", 0) - float(os.environ.get("ADAR_RAY_ENTRY_POINT_CPUS", 0))
    # An autoscaler adds nodes once there is work that waits for them.
    if total < worker_cpus + 1 and not (may_wait or is_autoscaler_v2()):
        raise AdarError(
            f"the Ray cluster has {total:g} CPUs, and workers need {worker_cpus}, data 1; "
            "lower --workers or add nodes"
        )


def _cause(error: BaseException) -> BaseException:
    """The error that a task raised, without the layers that Ray wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        # Ray's wrapper is an instance of the error's class as well; its message is a whole traceback.
        is_wrapper = isinstance(inner, ray.exceptions.RayTaskError)
        if isinstance(inner, AdarError) and not is_wrapper:
            return AdarError(str(inner).partition("\n")[0])  # Ray Data adds lines of its own
        if isinstance(inner, OSError) and not is_wrapper:
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return AdarError(f"a Ray task failed: {one_line(error, 400)}")


def _start(worker_cpus: int) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**common)
            logger.info("connected to Ray at %s", os.environ["RAY_ADDRESS"])
        else:
            cpus = max(os.cpu_count() or 1, worker_cpus) + DATA_CPUS
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
            logger.info("started Ray on this machine with %d CPUs", cpus)
    except Exception as error:  # a start that takes too long raises a bare Exception
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise AdarError(f"Ray on {where} cannot be reached or started ({one_line(error, 160)})") from error


@contextlib.contextmanager
def _quiet_and_ordered_data() -> Iterator[None]:
    """Makes Ray Data keep the order of rows, which everything here relies on, and print no progress bars."""
    context = DataContext.get_current()
    before = (
        context.execution_options.preserve_order,
        context.enable_progress_bars,
        context.raise_original_map_exception,
    )
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    # Otherwise Ray Data wraps the error that a task raises and loses it on the way here.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, too
    try:
        yield
    finally:
        context.execution_options.preserve_order = before[0]
        context.enable_progress_bars, context.raise_original_map_exception = before[1:]

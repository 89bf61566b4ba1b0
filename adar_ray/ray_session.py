"""The Ray session that a command runs in: the cluster's if there is one, else one on this machine."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray._private import ray_constants
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.node import Node
from ray._private.services import canonicalize_bootstrap_address
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.data import DataContext

from adar_ray.errors import AdarError, TerminatedError, TransientError, counted, one_line
from adar_ray.process import (
    RAY_MARK,
    environment_kept,
    log_levels_kept,
    random_states_kept,
    signal_handlers_kept,
)
from adar_ray.ray_address import ray_address
from adar_ray.waiting import waiting

logger = logging.getLogger(__name__)

# Ray Data's own tasks need CPUs beside the workers'; a run that waits for one hangs silently.
DATA_CPUS = 2
ANSWER_SECONDS = 20.0  # for a cluster's first answer
# Ray's own limits: for its processes to start, and for a node on this machine to join a cluster.
START_SECONDS = 60.0
LOOK_SECONDS = 2.0  # between looks whether Ray on this machine is alive
KILL_ROUNDS = 5  # what is killed may have started another process meanwhile

# Held by the session that watches whether Ray is alive: of sessions within each other, the outermost.
_watched = threading.Lock()


@contextlib.contextmanager
def ray_session(worker_cpus: int = 0, *, may_wait: bool = False) -> Iterator[None]:
    """Connects to `RAY_ADDRESS`, or starts Ray on this machine with room for `worker_cpus` and Ray Data.

    An existing session stays as it is, and stays up. What Ray changes in this process, such as its signal
    handlers and environment, is restored at the end.

    Args:
        may_wait: for workers that take turns and do not all have to fit at once.

    Raises:
        AdarError: the cluster cannot be reached, rejects the token, or has fewer CPUs than needed; or Ray on
            this machine dies.
    """
    with (
        random_states_kept(),
        environment_kept(),
        signal_handlers_kept(),
        log_levels_kept(),
        contextlib.nullcontext() if ray.is_initialized() else _started(worker_cpus),
        _ended_with_ray(),
    ):
        try:
            _check_cpus(worker_cpus, may_wait)
            with quiet_and_ordered_data():
                yield
        except ray.exceptions.RayError as error:
            raise _cause(error) from error


@dataclass(frozen=True)
class Need:
    """What each worker needs of a resource.

    Attributes:
        resource: Ray's name for it, such as GPU.
        amount: how much of it.
        setting: what asks for it, such as `train.threads=4`.
    """

    resource: str
    amount: float
    setting: str


def check_room(needs: Iterable[Need], workers: int, option: str) -> None:
    """Refuses workers that Ray could never place: it would wait for room without end.

    A cluster with an autoscaler may get the room when something waits for it.

    Args:
        needs: of each worker.
        workers: how many there are.
        option: what asks for that many, such as `--workers`.

    Raises:
        AdarError: no machine has room for one worker, or the cluster has none for all of them.
    """
    if is_autoscaler_v2():
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for need in needs:
        each = [node.get(need.resource, 0) for node in nodes]
        if need.amount > max(each, default=0):
            raise AdarError(
                f"{need.setting}: no machine of the Ray cluster has more than "
                f"{counted(max(each, default=0), need.resource)}; ask for less"
            )
        if need.amount * workers > sum(each):
            raise AdarError(
                f"{option} {workers}: needs {counted(need.amount * workers, need.resource)}, "
                f"but the Ray cluster has {sum(each):g}; ask for less"
            )


def fitting(there: float, each: float) -> int:
    """How many times a resource fits: ten tenths of a GPU fit one."""
    return int(there / each + 1e-9)


def count_room(each: Mapping[str, float]) -> int:
    """How many workers there is room for now, beside a CPU for Ray Data.

    Args:
        each: what a worker reserves, by Ray's name of the resource.
    """
    leaving = leaving_nodes()
    free = [free for node, free in ray_state.available_resources_per_node().items() if node not in leaving]
    room = sum(min(fitting(node.get(name, 0), amount) for name, amount in each.items()) for node in free)
    return min(room, int((sum(node.get("CPU", 0) for node in free) - 1) // each["CPU"]))


def leaving_nodes() -> set[str]:
    """The ids of the cluster's machines that are about to be taken away."""
    return {*ray_state.state.get_draining_nodes()}


def is_connected() -> bool:
    """Whether the part of Ray on this machine that a session goes through is alive.

    Where the session started Ray, that includes its head, which nobody starts again as a cluster may.
    """
    node = ray_worker.global_worker.node
    if node is None:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as raylet:
            raylet.connect(node.raylet_socket_name)
        if node.is_head():
            host, _, port = node.gcs_address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _ended_with_ray() -> Iterator[None]:
    """Ends the block if Ray on this machine dies, as Ctrl-C would.

    Ray itself would notice in a quarter of a minute, or end this process without a word after a whole one. In
    a thread other than the main one, which cannot be interrupted, it does.

    Raises:
        TransientError: Ray has died.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and _watched.acquire(blocking=False)):
        yield
        return
    ended, has_died = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            if not is_connected():
                has_died.set()
                return _thread.interrupt_main()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except (KeyboardInterrupt, ray.exceptions.RayError, TransientError) as error:
        is_ctrl_c = isinstance(error, KeyboardInterrupt) and not has_died.is_set()
        if is_ctrl_c or isinstance(error, TerminatedError) or is_connected():
            raise
        raise TransientError("Ray on this machine has died; start it again, and resume") from error
    finally:
        ended.set()
        thread.join()
        _watched.release()


def _check_cpus(worker_cpus: int, may_wait: bool) -> None:
    # The entry point of a cluster job, this process, occupies CPUs that nobody else can use.
    total = ray.cluster_resources().get("CPU", 0) - float(os.environ.get("ADAR_RAY_ENTRY_POINT_CPUS", 0))
    # An autoscaler adds nodes once there is work that waits for them.
    if total < worker_cpus + 1 and not (may_wait or is_autoscaler_v2()):
        raise AdarError(
            f"the Ray cluster has {counted(total, 'CPU')}, and workers need {worker_cpus}, data 1; "
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
    return TransientError(f"a Ray task failed: {one_line(error, 400)}")


@contextlib.contextmanager
def _started(worker_cpus: int) -> Iterator[None]:
    """Ray, connected to a cluster or started on this machine, and shut down at the end."""
    address = ray_address()
    where = f"Ray at {address}" if address else "Ray on this machine"
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_silent())
        try:
            if address:
                check_answers(address)
                stack.callback(ray.shutdown)
                with waiting(f"a node of {where} on this machine", START_SECONDS), signal_handlers_kept():
                    ray.init(**common)
            else:
                cpus = max(os.cpu_count() or 1, worker_cpus) + DATA_CPUS
                stack.enter_context(_processes_ended())
                stack.enter_context(_on_loopback())
                stack.enter_context(fewer_processes())
                # Otherwise Ray starts a process for each CPU before it knows what they are for.
                stack.enter_context(environment_kept(RAY_prestart_worker_first_driver="0"))
                with waiting(f"{where} to start", START_SECONDS), signal_handlers_kept():
                    _start_here({"num_cpus": cpus, **common})
        except AdarError:
            raise
        except SystemExit as error:  # what Ray makes of SIGTERM while it starts
            raise KeyboardInterrupt from error
        except ray.exceptions.AuthenticationError as error:
            raise AdarError(f"{where}: {_why_no_token(error)}") from error
        except Exception as error:  # a start that takes too long raises a bare Exception
            raise TransientError(f"{where} cannot be reached or started ({_why(error)})") from error
        yield


def _start_here(options: dict[str, Any]) -> None:
    """Ray on this machine. On a busy one an agent may take longer than Ray waits; then once more, as what it
    reads has been read by now."""
    options = {"address": "local", "include_dashboard": False, **options}
    try:
        ray.init(**options)
    except Exception as error:  # a bare one
        if "timed out" not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray that starts here listens on 127.0.0.1 only, as it does by itself where it cannot form clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # of this process; the environment tells those that it starts
    try:
        with environment_kept(**{ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def fewer_processes() -> Iterator[None]:
    """Ray that starts here has no autoscaler, as it has no nodes to add, nothing that forwards output, and no
    dashboard.

    Each is a process of Python, which takes longer to start than it is worth here. Ray waits for a dashboard
    that answers no requests, too.
    """

    def none(node: Node, **options: Any) -> None:
        pass

    needless = "start_monitor", "start_log_monitor", "start_api_server"
    before = {name: getattr(Node, name) for name in needless}
    for name in needless:
        setattr(Node, name, none)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps Ray from printing, among the results, what its processes report: twenty lines if one has died."""
    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda data, ignore_prefix: None
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def check_answers(address: str) -> None:
    """Asks the cluster at an address of Ray's for a sign of life, which Ray would try for ten minutes.

    Raises:
        AdarError: it is not the address of a cluster that answers and takes the token.
    """
    # They take a third of a second, and every worker loads this module.
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    where = f"RAY_ADDRESS {address}"
    usage = "give HOST:PORT of the head, such as 10.0.0.1:6379; or auto, for a cluster on this machine"
    if address.startswith("ray://"):
        raise AdarError(f"{where}: Ray Client cannot run Ray Data; {usage}")
    if "://" in address:
        raise AdarError(f"{where}: is a dashboard, where only `adar-ray job` runs commands; {usage}")
    try:
        target = canonicalize_bootstrap_address(address) or address
    except ValueError as error:
        raise AdarError(f"{where}: is not the address of a cluster; {usage}") from error
    except ConnectionError as error:
        raise AdarError(f"{where}: no Ray runs on this machine; start it, or unset RAY_ADDRESS") from error
    if address == "auto":  # as Ray does before it connects
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with (
        waiting(f"{where} to answer", ANSWER_SECONDS),
        init_grpc_channel(target, [("grpc.enable_http_proxy", 0)]) as channel,
    ):
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            raise _refusal(where, error.code().name, error.details(), usage) from error


def _refusal(where: str, code: str, details: str, usage: str) -> AdarError:
    """Why a cluster did not answer the question whether it is alive.

    Args:
        code: the name of gRPC's status.
    """
    if code == "UNAUTHENTICATED" and is_token_auth_enabled():
        return AdarError(f"{where}: rejects the token in {token_origin()}; use the cluster's own")
    if code == "UNAUTHENTICATED":
        return AdarError(
            f"{where}: requires a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token "
            "or RAY_AUTH_TOKEN_PATH to a file that contains it"
        )
    if code == "DEADLINE_EXCEEDED":
        return TransientError(f"{where}: no answer within {ANSWER_SECONDS:g} s; check that the cluster is up")
    if code == "UNAVAILABLE" and "HTTP/2" not in details:
        reason = details.rpartition(": ")[2].strip("]")
        return TransientError(f"{where}: no Ray cluster answers ({one_line(reason, 160)}); {usage}")
    return AdarError(f"{where}: something other than a Ray cluster answers; {usage}")


def token_origin() -> str:
    """Where Ray takes its token from, in words."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"{file} (RAY_AUTH_TOKEN_PATH)" if file else "~/.ray/auth_token"


def _why_no_token(error: ray.exceptions.AuthenticationError) -> str:
    """Ray's reason, without the instructions that it adds to every reason."""
    return one_line(error.message.rstrip("."))


def _why(error: Exception) -> str:
    if "No node info found" in str(error.__cause__):
        return "no node of the cluster runs on this machine; use one that does, or `adar-ray job submit`"
    return one_line(error, 160)


@contextlib.contextmanager
def _processes_ended() -> Iterator[None]:
    """Shuts down the Ray that the block starts, or was starting, and ends each process that it leaves.

    Ray's agents on a machine outlive a raylet that had to be killed by up to a minute. Whose children they
    were is forgotten by then, so the environment that they inherit marks them.
    """
    import psutil  # found only after Ray is imported, which brings it

    mark = f"{RAY_MARK}{uuid.uuid4().hex}"
    try:
        with environment_kept(**{mark: "1"}):
            yield
    finally:
        ray.shutdown()
        for _ in range(KILL_ROUNDS):
            left = _marked_processes(mark)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left:
                break
            psutil.wait_procs(left, timeout=1)


def _marked_processes(mark: str) -> list[Any]:
    """Those that started with this variable in their environment."""
    import psutil

    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            if mark in process.environ():
                marked.append(process)
    return marked


@contextlib.contextmanager
def quiet_and_ordered_data() -> Iterator[None]:
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

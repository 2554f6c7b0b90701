"""Run calls on the workers of a Dask cluster: the only module that knows Dask.

Scheduling, retries and what happens to work whose worker dies are Dask's own. Calls are submitted as workers
come free, so that neither scheduler nor client ever holds a job as a whole.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.progress import print_line
from labelscape.workers.at_work import TOPIC, carried_out, versions_for
from labelscape.workers.calls import Call, ClusterLost, Returned, Took, WorkersDied
from labelscape.workers.script import check_script

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler, Worker

AHEAD = 2
"""Calls submitted per worker: the one it works on, and the next, so that it never waits for the client."""
RETRIES = 2
"""How often Dask repeats a call that raised."""
INSTALL = "pip install 'labelscape[cluster]'"
JOIN_WITHIN = 300
"""Seconds within which the workers that are waited for have to join (ours): reading torch from a busy network
file system takes minutes.
"""

END_WITHIN = 10.0
"""Seconds after which a worker ends that gets SIGTERM (ours): the command needs up to five to end all."""

QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.tick.cycle": "5s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.system-monitor.gil.enabled": False,
}
"""What Dask does beside the work, more rarely. By its defaults (100 stack traces of each worker a second, 50
looks at each event loop) it took 7 % of the two cores that two workers had, now it takes 1 %.
"""

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Work of a worker runs in a thread, and glibc gives threads heaps that cannot hold a large tensor: each is
mapped, cleared page by page, and given back. In one heap for all its memory serves the next (`heap`).
"""

# For shell scripts: a cluster like the one that is started here on one machine.
SCHEDULER = "dask scheduler --protocol tls --port 0 --dashboard-address :0"
WORKER = "dask worker --nthreads 1 --memory-limit 0 --preload labelscape.workers.cluster"
OWN_KEY = """\
# Whoever reaches a Dask scheduler runs code as its user: only who can read this key is let in.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=labelscape \\
    -keyout "$own/key.pem" -out "$own/cert.pem" 2>/dev/null
export DASK_LOGGING__DISTRIBUTED=warning
export MALLOC_ARENA_MAX=1  # else the system clears the memory of every large tensor anew
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=$own/cert.pem
for role in SCHEDULER WORKER CLIENT; do
    export DASK_DISTRIBUTED__COMM__TLS__${role}__CERT="$own/cert.pem"
    export DASK_DISTRIBUTED__COMM__TLS__${role}__KEY="$own/key.pem"
done"""


@contextlib.contextmanager
def connected(
    workers: int | None = None, cluster: str | Client | None = None, *, threads: int = 1
) -> Iterator[Client]:
    """A client of a cluster with at least one worker: `workers` local processes of so many threads, which end
    with the block; or an own cluster by its address, its scheduler file or a client of it, of which `workers`
    are waited for, five minutes at most.

    Raises BadOption where Dask is not installed or neither is given, BadInput where no scheduler answers.
    """
    check_installed()
    if workers is not None:
        check_count(workers)
    elif cluster is None:
        raise BadOption("Give `workers`, a number of local processes, or `cluster`.")
    with _local(workers, threads) if cluster is None else _joined(cluster) as client:
        client.subscribe_topic(TOPIC, lambda event: print_line(event[1]["text"]))
        client.subscribe_topic("all", _say_lost)
        try:
            _wait(client, workers or 1)
            yield client
        finally:
            with contextlib.suppress(Exception):  # the connection may be gone
                client.unsubscribe_topic("all")
                client.unsubscribe_topic(TOPIC)


def check_count(workers: int) -> None:
    """Raises BadOption for a number of workers that cannot be."""
    if not isinstance(workers, int) or workers < 1:
        raise BadOption(f"`workers={workers}` must be a whole number of at least 1.")


def check_installed() -> None:
    """Raises BadOption where Dask is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise BadOption(f"Workers need Dask, which is not installed: {INSTALL}.")


def _wait(client: Client, workers: int) -> None:
    """Until so many have joined, or some have and the time is over: how scenes are cut depends on their
    number, and those that come later are given work too.
    """
    if len(client.nthreads()) >= workers:
        return
    awaited = f"{workers} workers" if workers > 1 else "the first worker"
    print_line(f"waiting for {awaited} of {client.scheduler.address}")
    try:
        client.wait_for_workers(workers, timeout=JOIN_WITHIN if workers > 1 else None)
    except TimeoutError:
        client.wait_for_workers(1)
        print_line(f"only {len(client.nthreads())} of {workers} workers have joined; the work begins")


def _say_lost(event: tuple[float, dict]) -> None:
    what = event[1]
    if what.get("action") == "remove-worker" and not what.get("expected") and what.get("processing-tasks"):
        print_line(f"worker {what['worker']} was lost; its work is given to another one")


@contextlib.contextmanager
def _local(workers: int, threads: int) -> Iterator[Client]:
    check_script()
    import dask
    from distributed import Client, LocalCluster  # before its configuration is set, else it has no defaults

    # Read by the numerical libraries when a worker starts. Dask takes them from this process where it has
    # them, else it sets them here too.
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    changed = (*counts, *ONE_ARENA, "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")
    before = {name: os.environ.get(name) for name in changed}
    config = {
        **QUIET,
        "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536, **ONE_ARENA, **counts},
        # Set in the worker alone: this process, which joins the blocks of a map, compresses with all cores.
        "distributed.nanny.environ": {"GDAL_NUM_THREADS": str(threads)},
    }
    try:
        os.environ.update(counts)
        with (
            dask.config.set(config),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # Dask would end workers at a share of the machine's memory; `check` says what a map needs.
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                dashboard_address="127.0.0.1:0",
                preload=["labelscape.workers.cluster"],
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def dask_setup(worker: Worker) -> None:
    """Called by Dask in a local worker when it starts. Signals to all (Ctrl-C, `timeout`) are for the
    command, which then ends its workers: they would each print a traceback, or be started again by Dask
    while it ends them.
    """
    import signal

    def end_later(*_: object) -> None:
        # Meant for this worker alone, if the command does not end it.
        late = threading.Timer(END_WITHIN, os._exit, (128 + signal.SIGTERM,))
        late.daemon = True
        late.start()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_later)


def dask_teardown(worker: Worker) -> None:
    """Called by Dask in a local worker when it ends: at once, since taking torch down takes seconds."""
    # Else the lock file of its folder stays. Dask has no public name for it.
    with contextlib.suppress(Exception):
        worker._workdir.release()
    os._exit(0)


@contextlib.contextmanager
def _joined(cluster: str | Client) -> Iterator[Client]:
    from distributed import Client

    if isinstance(cluster, Client):
        yield cluster
        return
    if "://" not in cluster and not Path(cluster).is_file():
        raise BadFile(
            f"{cluster} does not exist; an address (tcp://host:8786) or a scheduler's file was expected."
        )
    where = {"address": cluster} if "://" in cluster else {"scheduler_file": cluster}
    _check_key(cluster)
    try:
        client = Client(**where, timeout="30s", set_as_default=False)
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"No Dask scheduler answers at {cluster} ({why}). Start one: dask scheduler --scheduler-file FILE"
        ) from error
    with client:
        yield client


def _check_key(cluster: str) -> None:
    """Raises BadInput where a scheduler asks for a certificate and none is named here: Dask would raise a
    TypeError, and wait a minute for its end.
    """
    from distributed.security import Security

    try:
        address = cluster if "://" in cluster else json.loads(Path(cluster).read_text())["address"]
    except (OSError, ValueError, KeyError):  # said by who connects
        return
    if address.startswith("tls:") and Security().get_connection_args("client")["ssl_context"] is None:
        raise BadInput(
            f"The Dask scheduler at {cluster} asks for a certificate. Name one in Dask's configuration "
            "(distributed.comm.tls), or by DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and the like."
        )


def dashboard(client: Client) -> str:
    """Address of the dashboard of the cluster's scheduler; "" where it has none."""

    # Nested, so that it is sent as code: the scheduler may run without Labelscape.
    def has_pages(dask_scheduler: Scheduler) -> bool:
        return bool(dask_scheduler.http_application.applications)

    # Not by bokeh being installed here, nor by the port: a scheduler without bokeh, or one started with
    # --no-dashboard, has a port all the same, which answers with other pages.
    with contextlib.suppress(Exception):  # a line of information: no reason to stop
        return (client.dashboard_link or "") if client.run_on_scheduler(has_pages) else ""
    return ""


def asked_of_all(client: Client, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Worker's address -> what the function returns there, or the exception that it raises."""
    return client.run(function, *args, on_error="return")


def workers_of(client: Client) -> dict[str, int]:
    """Worker's address -> its number of threads. Raises ClusterLost."""
    try:
        return client.nthreads()
    except (OSError, RuntimeError) as error:
        raise ClusterLost("The connection to the scheduler is lost.") from error


def outcomes(
    client: Client, calls: Iterable[Call | None], *, limit: float | None = None, took: Took | None = None
) -> Iterator[tuple[Call, Any]]:
    """Each call with what it returned, or the exception that it raised, in the order in which they end.

    The next calls are submitted when earlier ones end, also while nothing is taken from here; `calls` gives
    None where the next depends on one that has not ended. After `limit` seconds without a sign of progress a
    worker ends itself, and its work is given to another one. Raises ClusterLost. Ended early, it cancels what
    was submitted.
    """
    ended: queue.SimpleQueue[tuple[str, Any, Exception | None]] = queue.SimpleQueue()
    running: dict[str, Future] = {}
    by_key: dict[str, Call] = {}
    job, calls, lock, open_ = uuid.uuid4().hex[:8], iter(calls), threading.Lock(), True
    most, counted = 0, -math.inf

    def fill() -> None:
        nonlocal most, counted
        # Workers come and go, but not with every call: asking takes longer than a small one.
        if time.monotonic() - counted > 1:
            most, counted = AHEAD * max(1, len(workers_of(client))), time.monotonic()
        while open_ and len(running) < most and (call := next(calls, None)) is not None:
            key = f"{call.name}-{job}-{call.number}"
            by_key[key] = call
            versions = versions_for(network=call.network)
            what = versions, limit, call.network, call.seen, call.function, call.args
            running[key] = client.submit(_at_work, *what, key=key, pure=False, retries=RETRIES)
            running[key].add_done_callback(ends)

    def ends(future: Future) -> None:
        """In Dask's thread for callbacks. Only the outcome is kept, so that the scheduler forgets the call,
        however late it is taken.
        """
        found = failed = None
        try:
            found = _outcome(future)
            with lock:
                running.pop(future.key, None)
                fill()
        # It would be lost in that thread.
        except Exception as error:
            failed = error
        ended.put((future.key, found, failed))

    try:
        while True:
            # Again after each: what was made of it may be what the next call waited for.
            with lock:
                fill()
            if not by_key:
                return
            key, found, failed = ended.get()
            if failed is not None:
                raise failed
            yield by_key.pop(key), _value(found, took)
    finally:
        open_ = False
        # The connection may be what was lost.
        with contextlib.suppress(Exception):
            client.cancel(list(running.values()))


def _value(found: Any, took: Took | None) -> Any:
    if not isinstance(found, Returned):
        return found
    if took is not None:
        took(found.worker, found.seconds, found.value)
    return found.value


def _outcome(future: Future) -> Any:
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise ClusterLost("The connection to the scheduler is lost.")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return WorkersDied(
            f"The workers that worked on it died, {error.allowed_failures + 1} one after the other (last "
            f"{error.last_worker.address}): killed, out of memory, or stopped by the time limit"
        )
    return error


def _at_work(*call: Any) -> Any:
    """On a worker."""
    from distributed import get_worker

    return carried_out(get_worker(), *call)

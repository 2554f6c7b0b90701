"""Share many pieces of work of one kind, such as scenes or rasters, among workers: one call for each."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelscape.errors import BadOption, LabelscapeError, first_line, is_out_of_memory
from labelscape.files import remove_abandoned
from labelscape.progress import bar, print_line
from labelscape.workers import cluster
from labelscape.workers.calls import Call, ClusterLost
from labelscape.workers.pace import Pace
from labelscape.workers.probe import Crew, Needs, check_workers

if TYPE_CHECKING:
    from distributed import Client

THREADS = 1
"""Of a worker, whatever its machine: the last digits of a map depend on it."""
TIME_LIMIT = 3600.0
"""Seconds without a sign of progress after which a worker counts as hung (ours): no tile and no strip of a
raster takes an hour.
"""


@dataclass(frozen=True)
class Hands:
    """Who does the work: this process, so many others of this machine, or those of a Dask cluster.

    limit  seconds without progress after which a worker is ended, and its work given to another one

    Raises BadOption for a limit that is none.
    """

    workers: int | None = None
    cluster: str | Client | None = None
    limit: float | None = TIME_LIMIT

    def __post_init__(self) -> None:
        check_limit(self.limit)

    @property
    def alone(self) -> bool:
        """Does this process do the work?"""
        return self.workers is None and self.cluster is None


def check_limit(limit: float | None) -> None:
    """Raises BadOption for a time limit that is not above 0."""
    if limit is not None and not limit > 0:
        raise BadOption(f"`block_timeout={limit}` must be above 0.")


def on_workers(
    hands: Hands,
    needs: Needs,
    calls: Iterable[Call],
    count: int,
    *,
    verb: str,
    unit: str,
    pixels: Callable[[Any], float | None],
    kept: bool = False,
) -> Iterator[tuple[Call, Any]]:
    """Each of `count` calls with what it returned, or the exception that it raised, as they end; with a
    progress bar. `pixels` says of what was returned how many were done, None where it failed.

    Raises BadInput where a worker cannot do the job, ClusterLost where the scheduler is gone. Where it is
    interrupted it says how far it came; `kept`: the command, repeated, passes over what was finished.
    """
    with cluster.connected(hands.workers, hands.cluster) as client:
        crew = check_workers(client, needs)
        work = f"{count} {unit if count != 1 else unit.removesuffix('s')}"
        print_line(f"{work}, {crew.in_words(THREADS)}: each takes whole {unit}")
        for line in of_the_crew(client, crew, hands.limit):
            print_line(line)
        ended = 0
        try:
            following = followed(client, calls, hands.limit, f"{verb} {work}", (count, unit), pixels=pixels)
            how = "repeat the command for the others" if kept else "the command, repeated, begins anew"
            with said_where_stopped(lambda: f"{ended} of {work} are finished; {how}"):
                for call, found in following:
                    ended += 1
                    yield call, found
        finally:
            if needs.out is not None and needs.out.is_dir():
                remove_abandoned(needs.out)  # what workers that died left of unfinished files


def followed(
    client: Client,
    calls: Iterable[Call],
    limit: float | None,
    title: str,
    total: tuple[int, str],
    *,
    pixels: Callable[[Any], float | None],
) -> Iterator[tuple[Call, Any]]:
    """`cluster.outcomes` with a progress bar over the whole job: `total` is the number of calls and what they
    are.
    """
    pace = Pace()

    def took(worker: str, seconds: float, found: Any) -> None:
        pace.took(worker, seconds, pixels(found) or 0)

    with bar(title, *total) as tick:
        for call, found in cluster.outcomes(client, calls, limit=limit, took=took):
            done = None if isinstance(found, BaseException) else pixels(found)
            pace.failed += done is None
            pace.pixels += done or 0
            tick(1, **pace.facts())
            yield call, found


def of_the_crew(client: Client, crew: Crew, limit: float | None) -> Iterator[str]:
    """Lines of the plan that are alike for all work."""
    if limit:
        yield f"a worker without progress for {limit:g} s is ended, and its work given to another one"
    if link := cluster.dashboard(client):
        yield f"dashboard: {link}"
    for doubt in crew.doubts:
        yield f"note: {doubt}"


@contextlib.contextmanager
def said_where_stopped(far: Callable[[], str]) -> Iterator[None]:
    """Say after how many seconds, and how far, the work in the block came, where it is stopped by Ctrl-C, by
    a signal (which the command line makes SystemExit), or because the scheduler is gone.
    """
    start = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ClusterLost):
        print_line(f"stopped after {time.monotonic() - start:.0f} s: {far()}")
        raise


def cause_of(error: BaseException, out_of_memory: str = "Out of memory.") -> str:
    """Why a piece of work failed, in a sentence."""
    if isinstance(error, LabelscapeError):
        return str(error)
    if is_out_of_memory(error):
        return out_of_memory
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}."
    # A fault of ours: its place is wanted, and what Python says of it is no sentence for users.
    print_line("".join(traceback.format_exception(error)))
    said = f"{type(error).__name__}: {first_line(error)}"
    return (
        f"Ended by an error that Labelscape should have explained ({said}). Please report it, with the "
        "traceback that was printed."
    )

"""Tiles are made on threads, a few at a time, and none for a browser that has gone on: a map that is zoomed
through asks for many tiles that nobody looks at any more when their turn comes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

GONE = 499
"""Status of an answer that nobody waits for, as nginx has it."""


class Turns:
    """Lets `at_once` requests be answered at a time; the others wait without a thread."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    async def answer(self, request: Request, make: Callable[[], Response]) -> Response:
        """What `make` returns on a thread; nothing is made where the browser has closed its connection."""
        async with self._free:
            if await _is_gone(request):
                return Response(status_code=GONE)
            return await run_in_threadpool(make)


async def _is_gone(request: Request) -> bool:
    """Has the browser closed its connection?"""
    try:
        # The request itself is received first; that the browser has gone comes after it, or in its place.
        await request.body()
    except ClientDisconnect:
        return True
    return await request.is_disconnected()


class Kept:
    """The newest answers, `most` bytes of them. One that is being made is waited for, not made twice."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._found: OrderedDict[Hashable, Future[Response]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Response]) -> Response:
        """The answer of a key, by `make` where it is not kept. Raises as `make` does, also for those who
        wait for it; the next one tries again.
        """
        with self._lock:
            known = self._found.get(key)
            if known is None:
                mine = self._found[key] = Future()
            else:
                self._found.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._found[key]
            mine.set_exception(error)
            raise
        mine.set_result(made)
        with self._lock:
            self._bytes += len(made.body)
            while self._bytes > self._most:
                oldest, one = next(iter(self._found.items()))
                # One that is being made is not counted yet.
                if not one.done():
                    break
                del self._found[oldest]
                self._bytes -= len(one.result().body)
        return made

"""Tiles are made once for all that ask at the same time, and not for a browser that has gone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from fastapi import Request, Response

from labelscape.viewer.making import GONE, Kept, Turns

WHOLE = {"type": "http.request", "body": b"", "more_body": False}
LEFT = {"type": "http.disconnect"}


def request(*received: dict) -> Request:
    """A request, of which this is received, and no more."""
    messages = [*received]

    async def receive() -> dict:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return Request({"type": "http", "method": "GET", "headers": []}, receive)


def test_nothing_is_made_for_a_browser_that_has_gone():
    made = []

    def make() -> Response:
        made.append(threading.current_thread())
        return Response(b"tile")

    async def asked() -> list[int]:
        turns = Turns(1)
        # A server that is late is told of the browser that has gone in place of its request.
        asked = request(WHOLE), request(WHOLE, LEFT), request(LEFT), request(WHOLE)
        answers = [await turns.answer(one, make) for one in asked]
        return [one.status_code for one in answers]

    assert asyncio.run(asked()) == [200, GONE, GONE, 200]
    assert len(made) == 2 and threading.current_thread() not in made


def test_so_many_are_made_at_a_time_and_an_error_gives_its_turn_back():
    running, most = 0, 0
    lock = threading.Lock()
    two = threading.Barrier(2)

    def make() -> Response:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        # Two at a time: alone, neither would go on.
        two.wait(30)
        with lock:
            running -= 1
        raise ValueError("damaged")

    async def asked() -> list[object]:
        turns = Turns(2)
        return await asyncio.gather(
            *(turns.answer(request(WHOLE), make) for _ in range(6)), return_exceptions=True
        )

    assert [str(one) for one in asyncio.run(asked())] == ["damaged"] * 6 and most == 2


def test_one_answer_is_made_for_all_that_ask_for_it():
    kept, begun, go_on = Kept(1000), threading.Event(), threading.Event()
    made = []

    def make() -> Response:
        made.append(1)
        begun.set()
        assert go_on.wait(30)
        return Response(b"tile")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(kept.get, "a", make)
        assert begun.wait(30)
        others = [pool.submit(kept.get, "a", make) for _ in range(3)]
        go_on.set()
        assert len({id(one.result()) for one in (first, *others)}) == 1
    assert kept.get("a", make).body == b"tile" and len(made) == 1


def test_an_error_is_not_kept():
    kept = Kept(1000)

    def fail() -> Response:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            kept.get("a", fail)
    assert kept.get("a", lambda: Response(b"tile")).body == b"tile"


def test_the_answers_used_last_are_kept():
    kept, made = Kept(100), []

    def ask(key: str, size: int = 40) -> None:
        kept.get(key, lambda: made.append(key) or Response(b"x" * size))

    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    # "c" put "b" out, which was not used since "a" was.
    assert made == ["a", "b", "c", "b"]
    ask("large", 1000)
    ask("b")
    assert made[4:] == ["large", "b"]

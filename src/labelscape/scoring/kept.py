"""Networks are kept from one scene of a job to the next: building one takes up to a second, as long as many a
small scene takes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from labelscape.checkpoint import Checkpoint
from labelscape.scoring.scorer import Scorer

MOST = 2
"""Networks kept at a time (ours): in half precision a map compares with full precision."""

_networks: dict[tuple, Scorer] = {}
_users = 0
_lock = threading.Lock()


@contextmanager
def networks_kept() -> Iterator[None]:
    """Keep networks while the block runs; without such a block each is gone with its map."""
    keep_networks()
    try:
        yield
    finally:
        _leave()


def keep_networks(*, for_life: bool = False) -> None:
    """Keep networks from now on: `for_life` of this process, a worker's."""
    global _users
    with _lock:
        _users = max(_users, 1) if for_life else _users + 1


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            _networks.clear()


def kept_scorer(models: Sequence[Checkpoint], **how: object) -> Scorer:
    """`Scorer.of`, or the one that it made of the same checkpoints for an earlier scene. Raises as that."""
    # Of this thread: a network that observes its features is not for two at a time.
    key = (threading.get_ident(), tuple(models), tuple(sorted(how.items())))
    with _lock:
        found = _networks.get(key)
    if found is None:
        found = Scorer.of(models, **how)
        with _lock:
            while _users and len(_networks) >= MOST:
                _networks.pop(next(iter(_networks)))
            if _users:
                _networks[key] = found
    return found

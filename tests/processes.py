"""Other processes, as tests see them."""

import os
import time


def until(true, seconds=120, every=0.01):
    """Wait until `true()`; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(every)


def group_exists(number):
    """Is there a process of this group?"""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True

"""Large libraries, imported in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """For a block that imports a large library: no garbage is sought while it runs. torch and timm make
    hundreds of thousands of objects and leave no garbage; looking for it took 0.6 of 2.2 s, and another
    0.3 s soon after the block, as for all young objects.
    """
    sought = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # a user's own stay frozen
            # They are old from now on: what is frozen and thawed joins the oldest generation.
            gc.freeze()
            gc.unfreeze()
        if sought:
            gc.enable()

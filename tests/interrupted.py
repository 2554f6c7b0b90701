"""Maps that are interrupted, as by Ctrl-C."""

import pytest

from labelscape.maps.journal import Journal
from labelscape.maps.run import map_scene


def stopped_after_a_tile(monkeypatch, model, scene, out, **how):
    """A map that ends when its second tile would be kept: the first is in the journal."""
    save, kept = Journal.save, []

    def stops(self, core, planes):
        if kept:
            raise KeyboardInterrupt
        kept.append(core)
        save(self, core, planes)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            map_scene(model, scene, out, **how)

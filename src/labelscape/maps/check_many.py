"""Check many scenes against a model, one after another or one a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labelscape.checkpoint import Checkpoint, StoredAs
from labelscape.errors import BadOption, LabelscapeError
from labelscape.maps.plan import CheckResult, check
from labelscape.scenes.files import Source
from labelscape.scoring.kept import networks_kept
from labelscape.workers.calls import Call
from labelscape.workers.probe import Needs
from labelscape.workers.seen import Seen
from labelscape.workers.sent import files_of, for_workers, loaded
from labelscape.workers.share import Hands, on_workers

Checked = CheckResult | str
"""What was found; or why a scene cannot be opened, as a sentence."""


def check_scenes(
    models: Sequence[Checkpoint], scenes: Sequence[Source], settings: Mapping[str, Any], hands: Hands
) -> Iterator[Checked]:
    """As `check` with these settings, for each scene in order; one that cannot be opened does not stop the
    others. On workers all are checked before the first is yielded.

    Raises BadOption for settings, which are as wrong for the other scenes; BadInput where a worker cannot do
    the job.
    """
    if hands.alone:
        with networks_kept():
            yield from (_checked(models, scene, settings) for scene in scenes)
        return
    sent = dict(settings)
    for name in ("area", "out"):
        sent[name] = None if sent.get(name) is None else for_workers(str(sent[name]))
    files = files_of(models)
    calls = (
        Call(n, "check", _here, (files, scene, sent), seen=Seen.here(scene))
        for n, scene in enumerate(map(for_workers, scenes))
    )
    needs = Needs(None, files, settings.get("device", "auto"), seen=Seen.here(for_workers(scenes[0])))
    shown = {"verb": "check", "unit": "scenes", "pixels": lambda found: 0 if _is_result(found) else None}
    found: dict[int, Checked] = {}
    for call, one in on_workers(hands, needs, calls, len(scenes), **shown):
        if isinstance(one, BadOption):
            raise one
        found[call.number] = str(one) if isinstance(one, Exception) else one
    yield from (found[number] for number in range(len(scenes)))


def _is_result(found: Any) -> bool:
    return isinstance(found, CheckResult)


def _here(files: tuple[StoredAs, ...], scene: Any, settings: Mapping[str, Any]) -> Checked:
    """On a worker."""
    return _checked(loaded(files), scene, settings)


def _checked(models: Sequence[Checkpoint], scene: Source, settings: Mapping[str, Any]) -> Checked:
    try:
        return check(models, scene, **settings)
    except BadOption:
        raise
    except LabelscapeError as error:
        return str(error)

"""Do workers see the files that the process sees which hands out the work? A path of another machine may lead
to another scene of that name, and its map would pass for that of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labelscape.scenes.stamps import NO_RASTERS, ON_SERVERS, stamps

Facts = tuple[str, int | None, str]
"""Name without folder, size in bytes (None where it is missing), digest of samples of the content."""


@dataclass(frozen=True)
class Seen:
    """Paths, and the files that are read from them; none where nothing is to be compared."""

    paths: tuple[str, ...] = ()
    files: tuple[Facts, ...] = ()

    @classmethod
    def here(cls, *sources: str | tuple[str, ...] | None) -> Seen:
        """The files of these paths as this process sees them. Left out are paths that it lacks, as the
        machine may from which a job is handed out, and those that are more than a path (a layer, an item).
        """
        given = [
            path for one in sources if one is not None for path in ((one,) if isinstance(one, str) else one)
        ]
        paths = tuple(path for path in given if Path(path).exists() or _is_raster_there(path))
        files = _facts(paths)
        return cls() if any(size is None for _, size, _ in files) else cls(paths, files)

    def unlike(self) -> str:
        """On a worker: what differs here, as a part of a sentence; "" where nothing does."""
        now = _facts(self.paths) if self.files else ()
        if now == self.files:
            return ""
        if lacking := [name for name, size, _ in now if size is None]:
            return f"it lacks {lacking[0]} (a file of {self.paths[0]})"
        other = sorted({name for name, *_ in {*now} ^ {*self.files}})
        return (
            f"its {', '.join(other[:3])} (under {self.paths[0]}) is not what the command sees there: size or "
            "content differ"
        )


def _is_raster_there(path: str) -> bool:
    """Can this process read a raster on a server? An item is none, but names some."""
    if not ON_SERVERS.search(path) or Path(path.partition("?")[0]).suffix.lower() in NO_RASTERS:
        return False
    return None not in stamps((path,), served=True).values()


def _facts(paths: tuple[str, ...]) -> tuple[Facts, ...]:
    # Not the times: a copy on another machine may have its own. Of a folder they make the digest.
    return tuple(
        (Path(name).name, stamp and stamp[0], stamp[2] if stamp and not Path(name).is_dir() else "")
        for name, stamp in stamps(paths, served=True).items()
    )

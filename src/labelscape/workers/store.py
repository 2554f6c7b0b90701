"""Where the finished tiles of a map are kept: whole objects under names, in a folder (`Folder`) or in a
bucket of an S3 server (`Bucket`).

An object is there as a whole or not at all. A folder gets that by renaming a file, S3 by each PUT. S3 has no
locks and needs none here: names in a bucket carry the map that a tile is of (`remote`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from labelscape.errors import BadFile, BadOption
from labelscape.files import OURS, cannot_write, check_path, private_folder, written_whole
from labelscape.progress import print_line

INSTALL = "pip install 'labelscape[s3]'"
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
NO_ANSWER = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError")
"""Errors of botocore, by name: it is not installed everywhere."""
RIGHTS = "The credentials must have the rights to list, read, write and delete objects of the bucket {}."


class Store(Protocol):
    """The operations that the journal needs. All but `get` of a name that is missing raise BadFile.

    address  folder or s3://BUCKET/PREFIX, which another process opens with `store_at`
    remote   may processes that do not know each other write here? No lock holds them off
    """

    remote: bool

    @property
    def address(self) -> str: ...
    def names(self, beginning: str = "") -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def lookup(self) -> Callable[[str], bool]: ...
    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, data: bytes) -> None: ...
    def delete(self, names: Iterable[str]) -> None: ...
    def empty(self) -> None: ...
    def remove(self) -> None: ...
    def stored_bytes(self) -> int: ...
    def probe(self, mark: str, answer: str) -> str: ...


def store_for(out: Path, stem: str, journal: str | None) -> Store:
    """The place for the tiles of the map `stem`: beside its files in `out`, or below `journal` on S3. Raises
    BadFile where it is a symbolic link.
    """
    folder = out / f".{stem}.unfinished"
    if journal is not None:
        # Quoted: s3fs takes `*`, `?` and `[` in a name for patterns.
        return Bucket(f"{journal}/{quote(folder.name)}")
    if folder.is_symlink():
        raise BadFile(f"{folder} is a symbolic link; remove it, or write to another folder (`out`).")
    return Folder(folder)


def new_mark() -> str:
    """A name that nothing else has, for an object that is written to see whether it can be read."""
    return f"{OURS}{secrets.token_hex(8)}.probe"


def store_at(address: str) -> Store:
    """The store at an address."""
    return Bucket(address) if address.startswith("s3://") else Folder(Path(address))


@dataclass(frozen=True)
class Folder:
    """Files of a folder, which all processes that use it must share."""

    path: Path
    remote = False

    @property
    def address(self) -> str:
        return str(self.path.absolute())

    def names(self, beginning: str = "") -> list[str]:
        """Names of files and folders, unsorted; none where there is no folder."""
        try:
            return [name for name in os.listdir(self.path) if name.startswith(beginning)]
        except OSError:
            return []

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def lookup(self) -> Callable[[str], bool]:
        """`has` for many names."""
        return self.has

    def get(self, name: str) -> bytes | None:
        # One that cannot be read costs the time of a tile, as a damaged one does, and must not end the run.
        with contextlib.suppress(OSError):
            return (self.path / name).read_bytes()
        return None

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        # Else the folder would be made again, with tiles but without settings.
        if not self.path.is_dir():
            raise BadFile(
                f"{path} cannot be written: its folder was removed or renamed while the map was made."
            )
        with written_whole(path, overwrite=True) as part:
            part.write_bytes(data)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def empty(self) -> None:
        """Delete all, and be ready to take files."""
        try:
            self.remove()
            self.path.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def remove(self) -> None:
        """Delete the folder at once: killed meanwhile, no half of it is left under its name."""
        if self.path.exists():
            with contextlib.suppress(OSError), private_folder(self.path.parent) as private:
                self.path.rename(private / self.path.name)
            shutil.rmtree(self.path, ignore_errors=True)  # where it cannot be renamed

    def stored_bytes(self) -> int:
        """Of the tiles, which a map that is resumed does not need again."""
        return sum(tile.stat().st_size for tile in self.path.glob("*.tif"))

    def probe(self, mark: str, answer: str) -> str:
        """Read the file `mark` and write `answer`: what is wrong, as a part of a sentence, or ""."""
        file = self.path / mark
        try:
            if file.read_text() != mark:
                raise OSError("another file is there")
            (self.path / answer).write_text("")
        except OSError as error:
            verb = "write to" if file.is_file() else "read"
            return f"it cannot {verb} the folder {self.path} ({error.strerror or error})"
        return ""


@dataclass(frozen=True)
class Bucket:
    """Objects of an S3 server below `s3://BUCKET/PREFIX`; server and credentials come from the environment
    (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) or the machine's role, as for other programs.
    """

    address: str
    remote = True

    @property
    def _system(self) -> Any:
        return _system(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))

    def names(self, beginning: str = "") -> list[str]:
        """Names of objects, by one request for each thousand of them."""
        bucket, _, key = self._place.partition("/")
        # From the bucket by prefix: of a folder that is empty s3fs asks twice.
        prefix = f"{key}/{beginning}" if key else beginning
        found = self._asked("list", lambda: self._system.find(bucket, prefix=prefix))
        return [path.removeprefix(f"{self._place}/") for path in found]

    def has(self, name: str) -> bool:
        return name in self.names(name)

    def lookup(self) -> Callable[[str], bool]:
        """`has` for many names that begin with a number and `_`, as they are now: one listing for each
        number, a row of tiles, and not a request for each name.
        """
        row = lru_cache(maxsize=None)(lambda number: frozenset(self.names(f"{number}_")))
        return lambda name: name in row(name.partition("_")[0])

    def get(self, name: str) -> bytes | None:
        return self._asked("read", lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            return self._system.cat_file(f"{self._place}/{name}")
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            return None

    def put(self, name: str, data: bytes) -> None:
        self._asked("write", lambda: self._system.pipe_file(f"{self._place}/{name}", data))

    def delete(self, names: Iterable[str]) -> None:
        if paths := [f"{self._place}/{name}" for name in names]:
            self._asked("delete", lambda: self._system.rm(paths))

    def empty(self) -> None:
        """Delete all objects, what tells of which map they are first: killed meanwhile, the others are no
        tiles of any map.
        """
        names = self.names()
        self.delete(name for name in names if not name.endswith(".tif"))
        self.delete(name for name in names if name.endswith(".tif"))

    def remove(self) -> None:
        """As `empty`; what cannot be deleted is said, since the map is complete."""
        try:
            self.empty()
        except BadFile as error:
            print_line(f"note: finished tiles are left. {error}")

    def stored_bytes(self) -> int:
        """None of them lie on the disk of the map."""
        return 0

    def probe(self, mark: str, answer: str) -> str:
        """Read the object `mark` and write `answer`: what is wrong, as a part of a sentence, or ""."""
        try:
            if self.get(mark) != mark.encode():
                return f"it sees another place under {self.address}; is its AWS_ENDPOINT_URL another one?"
            self.put(answer, b"")
        except BadFile as error:
            return str(error).rstrip(".")
        return ""

    @property
    def _place(self) -> str:
        return self.address.removeprefix("s3://")

    def _asked(self, verb: str, ask: Callable[[], Any]) -> Any:
        """What the server answers. Retries are those of s3fs and botocore."""
        try:
            return ask()
        # botocore, aiohttp and s3fs each have their own errors, of no common kind.
        except Exception as error:
            raise BadFile(f"{self.address}: cannot {verb}: {_why(error, self._place)}") from error


@lru_cache(maxsize=2)
def _system(environment: tuple[tuple[str, str], ...]) -> Any:
    """The client of a server, one for all scenes of a job while the environment is the same."""
    import s3fs

    # s3fs shares clients by their arguments, without the environment. Concurrency is within one object: for
    # it s3fs would ask the size of each before reading it.
    how = {"use_listings_cache": False, "max_concurrency": 1, "skip_instance_cache": True}
    # botocore's own: s3fs gives up a connection after 5 s, which a machine whose cores all compute needs.
    return s3fs.S3FileSystem(config_kwargs={"connect_timeout": 60, "read_timeout": 60}, **how)


def _code(error: BaseException) -> str:
    """S3's own name of an error; "" where the server did not answer."""
    response = getattr(error.__cause__ or error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _why(error: Exception, place: str) -> str:
    """Why S3 did not do it and what to do, as sentences."""
    kind, bucket = type(error).__name__, place.partition("/")[0]
    text = (str(error).strip().splitlines() or [kind])[0].rstrip(".")
    if _code(error) == "NoSuchBucket":
        return f"there is no bucket {bucket}. Create it, or give another `journal`."
    if kind in NO_CREDENTIALS:
        return f"{text}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    if isinstance(error, PermissionError):
        return f"{text}. {RIGHTS.format(bucket)}"
    if kind in NO_ANSWER:
        return f"{text}. Is the S3 server running, and AWS_ENDPOINT_URL right?"
    return f"{text}." if isinstance(error, OSError) else f"{kind}: {text}."


def check_journal(journal: object) -> str:
    """The place `s3://BUCKET/PREFIX` of a journal, tried out: an object is written, listed, read and deleted
    there. Raises BadOption for another place or without s3fs, WrongType, BadFile where one of these fails.
    """
    check_path(journal, "The place of the journal")
    place = str(journal).rstrip("/")
    if not re.fullmatch(r"s3://[\w.-]+(/[^/*?\[]+)*", place):
        raise BadOption(
            f"`journal={place!r}` must be s3://BUCKET/PREFIX. Tiles that are kept in a folder lie in `out`: "
            "leave `journal` out."
        )
    if importlib.util.find_spec("s3fs") is None:
        raise BadOption(f"A journal on S3 needs s3fs, which is not installed: {INSTALL}.")
    store, mark = Bucket(place), new_mark()
    store.put(mark, mark.encode())
    if not store.has(mark) or store.get(mark) != mark.encode():
        raise BadFile(f"{place}: what is written there cannot be read again; give another `journal`.")
    store.delete([mark])
    # Of many objects deleted at once S3 reports those that it kept, and s3fs passes over that.
    if store.has(mark):
        bucket = store._place.partition("/")[0]
        raise BadFile(f"{place}: cannot delete what was written. {RIGHTS.format(bucket)}")
    return place

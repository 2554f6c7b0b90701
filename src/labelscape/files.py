"""Write files atomically (`written_whole`), let one run at a time write a target (`locked`), and check paths
and file names.

All temporary files lie in folders of `private_folder`: no other user can enter them, nobody can guess their
names, and those that a killed process left are known by their free lock.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from labelscape.errors import BadFile, BadOption, WrongType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OURS = ".labelscape-"
"""Start of the names of temporary folders and lock files."""
LOCK = ".lock"
"""End of the names of lock files."""
OLD = 24 * 3600
"""Seconds after which a temporary folder counts as abandoned where locks are not supported (ours)."""
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
TIDYING = 0.5
"""Seconds to wait for a lock in any case (ours): processes that tidy up hold those of others for a moment."""
YOUNG = 5.0
"""Seconds to wait for one whose file was made just now (ours): between making and locking it another process
may tidy up, and that moment can be long on a busy machine or disk.
"""
NEARLY_FULL = 2**20
"""Bytes below which a failure to write is put down to the disk (ours)."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FREE_SPACE = " Free some space there, and try again."

LONGEST_NAME = 255
"""Of a file or folder, on all common file systems: bytes of UTF-8, on Windows UTF-16 units."""
HIDDEN = 30
"""Bytes kept free in the name of a file for what SQLite and GDAL put beside it while it is written, such as
`NAME.gpkg-journal`.
"""
ADDED = HIDDEN + len(".aux.xml")
"""As HIDDEN, where the file gets a side file that is written in the same way."""
FILES = {
    *(".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".jpg", ".jpeg", ".nc"),
    *(".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".qml", ".sld"),
    *(".csv", ".txt", ".html", ".pdf", ".md", ".xlsx", ".yaml", ".yml", ".toml"),
    *(".safetensors", ".onnx", ".pt", ".pth", ".pt2", ".npz", ".zip"),
}
"""Suffixes of files that somebody may name where a folder is asked for."""
# Half of a character beyond U+FFFF. Python also uses these for bytes of a file name that are not UTF-8.
LONE_SURROGATES = "\ud800-\udfff"


def check_path(given: object, what: str) -> None:
    """Raises WrongType where `given` is not a path (None, an array, an open file), and BadFile where no file
    can have this path (see `name_fault`). `what` names it in the message.
    """
    if not isinstance(given, (str, os.PathLike)):
        found = (
            "nothing (None)" if given is None else f"a {type(given).__module__}.{type(given).__qualname__}"
        )
        raise WrongType(f"{what} must be given as a path; found {found.replace('builtins.', '')}.")
    text = os.fspath(given)
    if not text:
        # As a variable of a script that is not set: the current folder is not what was meant.
        raise BadFile(f"{what} must be given as a path; found an empty text. The current folder is `.`.")
    # Addresses and what GDAL makes of them may be longer than a file's name.
    if isinstance(text, str) and "://" not in text and not text.startswith("/vsi"):
        for name in Path(text).parts:
            # Line breaks are allowed here: on Linux such a file may exist, and can be read.
            if fault := name_fault(name, forbidden="\0" + LONE_SURROGATES):
                raise BadFile(f"{what} cannot be {_shown(name)}: {fault}.")
        check_regular(text)


def names_file(place: str | Path) -> bool:
    """Has a place that is to be written the name of a file of a known kind, and is no folder already?"""
    return Path(place).suffix.lower() in FILES and not os.path.isdir(place)


def check_folder(given: object, what: str) -> None:
    """As `check_path`, for a folder to write into; raises BadOption where it has the name of a file."""
    check_path(given, what)
    # That a file lies there is said where the folder is made.
    if names_file(given) and not os.path.exists(given):
        place = Path(given)
        raise BadOption(
            f"{what} has the name of a file, {place.name}. Give a folder, such as {place.with_suffix('')}: "
            "the files in it get names of their own."
        )


def check_regular(path: str | Path) -> None:
    """Raises BadFile for a pipe, a socket or a device: reading one may wait for ever, or never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # what is missing is reported by whoever opens it
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadFile(f"{path} is a pipe, a socket or a device; a file was expected.")


def check_local(path: str | Path) -> None:
    """Raises BadFile where `path` is an address: a folder `s3:` would be made here."""
    # pathlib makes one slash of two.
    if found := re.match(r"([A-Za-z][\w+.-]+):/|/vsi[a-z0-9_]+/", str(path)):
        raise BadFile(
            f"{path} is an address ({found[0]}), and results are written to local files only. Give a local "
            "folder, and copy the results from there (aws s3 cp, gsutil cp, rclone)."
        )


def check_written(path: str | Path, free: int = ADDED) -> None:
    """Raises BadFile where no file can be written to `path`, because of its name or of a folder's. Every
    writer calls it, the slow ones before their work.
    """
    check_path(path, "The path of a file to write")
    check_local(path)
    if fault := name_fault(Path(path).name, free=free):
        raise BadFile(f"The file {_shown(Path(path).name)} cannot be written: {fault}.")


def name_fault(
    name: str, *, free: int = 0, forbidden: str = "\0-\x1f\x7f" + LONE_SURROGATES, system: str = sys.platform
) -> str | None:
    """Why a file or folder cannot have this name, as a part of a sentence, or None. `free` bytes are kept
    free for what is added to it; `forbidden` is a range of characters as in a regular expression.
    """
    if found := re.search(f"[{forbidden}]", name):
        return (
            f"its name has the character U+{ord(found[0]):04X}; a name of visible characters in UTF-8 was "
            "expected, so choose another one"
        )
    size = len(name.encode("utf-16-le")) // 2 if system == "win32" else len(os.fsencode(name))
    if size > LONGEST_NAME - free:
        return f"its name has {size} bytes, at most {LONGEST_NAME - free} are possible; give a shorter one"
    return None


def _shown(name: str) -> str:
    """A name in a message: quoted, invisible characters as escapes, and cut where it is long."""
    return repr(name if len(name) <= 80 else f"{name[:60]}...")


def stem_of(name: str, system: str = sys.platform) -> str:
    """Make a scene's name a valid start of file names, without folders. On Windows `a:b.tif` would be a
    hidden stream of the file `a`, and ids of STAC items may have colons. GDAL drops line breaks from the
    name of a GeoPackage, which is then not found.
    """
    everywhere = r"/\0-\x1f\x7f" + LONE_SURROGATES
    return re.sub(rf'[<>:"\\|?*{everywhere}]' if system == "win32" else f"[{everywhere}]", "_", name)


@contextlib.contextmanager
def private_folder(beside: str | Path) -> Iterator[Path]:
    """A temporary folder in the folder `beside`, created exclusively and closed to other users; removed at
    the end of the block. All temporary names are made here.

    In a folder that several people write to, a file of a predictable name may be another's symbolic link, and
    writing to it would overwrite what it points to. Raises OSError where the folder cannot be created.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=OURS, dir=beside))
        # Another process that tidies up may hold the lock of a folder that was not locked yet, or have
        # removed it: before it was opened here, or after.
        try:
            handle = _open_folder(folder)
        except FileNotFoundError:
            continue
        if handle is None or (_lock(handle) is not False and os.fstat(handle).st_nlink):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        # Not an error: on Windows another program may have a file open, and a full disk still removes files.
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A `private_folder` where the system has its temporary files. Raises BadFile where there is none, and
    where the block fails because a disk is full.
    """
    with contextlib.ExitStack() as held:
        try:
            folder = held.enter_context(private_folder(tempfile.gettempdir()))
        except OSError as error:
            raise BadFile(
                f"No temporary file can be written ({error.strerror or error}): set TMPDIR to a folder that "
                "can be written to."
            ) from error
        try:
            yield folder
        except OSError as error:
            # One of ours says already which file it is.
            if isinstance(error, BadFile) or error.errno not in FULL:
                raise
            raise no_room() from error


def no_room() -> BadFile:
    """What is said where the disk of temporary files is full."""
    return BadFile(
        f"There is no room for temporary files in {tempfile.gettempdir()}: free some, or set TMPDIR to a "
        "folder on another disk."
    )


def cache_folder() -> Path:
    """The user's folder for what can be made again: LABELSCAPE_CACHE, else where the system keeps such files.
    It need not exist.
    """
    if given := os.environ.get("LABELSCAPE_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "labelscape"


def make_folder(path: Path) -> None:
    """Create a folder and those above it. Raises BadFile where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)
        why = f"{file} is a file" if file else error.strerror or error
        raise BadFile(f"The folder {path} cannot be created: {why}.") from error


@contextlib.contextmanager
def written_whole(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file atomically: yields a path of the same name in a private folder beside it, which is renamed
    to `path` on success and removed on failure.

    Raises BadFile where `path` exists and may not be replaced, or it cannot be written (its name,
    permissions, disk full).
    """
    check_local(path)
    path = Path(path)
    check_written(path, HIDDEN)
    check_new(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidied(path.parent.absolute())
        # Beside the target, since a rename is atomic only within one file system.
        with private_folder(path.parent) as folder:
            part = folder / path.name
            yield part
            try:
                part.replace(path)
            except IsADirectoryError as error:
                raise BadFile(f"{path} cannot be written: there is a folder of this name.") from error
    except OSError as error:
        raise cannot_write(path, error) from error


@functools.lru_cache(maxsize=4096)
def _tidied(folder: Path) -> None:
    """Remove what killed processes left in a folder, once in each process: folders of thousands of files are
    written one by one, and what another process leaves meanwhile is for the next.
    """
    remove_abandoned(folder)


def check_new(path: Path, *, overwrite: bool, why: str = "") -> None:
    """Raises BadFile where a file exists and may not be replaced (`why` not, as a part of a sentence), or
    there is a folder of this name.

    What a killed run left beside it is removed: where that run had finished its file, this is the only one to
    come.
    """
    # Not "pass `overwrite=True`": a folder is never replaced.
    if path.is_dir() and not path.is_symlink():
        raise BadFile(f"{path} cannot be written: there is a folder of this name.")
    if path.exists() and not overwrite:
        remove_abandoned(path.parent)
        raise BadFile(f"{path} exists{why}; pass `overwrite=True` to replace it.")


def check_not_read(out: str | Path, reads: Iterable[object]) -> None:
    """Raises BadOption where `out` is one of the files that the work reads (what is no path counts for
    nothing): to replace it, which `overwrite` allows, would destroy what cannot be made again.
    """
    same = False
    for path in reads:
        with contextlib.suppress(OSError, ValueError):  # of what does not exist, or is an address
            # samefile, since links and relative paths may name one file twice.
            same = same or (isinstance(path, (str, os.PathLike)) and os.path.samefile(out, path))
    if same:
        raise BadOption(f"{out} is an input itself, and would be lost; give another file to write.")


@contextlib.contextmanager
def new_files(paths: Iterable[Path]) -> Iterator[None]:
    """Files that are worth something together: where the block fails, those of `paths` that it made are
    removed again, with their `.aux.xml`. What was there before stays.
    """
    both = (one for path in paths for one in (path, path.with_name(f"{path.name}.aux.xml")))
    made = [path for path in both if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            # The failure itself is what the user must read.
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def check_replaceable(path: Path) -> None:
    """Raises BadFile where a file that exists cannot be replaced: it is a folder, protected by the system, or
    another user's in a folder where everybody may remove only their own.
    """
    if path.is_dir() and not path.is_symlink():
        raise BadFile(f"{path} cannot be written: there is a folder of this name.")
    about, folder = path.lstat(), path.parent.stat()
    mine = not hasattr(os, "geteuid") or os.geteuid() in (0, about.st_uid, folder.st_uid)
    if folder.st_mode & stat.S_ISVTX and not mine:
        raise BadFile(
            f"{path} cannot be replaced: it belongs to another user. Write to another folder (`out`)."
        )
    try:
        # Opened, not written to. Files without permission to write can be replaced; immutable ones cannot.
        os.close(os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise BadFile(f"{path} cannot be replaced: the system protects it ({error.strerror}).") from error


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be made; None where the system does not say."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), None)
    with contextlib.suppress(OSError):
        space = shutil.disk_usage(there or ".")
        return space.free if space.total else None
    return None


def bytes_text(count: int) -> str:
    """A number of bytes for people: 12 MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"


def try_to_write(path: Path) -> None:
    """Raises BadFile where a small file of this name cannot be written in this folder."""
    try:
        with private_folder(path.parent) as folder:
            (folder / path.name).write_bytes(bytes(4096))
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError, why: str = "") -> BadFile:
    """A BadFile that says why a file cannot be written; `why` is the reason as another library gave it. The
    error itself where it is one already.
    """
    if isinstance(error, BadFile):
        return error
    why = why or error.strerror or str(error)
    return BadFile(f"{path} cannot be written: {why}.{_likely_cause(path, error)}")


def _likely_cause(path: Path, error: OSError) -> str:
    """A sentence on what is wrong with the place, from its state: libraries seldom say it."""
    code, folder = getattr(error, "errno", None), path.parent
    if not folder.is_dir():
        return " Its folder was removed or renamed meanwhile." if not folder.exists() else ""
    if code in FULL:
        return FREE_SPACE  # that it is full is said by the system itself
    with contextlib.suppress(OSError):
        space = shutil.disk_usage(folder)
        # Where the system gave no reason itself; file systems of the kernel's own have no space at all.
        if code is None and space.free < NEARLY_FULL and space.total:
            return f" The disk is full.{FREE_SPACE}"
    if not os.access(folder, os.W_OK):
        return " The folder is read-only."
    # Windows does not replace a file that another program has open.
    if sys.platform == "win32" and path.exists():
        return " Is it open in another program?"
    return "" if code is not None else " Is the disk full, or a quota used up?"


@contextlib.contextmanager
def locked(path: str | Path, *, patience: float = 0, of: str = "", tidy: bool = True) -> Iterator[None]:
    """Let no other process (or thread) write `path` while the block runs, and first remove what killed
    processes left beside it (`tidy`). The system releases the lock when the process ends, however it ends;
    `patience` are the seconds to wait for that. Locks `of` another kind do not exclude each other.

    Raises BadFile where another one is writing it, or its folder cannot be written to. File systems without
    locks let all pass.
    """
    path = Path(path)
    # A hash: the name of the target may be as long as the system allows.
    digest = hashlib.sha256(os.fsencode(path.name) + b"/" * bool(of) + of.encode()).hexdigest()[:16]
    lock = path.parent / f"{OURS}{digest}{LOCK}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        while (handle := _hold(lock)) is None:
            waited = time.monotonic() - begun
            if waited > max(patience, YOUNG if _is_young(lock) else TIDYING):
                break
            time.sleep(0.05)
    except OSError as error:
        raise cannot_write(path, error) from error
    if handle is None:
        raise BadFile(
            f"{path} is being written by another run of Labelscape. Wait until it ends, or write to another "
            "folder (`out`)."
        )
    try:
        if tidy:
            remove_abandoned(path.parent)
        yield
    finally:
        # Removed while it is held: a process that waits for this file finds it gone, and makes a new one.
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)


def _is_young(lock: Path) -> bool:
    """Was a lock file made just now, or is it gone again?"""
    with contextlib.suppress(OSError):
        return time.time() - lock.lstat().st_mtime < YOUNG
    return True


def _hold(lock: Path) -> int | None:
    """Create, open and lock a file; None where another one holds the lock."""
    while True:
        # Never through a symbolic link, and never written to: the name can be guessed.
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = os.open(lock, flags, 0o666)
        if _lock(handle) is False:
            os.close(handle)
            return None
        # The one before may have removed the file between opening and locking it.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(lock, follow_symlinks=False)):
                return handle
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open file for this process: True, False where another one holds it, None where the file system
    has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return None if error.errno in UNSUPPORTED else False
    return True


def _open_folder(folder: Path) -> int | None:
    """A folder as an open file, to lock; None on Windows, where that is not possible."""
    return os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) if fcntl is not None else None


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder: those whose lock is free."""
    try:
        left = [path for path in folder.iterdir() if path.name.startswith(OURS)]
    except OSError:  # a folder whose names may not be read
        return
    for path in left:
        # Tidying up: what cannot be removed, such as another user's, is no reason not to work.
        with contextlib.suppress(OSError):
            if path.is_symlink():
                continue
            if path.suffix == LOCK:
                handle = _hold(path)
                if handle is not None:
                    path.unlink()
                    os.close(handle)
            elif path.is_dir():
                _remove_if_abandoned(path)


def _remove_if_abandoned(folder: Path) -> None:
    handle = _open_folder(folder)
    try:
        free = None if handle is None else _lock(handle)
        if free or (free is None and time.time() - folder.stat().st_mtime > OLD):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)

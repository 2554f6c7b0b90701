"""Models that lie elsewhere: in a folder, at a URL, on Hugging Face or S3, each with the SHA-256 that the
file must have. What `push` wrote, `load` reads; another file is refused.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from labelscape.errors import BadFile, BadOption, LabelscapeError, first_line
from labelscape.exported_formats import stated_weights
from labelscape.files import cache_folder, cannot_write, make_folder, written_whole

MANIFEST = "labelscape.json"
"""Name of the file that says which file is the model, and its SHA-256."""
FORMAT = "labelscape-model-1"
LARGEST_MANIFEST = 100_000
"""Bytes (ours): it has four lines."""
SECONDS = 60
"""How long a server may say nothing."""
MODELS = (".safetensors", ".onnx", ".xml", ".pt2")
MAPS = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".json")
"""Endings of addresses that are finished maps or counts; others are places of models."""
NAME = re.compile(r"\w[\w.-]{0,120}\.(safetensors|onnx|xml|pt2)", re.IGNORECASE)
"""What a manifest may name: a file beside it, since `../` would read another folder, or write to it."""
# pathlib makes one slash of two.
ADDRESS = re.compile(r"(hf|s3|https?):/{1,2}([^#]*)(?:#sha256=([0-9a-fA-F]{64}))?")
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


@dataclass(frozen=True)
class Manifest:
    """model   name of the file beside the manifest
    sha256  its fingerprint, in hexadecimal
    """

    model: str
    sha256: str

    def text(self) -> str:
        fields = {"format": FORMAT, "model": self.model, "sha256": self.sha256}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def read(cls, content: bytes, place: str) -> Manifest:
        """Raises BadFile where it is none."""
        try:
            fields = json.loads(content)
            name, digest = fields["model"], fields["sha256"]
            good = (
                fields["format"] == FORMAT and NAME.fullmatch(name) and re.fullmatch("[0-9a-f]{64}", digest)
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadFile(f"{place} has a damaged {MANIFEST}: push the model there again.") from error
        if not good:
            raise BadFile(f"{place} has a {MANIFEST} that names no model of this version of Labelscape.")
        return cls(name, digest)


def is_address(path: object) -> bool:
    """Is it hf://, s3://, http:// or https://?"""
    return isinstance(path, (str, os.PathLike)) and ADDRESS.match(os.fspath(path)) is not None


def as_given(path: str | Path) -> str:
    """The path as text, an address with both slashes."""
    return re.sub(r"^(hf|s3|https?):/{1,2}", r"\1://", str(path))


def is_place(path: str | Path) -> bool:
    """An address, or a folder that `push` wrote?"""
    return is_address(path) or os.path.isfile(os.path.join(path, MANIFEST))


def is_model(path: str | Path) -> bool:
    """Is it a model by its name, or a place of one? The rest are maps, scenes or counts."""
    ending = Path(str(path).partition("#")[0]).suffix.lower()
    return ending in MODELS or (is_place(path) and not (is_address(path) and ending in MAPS))


def refuse_beside(path: object, out: object) -> None:
    """Raises BadOption where `out` is None and nothing can be written beside a model, since it is brought
    into a cache.
    """
    if out is None and is_address(path):
        raise BadOption(f"`out` is needed: {as_given(path)} lies elsewhere, with no folder here beside it.")


def local_model(path: str | Path) -> Path:
    """The file of a model on this machine: `path` itself, or what it stands for, brought here where it is not
    yet and compared with its SHA-256.

    Raises BadFile where it cannot be had or is another file than the one that was pushed, BadOption where a
    package is missing or an address has no fingerprint.
    """
    if not is_address(path):
        folder = Path(path)
        if not (folder / MANIFEST).is_file():
            return folder
        if (folder / "config.json").is_file():
            raise BadFile(
                f"{folder} is a model as segmentation-models-pytorch saves it, which that library loads "
                "(from_pretrained); here `train --start` takes it."
            )
        manifest = Manifest.read((folder / MANIFEST).read_bytes(), str(folder))
        return _proven(folder / manifest.model, manifest.sha256, str(folder))
    scheme, rest, pinned = _parted(str(path))
    shown = f"{scheme}://{rest}"
    if scheme == "hf":
        return _from_hub(rest, pinned)
    opened = _on_s3 if scheme == "s3" else _at_url
    if rest.lower().endswith(MODELS):
        if pinned is None:
            raise BadOption(
                f"{shown} needs the SHA-256 of the file, so that another one is refused: add #sha256=... (64 "
                "digits), or give the folder that `labelscape push` wrote."
            )
        manifest, folder = Manifest(rest.rpartition("/")[2], pinned), shown.rpartition("/")[0]
    else:
        folder = shown.rstrip("/").removesuffix(f"/{MANIFEST}")
        if scheme == "http" and pinned is None:
            raise BadOption(f"{shown} is not encrypted: use https, or add #sha256=... of the model.")
        with opened(f"{folder}/{MANIFEST}") as file:
            manifest = Manifest.read(file.read(LARGEST_MANIFEST), folder)
    _same_pin(manifest, pinned, shown)
    place = cache_folder() / "models" / manifest.sha256
    model = _brought(manifest, place, lambda: opened(f"{folder}/{manifest.model}"), shown)
    if (weights := _weights_of(model, shown)) is not None:
        _brought(weights, place, lambda: opened(f"{folder}/{weights.model}"), shown)
    return model


def _weights_of(model: Path, shown: str) -> Manifest | None:
    """The .bin that an OpenVINO model has beside it, by the SHA-256 that its .xml states; None of others."""
    if model.suffix.lower() != ".xml":
        return None
    stated = stated_weights(model.read_bytes())
    if stated is None:
        raise BadFile(f"{shown} does not say the SHA-256 of its weights: export the model again.")
    return Manifest(model.with_suffix(".bin").name, stated)


def _parted(address: str) -> tuple[str, str, str | None]:
    """Scheme, what follows it, and the fingerprint. Raises BadOption for another fragment."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise BadOption(f"{address} is no address of a model: after # only sha256= and 64 digits may stand.")
    return found[1], found[2], found[3] and found[3].lower()


def _same_pin(manifest: Manifest, pinned: str | None, shown: str) -> None:
    if pinned is not None and manifest.sha256 != pinned:
        raise BadFile(
            f"{shown} holds another model (SHA-256 {manifest.sha256[:12]}...) than the one asked for "
            f"({pinned[:12]}...)."
        )


def _brought(manifest: Manifest, folder: Path, opened: Callable[[], Any], shown: str) -> Path:
    """The file in a folder of the user's cache, brought there once."""
    target = folder / manifest.model
    # Compared each time: a cache is a folder that anything may write to.
    if target.is_file() and _digest(target) == manifest.sha256:
        return target
    make_folder(target.parent)
    with written_whole(target, overwrite=True) as part:
        with opened() as source:
            _copy(source, part, target, shown)
        _proven(part, manifest.sha256, shown)
    return target


def _copy(source: Any, part: Path, target: Path, shown: str) -> None:
    """Read a source to its end. Raises BadFile that says which of the two failed: the other side, or the disk
    here.
    """
    try:
        with part.open("wb") as file:
            for piece in _pieces(source, shown):
                file.write(piece)
    except BadFile:
        raise
    except OSError as error:
        why = f"{error.strerror or error} (the copy of {shown}; LABELSCAPE_CACHE names another folder)"
        raise cannot_write(target, error, why) from error


def _pieces(source: Any, shown: str) -> Iterator[bytes]:
    while True:
        try:
            piece = source.read(1 << 20)
        # Servers and their clients each have their own errors, of no common kind.
        except Exception as error:
            raise BadFile(f"{shown} stopped answering ({first_line(error)}); try again.") from error
        if not piece:
            break
        yield piece
    # http.client takes an end that comes too early for the end.
    if missing := getattr(source, "length", 0):
        raise BadFile(f"{shown} stopped answering {missing:,} bytes before the end; try again.")


def _proven(file: Path, sha256: str, shown: str) -> Path:
    if not file.is_file():
        raise BadFile(f"{shown} names the model {file.name}, which is not there.")
    if (found := _digest(file)) != sha256:
        raise BadFile(
            f"The model of {shown} is not the one that was pushed: its SHA-256 is {found[:12]}..., expected "
            f"{sha256[:12]}.... It is damaged, or was replaced: push it again, or ask who did."
        )
    return file


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _at_url(url: str) -> Iterator[IO[bytes]]:
    try:
        # Blanks and letters beyond ASCII, which a name may have and a request may not.
        asked = urllib.parse.quote(url, safe="%:/?#[]@!$&'()*+,;=~")
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        raise BadFile(f"{url} cannot be read: the server answers {error.code} {error.reason}.") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise BadFile(f"{url} cannot be read: {getattr(error, 'reason', error)}.") from error


@contextmanager
def _on_s3(url: str) -> Iterator[IO[bytes]]:
    try:
        with s3().open(url, "rb") as file:
            yield file
    # What was made of the file: damage, another fingerprint.
    except LabelscapeError:
        raise
    # botocore, aiohttp and s3fs each have their own errors, of no common kind.
    except Exception as error:
        raise BadFile(f"{url} cannot be read: {str(error) or type(error).__name__}.") from error


def s3() -> Any:
    """A file system. Raises BadOption without the package."""
    try:
        import s3fs
    except ImportError as error:
        raise BadOption("Models on S3 need s3fs: pip install 'labelscape[s3]'.") from error
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def repository(rest: str) -> tuple[str, str | None]:
    """owner/name and the revision of what follows hf://. Raises BadOption for another form."""
    found = REPOSITORY.fullmatch(rest)
    if found is None:
        raise BadOption(f"hf://{rest} is no repository: hf://owner/name or hf://owner/name@revision.")
    return found[1], found[2]


def hub() -> Any:
    """The hub's client, at the address in HF_ENDPOINT. Raises BadOption without the package."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BadOption("hf:// needs huggingface-hub: pip install 'labelscape[hub]'.") from error
    # Its own reading of the variable is as old as its import.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="labelscape")


def _from_hub(rest: str, pinned: str | None) -> Path:
    name, revision = repository(rest)
    client, shown = hub(), f"hf://{rest}"

    def brought(file: str, commit: str | None) -> Path:
        try:
            return Path(client.hf_hub_download(name, file, revision=commit))
        # The client raises errors of its own, of requests and of httpx, by its version.
        except Exception as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise BadFile(
                    f"{shown} cannot be kept here ({file}): no space is left on the disk of Hugging Face's "
                    "cache. HF_HOME names another folder."
                ) from error
            raise BadFile(f"{shown} cannot be read ({file}): {_why(error)}") from error

    content = brought(MANIFEST, revision)
    manifest = Manifest.read(content.read_bytes(), shown)
    _same_pin(manifest, pinned, shown)
    # Of the same commit as the manifest, whatever is pushed in between: a snapshot's folder has its name.
    commit = content.parent.name if re.fullmatch("[0-9a-f]{40}", content.parent.name) else revision
    model = _proven(brought(manifest.model, commit), manifest.sha256, shown)
    if (weights := _weights_of(model, shown)) is not None:
        _proven(brought(weights.model, commit), weights.sha256, shown)
    return model


def _why(error: Exception) -> str:
    """What a failure of the hub's client is: its own first line is a number."""
    known = {
        "GatedRepoError": "its owner must grant access first: ask on its page, then log in (hf auth login).",
        "RepositoryNotFoundError": "there is no such repository, or it is private: log in with `hf auth "
        "login`, or set HF_TOKEN.",
        "RevisionNotFoundError": "the repository has no such revision.",
        "LocalEntryNotFoundError": "the hub does not answer, and the file is not in its cache: check the "
        "connection.",
        "RemoteEntryNotFoundError": "the repository has no such file: only what `labelscape push` "
        "wrote is read.",
    }
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((known[name] for name in names if name in known), first_line(error))

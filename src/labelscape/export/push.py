"""Put a model where others find it: a folder, Hugging Face or S3, with a model card, a STAC item, and the
SHA-256 by which `labelscape map hf://owner/name scene.tif` knows that it is the same file.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint, StoredAs, load
from labelscape.errors import BadFile, BadOption, first_line
from labelscape.export.card import card
from labelscape.export.stac_model import model_item
from labelscape.exported_formats import KINDS
from labelscape.files import (
    cannot_write,
    check_folder,
    check_local,
    make_folder,
    temporary_folder,
    written_whole,
)
from labelscape.model_places import MANIFEST, NAME, Manifest, hub, is_address, refuse_beside, repository, s3

README, ITEM = "README.md", "stac.json"
LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,60}")
"""An SPDX identifier."""


@dataclass(frozen=True)
class Pushed:
    """Where a model lies now, the names of its files, and its SHA-256."""

    place: str
    files: tuple[str, ...]
    sha256: str


def write_card(
    model: Checkpoint | str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    license: str = "",
    overwrite: bool = False,
) -> list[Path]:
    """Write a checkpoint's model card, `NAME_card.md`, and its STAC item, `NAME_stac.json`, into the folder
    `out`, or beside it. Raises BadOption for a checkpoint without a file, BadFile where one cannot be read or
    written.
    """
    refuse_beside(model, out)
    checkpoint, file, name = _model(model, name, license)
    if out is not None:
        check_folder(out, "The folder of the card (out)")
    folder = Path(out) if out is not None else file.parent
    check_local(folder)
    make_folder(folder)
    paths = [folder / f"{file.stem}_card.md", folder / f"{file.stem}_stac.json"]
    for path, text in zip(paths, _texts(checkpoint, file, name, license, paths[0].name), strict=True):
        with written_whole(path, overwrite=overwrite) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    return paths


def push(
    model: Checkpoint | str | Path,
    target: str | Path,
    *,
    name: str | None = None,
    license: str = "",
    private: bool = False,
    overwrite: bool = False,
) -> Pushed:
    """Copy a model to a folder, `hf://owner/name` or `s3://bucket/prefix`, with its card (README.md), its
    STAC item (stac.json) and its SHA-256 (labelscape.json); `load`, `map` and the others take that place for
    the model. It may be a checkpoint or what `export` wrote; an OpenVINO model goes with its .bin.

    name       in the card and the item; the folder's or repository's name unless given
    license    SPDX identifier, such as CC-BY-4.0
    private    of a new repository of Hugging Face

    Raises BadOption for another target or a missing package, BadFile where a model lies there already (unless
    `overwrite`) or it cannot be written.
    """
    place = _place(target)
    checkpoint, file, name = _model(model, name or place.rstrip("/").rpartition("/")[2], license)
    with temporary_folder() as folder:
        files = _copied(file, folder)
        texts = _texts(checkpoint, folder / files[0], name, license, README)
        texts = dict(zip((README, ITEM), texts, strict=True))
        digest = StoredAs.now(folder / files[0]).sha256
        texts[MANIFEST] = Manifest(files[0], digest).text()
        for entry, text in texts.items():
            (folder / entry).write_text(text, encoding="utf-8", newline="\n")
        # The manifest last: where it is, the model is whole.
        names = (*files, README, ITEM, MANIFEST)
        if place.startswith("hf://"):
            _to_hub(folder, place, names, private, overwrite)
        elif place.startswith("s3://"):
            _to_s3(folder, place, names, overwrite)
        else:
            _to_folder(folder, Path(place), names, overwrite)
    return Pushed(place, names, digest)


def _copied(file: Path, folder: Path) -> tuple[str, ...]:
    """Copy a model into a folder, with the weights that an OpenVINO model has beside it; returns the names,
    the model's first.
    """
    beside = (file.with_suffix(".bin"),) if KINDS.get(file.suffix.lower()) == "openvino" else ()
    stem = file.stem
    # A name that every place can hold: of another, what `load` reads no model would be found.
    if not NAME.fullmatch(file.name):
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:100] or "model"
    names = tuple(f"{stem}{one.suffix}" for one in (file, *beside))
    for source, name in zip((file, *beside), names, strict=True):
        try:
            shutil.copyfile(source, folder / name)
        except OSError as error:
            raise cannot_write(folder / name, error) from error
    return names


def _place(target: str | Path) -> str:
    """The target with both slashes. Raises BadOption where nothing can be written to."""
    text = str(target)
    if found := re.fullmatch(r"(hf|s3):/{1,2}([^#/][^#]*)", text):
        place = f"{found[1]}://{found[2]}".rstrip("/")
        if found[1] == "hf" and repository(found[2])[1] is not None:
            raise BadOption(f"{place} names a revision; a model is pushed to hf://owner/name.")
        return place
    if is_address(text):
        raise BadOption(f"{text} cannot be written to: give a folder, hf://owner/name or s3://bucket/prefix.")
    return text


def _model(model: Checkpoint | str | Path, name: str | None, license: str) -> tuple[Checkpoint, Path, str]:
    """The checkpoint, the file that holds it, and the model's name."""
    checkpoint = model if isinstance(model, Checkpoint) else load(model)
    checkpoint = checkpoint.whole or checkpoint
    if checkpoint.stored is None:
        raise BadOption("This checkpoint was made in memory: save it first (`ls.save`), and give its path.")
    if license and not LICENSE.fullmatch(license):
        raise BadOption(f"`license={license}` must be an SPDX identifier, such as CC-BY-4.0 or MIT.")
    file = Path(checkpoint.stored.path)
    if StoredAs.now(file) != checkpoint.stored:
        raise BadFile(f"{file} has changed since it was loaded; load it again.")
    return checkpoint, file, name or file.stem


def _texts(checkpoint: Checkpoint, file: Path, name: str, license: str, beside: str) -> tuple[str, str]:
    """The card, and the item, whose asset `beside` is the card."""
    now = datetime.datetime.now(datetime.UTC)
    found: Mapping[str, Any] = model_item(checkpoint, file, name=name, when=now, license=license, card=beside)
    text = card(checkpoint, name=name, license=license, file=file.name)
    return text, json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _refused(place: str) -> BadFile:
    return BadFile(f"A model lies in {place} already; pass `overwrite=True` to replace it.")


def _to_folder(made: Path, folder: Path, names: tuple[str, ...], overwrite: bool) -> None:
    if (folder / MANIFEST).exists() and not overwrite:
        raise _refused(str(folder))
    make_folder(folder)
    for entry in names:
        with written_whole(folder / entry, overwrite=overwrite) as part:
            shutil.copyfile(made / entry, part)


def _to_s3(made: Path, place: str, names: tuple[str, ...], overwrite: bool) -> None:
    files = s3()
    try:
        taken = files.exists(f"{place}/{MANIFEST}")
        if not taken or overwrite:
            for entry in names:
                files.put_file(str(made / entry), f"{place}/{entry}")
    # botocore, aiohttp and s3fs each have their own errors, of no common kind.
    except Exception as error:
        raise BadFile(f"{place} cannot be written to: {str(error) or type(error).__name__}.") from error
    if taken and not overwrite:
        raise _refused(place)


def _to_hub(made: Path, place: str, names: tuple[str, ...], private: bool, overwrite: bool) -> None:
    client, (name, _) = hub(), repository(place.removeprefix("hf://"))
    try:
        client.create_repo(name, private=private, exist_ok=True)
        taken = client.file_exists(name, MANIFEST)
        if not taken or overwrite:
            # One commit: no one sees the card of one model beside another.
            client.upload_folder(
                repo_id=name,
                folder_path=made,
                allow_patterns=list(names),
                commit_message="Model, card, STAC item and SHA-256, by labelscape push",
            )
    # The client raises errors of its own, of requests and of httpx, by its version.
    except Exception as error:
        why = first_line(error)
        raise BadFile(
            f"{place} cannot be written to: {why} (log in with `hf auth login`, or set HF_TOKEN.)"
        ) from error
    if taken and not overwrite:
        raise _refused(place)

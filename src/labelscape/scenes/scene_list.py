"""Which scenes are meant (`find_scenes`): files, globs, folders, lists and tables of paths, tile indexes,
static STAC catalogues and saved searches become one list, in order, each scene once, each with a name of its
own for its files.

The one place that knows; every verb that takes scenes asks it. Only paths are read, no pixels, and for each
scene no more than its path and name is kept.
"""

from __future__ import annotations

import glob
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.files import check_path, stem_of
from labelscape.scenes.catalogue import item_documents
from labelscape.scenes.containers import is_zarr
from labelscape.scenes.file_lists import Place, matches_of, places_of
from labelscape.scenes.files import is_local, is_raster, name_of_folder, rasters_below, stem_of_place
from labelscape.scenes.scene_tables import (
    TABLES,
    TEXTS,
    Entry,
    TileIndex,
    entries_of,
    split_files,
    tile_index,
)
from labelscape.scenes.stac import SUFFIXES, allowed, check_assets, is_stac
from labelscape.scenes.stac_documents import check_complete, on_the_web, read_document
from labelscape.scenes.stac_many import document_of, head_of, item_in, items_in
from labelscape.text import printable

MOST_NAMED = 100
"""Missing files that a message lists (ours)."""


@dataclass(frozen=True, slots=True)
class ListedScene:
    """A scene of a list: what `open_scene` opens, and the name that its files get, unique in the list."""

    source: Place
    name: str


@dataclass(frozen=True)
class SceneList(Sequence[ListedScene]):
    """The scenes that were found, in order; notes say what was left out."""

    scenes: tuple[ListedScene, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        return self.scenes[number]

    @property
    def names(self) -> list[str]:
        return [scene.name for scene in self.scenes]

    def __repr__(self) -> str:
        shown = ", ".join(scene.name for scene in self.scenes[:3]) + (" ..." if len(self) > 3 else "")
        return f"<SceneList: {len(self):,} scene{'s' * (len(self) != 1)} ({shown})>"


def find_scenes(
    given: str | os.PathLike | Sequence[str | os.PathLike | tuple[str, ...]],
    *,
    each: bool = False,
    asset: str | None = None,
    allow_remote: bool = False,
) -> SceneList:
    """List the scenes that one or several places hold:

        scene.tif, a,b,c         a raster; single-band files of one scene, separated by commas (or as a tuple)
        "tiles/*.tif"            a glob, ** for folders of any depth; sorted
        folder                   one scene, of single-band files or tiles; with `each` every raster below it
                                 is a scene. A folder with a catalog.json and no rasters is that catalogue
        scenes.txt               a path a line, relative to the list; lines that begin with # are comments
        scenes.csv, .parquet     a table with a column href, path or location
        index.gpkg, .geojson     a tile index, as gdaltindex writes it (column location); also .shp and .fgb
        items.parquet            stac-geoparquet: a scene an item
        catalog.json             a static STAC catalogue or collection: a scene an item; an item is one scene
        search.json              a saved search (ItemCollection): one mosaic of its items; with `each` every
                                 item is a scene. FILE#ID is one of them

    each          folders and ItemCollections are many scenes, not one mosaic
    asset         of STAC items the asset of this key or role, such as visual, instead of those with the role
                  data; several separated by commas
    allow_remote  lists may name addresses, and items files outside of their folder or host

    Duplicates are left out with a note. Scenes of one name get that of their folder before it. Raises BadFile
    listing all files that do not exist, BadInput where a list holds no scenes or an item lacks the asset.
    """
    found = _Found(each, asset, allow_remote)
    for one in [given] if isinstance(given, (str, os.PathLike)) else given:
        found.add(one)
    return found.listed()


@dataclass
class _Found:
    each: bool
    asset: str | None
    allow_remote: bool
    scenes: list[tuple[Place, str]] = field(default_factory=list)
    """Source and the name that its map has when it is alone."""
    times: Counter[str] = field(default_factory=Counter)
    """How often a scene, by what identifies it, was listed."""
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    """The lists that are being read: one that names itself would have no end."""
    items: int = 0

    def add(self, given: object, where: str = "") -> None:
        """Add what one place holds; `where` it was listed, "" where the user named it."""
        if isinstance(given, tuple):
            self._scene(tuple(map(os.fspath, given)), Path(given[0]).stem, where)
            return
        check_path(given, "A scene")
        text = os.fspath(given)
        local = is_local(text)
        # Before anything else is asked of the text: commas name the files of one scene, unless a file of that
        # very name exists.
        files = as_given(text)
        if local and glob.has_magic(text) and not Path(text).exists() and document_of(text)[1] is None:
            self._glob(text)
        elif isinstance(files, tuple):
            self._scene(files, Path(files[0]).stem, where)
        elif not local:
            self._address(text, where)
        elif document_of(text)[1] is not None:
            self._item(*document_of(text), item_in(*document_of(text)))
        elif Path(text).is_dir() and not is_zarr(text):
            self._folder(text)
        else:
            self._file(text, where)

    def _glob(self, pattern: str) -> None:
        for match in matches_of(pattern):
            self.add(match, pattern)

    def _folder(self, folder: str) -> None:
        # A folder of tiles with a catalogue beside them is those tiles: the user named the folder.
        rasters = any(is_raster(file) for file in Path(folder).iterdir())
        documents = [Path(folder, name) for name in ("catalog.json", "collection.json")]
        catalogue = next((str(document) for document in documents if document.is_file()), None)
        if catalogue is not None and not rasters:
            self._document(catalogue, "")
        elif self.each:
            below = rasters_below(Path(folder))
            if not below:
                raise BadFile(f"The folder {folder} and those in it hold no raster files.")
            for file in below:
                self._scene(str(file), stem_of_place(file), folder)
        else:
            self._scene(folder, name_of_folder(folder), "")

    def _file(self, file: str, where: str) -> None:
        suffix = Path(file).suffix.lower()
        if not Path(file).exists():
            self.missing.append(f"{file}{f' ({where})' if where else ''}")
        elif suffix in SUFFIXES:
            self._document(file, where)
        elif suffix in TEXTS or suffix in TABLES:
            self._list(file)
        elif (index := tile_index(file)) is not None:
            self._list(file, index)
        else:
            self._scene(file, stem_of_place(file), where)

    def _list(self, file: str, index: TileIndex | None = None) -> None:
        # By what links lead to: a list that names itself by a link would have no end either.
        own = os.path.realpath(file)
        if own in self.lists:
            raise BadInput(f"{file} is a list that names itself.")
        self.lists.append(own)
        before = len(self.scenes) + len(self.missing) + sum(self.times.values())
        for entry in entries_of(file, index):
            if isinstance(entry, Entry):
                self._listed(entry, file)
            else:
                self._item(file, entry.key, entry.item)
        self.lists.pop()
        if len(self.scenes) + len(self.missing) + sum(self.times.values()) == before:
            raise BadInput(f"{file} lists no scenes.")

    def _listed(self, entry: Entry, file: str) -> None:
        """A path of a list: relative to the list."""
        places = places_of(entry, file, self.allow_remote)
        self.add(places[0] if len(places) == 1 else places, entry.where)

    def _address(self, text: str, where: str) -> None:
        # A question mark starts the query of an address, whose brackets and stars are no glob.
        if glob.has_magic(text) and "?" not in text:
            raise BadFile(f"{text}: only local files are found by a glob. List the addresses in a text file.")
        if not is_stac(text) or not on_the_web(text):
            self._scene(text, stem_of_place(text), where)
            return
        document = read_document(text)
        kind = document.get("type") if isinstance(document, dict) else None
        if kind in ("Catalog", "Collection"):
            self._catalogue(text, document)
        elif kind == "FeatureCollection" and self.each:
            raise BadFile(
                f"{text} holds many items. Save it (curl -o items.json), and pass the file: an item of it "
                "is then read without the others."
            )
        elif kind == "Feature" and isinstance(document.get("assets"), dict):
            self._item(text, None, document)
        else:
            self.items += kind == "FeatureCollection"
            self._scene(text, Path(text).stem, where)

    def _document(self, file: str, where: str) -> None:
        """A local JSON file: a catalogue, items, or a tile index."""
        head = head_of(file)
        kind, first = head.get("type"), head.get("features")
        if kind in ("Catalog", "Collection"):
            self._catalogue(file, head)
        # GeoJSON is also what gdaltindex writes: features without assets are no items.
        elif kind == "FeatureCollection" and isinstance(first, dict) and "assets" not in first:
            index = tile_index(file)
            if index is None:
                self._scene(file, Path(file).stem, where)
                return
            self._list(file, index)
        elif kind == "FeatureCollection" and self.each:
            check_complete(head, file)
            for listed in items_in(file):
                self._item(file, *listed)
        elif kind == "Feature" and isinstance(head.get("assets"), dict):
            self._item(file, None, head)
        else:
            if kind == "FeatureCollection":
                self.items += 1
                self._say_one(file, head.get("count", 0))
            self._scene(file, Path(file).stem, where)

    def _say_one(self, file: str, count: int) -> None:
        if count > 1:
            self.notes.append(f"{file}: its {count:,} items are one mosaic; `each=True` makes each a scene")

    def _catalogue(self, place: str, root: dict) -> None:
        before = sum(self.times.values())
        for document, item in item_documents(place, root, allowed(self.allow_remote), self.missing):
            self._item(document, None, item)
        if sum(self.times.values()) == before and not self.missing:
            raise BadInput(f"{place} is a STAC {root['type']} without items.")

    def _item(self, place: str, key: str | None, item: dict) -> None:
        self.items += 1
        try:
            check_assets(item, place, self.asset, allow_remote=self.allow_remote)
        except BadFile as error:
            if "does not exist" not in str(error):
                raise
            self.missing.append(str(error).rstrip("."))
            return
        name = stem_of(str(item.get("id") or Path(place).stem), "linux")
        self._scene(place if key is None else f"{place}#{key}", name, place)

    def _scene(self, source: Place, name: str, where: str) -> None:
        parts = (source,) if isinstance(source, str) else source
        if gone := [part for part in parts if is_local(document_of(part)[0]) and not _is_there(part)]:
            self.missing.extend(f"{part}{f' ({where})' if where else ''}" for part in gone)
            return
        own = _identity(source)
        self.times[own] += 1
        if self.times[own] == 1:
            self.scenes.append((source, stem_of(name) or "scene"))

    def listed(self) -> SceneList:
        if self.missing:
            count = len(self.missing)
            known = len(self.scenes) + count
            if known == 1:
                said = self.missing[0]
                raise BadFile(f"{said}." if said.endswith("not exist") else f"{said} does not exist.")
            listed = "\n  - ".join(self.missing[:MOST_NAMED])
            more = f"\n  and {count - MOST_NAMED:,} more" if count > MOST_NAMED else ""
            raise BadFile(f"{count:,} of {known:,} scenes are missing:\n  - {listed}{more}")
        if not self.scenes:
            raise BadOption("No scene is given.")
        if self.asset is not None and not self.items:
            raise BadOption(
                f"`asset={self.asset}` chooses among the assets of STAC items, and there is no item."
            )
        twice = [own for own, times in self.times.items() if times > 1]
        if twice:
            shown = ", ".join(f"{printable(own)} ({self.times[own]} times)" for own in twice[:3])
            more = f" and {len(twice) - 3:,} more" if len(twice) > 3 else ""
            self.notes.append(f"listed more than once, and taken once: {shown}{more}")
        names = unique_names([(_path_of(source), name) for source, name in self.scenes])
        scenes = tuple(ListedScene(source, name) for (source, _), name in zip(self.scenes, names))
        return SceneList(scenes, tuple(self.notes))


def as_given(text: str) -> Place:
    """`a.tif` is a scene; `B02.jp2,B03.jp2` is one scene made of single-band files. Commas in the query of a
    URL (`https://...?bbox=1,2,3,4`) do not separate files. Raises BadOption for a checkpoint.
    """
    if text.endswith(".safetensors"):
        raise BadOption(
            f"{text} is a checkpoint; a scene was expected here. The checkpoint comes first, then the scene."
        )
    files = split_files(text, os.path.exists)
    return files if len(files) > 1 else text


def _is_there(place: str) -> bool:
    return Path(document_of(place)[0]).exists()


def _identity(source: Place) -> str:
    """What two scenes have in common that are the same: the true path, behind links and `..`."""
    parts = (source,) if isinstance(source, str) else source
    found = []
    for part in parts:
        document, key = document_of(part)
        true = os.path.realpath(document) if is_local(document) else document
        found.append(true if key is None else f"{true}#{key}")
    return ",".join(found)


def _path_of(source: Place) -> str:
    """A path whose folders tell scenes of one name apart."""
    first = source if isinstance(source, str) else source[0]
    document, key = document_of(first)
    path = os.path.abspath(document) if is_local(document) else document.split("?")[0]
    return path if key is None else f"{path}/{key}"


def unique_names(scenes: Iterable[tuple[str, str]]) -> list[str]:
    """A name of its own for each (path, name): the name where it is the only one of it, else with as many of
    its folders before it as tell them apart, else with a number made of its path.

    So a scene's name depends only on the scenes that share it, not on their order; upper and lower case are
    alike, since file systems of Windows and macOS take them for one.
    """
    scenes = list(scenes)
    names = [name for _, name in scenes]
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        alike.setdefault(_folded(name), []).append(number)
    for group in alike.values():
        if len(group) > 1:
            for number, name in zip(group, _told_apart([scenes[n] for n in group])):
                names[number] = name
    # The longer name may be that of another scene.
    times = Counter(map(_folded, names))
    return [n if times[_folded(n)] == 1 else f"{n}_{_digest(path)}" for n, (path, _) in zip(names, scenes)]


def _told_apart(group: Sequence[tuple[str, str]]) -> Iterator[str]:
    folders = [Path(path).parent.parts[::-1] for path, _ in group]
    # Five folders at most (ours): names would grow as long as paths, and a file's has 255 bytes at most.
    for depth in range(1, 6):
        made = [
            stem_of("_".join((*(p.strip("/\\:") or "root" for p in own[:depth][::-1]), name)))
            for own, (_, name) in zip(folders, group)
        ]
        if len({_folded(name) for name in made}) == len(made):
            yield from made
            return
    yield from (f"{name}_{_digest(path)}" for path, name in group)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _digest(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]

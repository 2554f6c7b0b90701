"""Crops are read in several threads, each with files of its own: batches stay the same to the byte, all files
are closed, and what one thread finds is said as a single one would.
"""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
import world
from processes import PATIENCE

import labelscape.labels.rasters as label_rasters
import labelscape.scenes.raster as scene_files
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile
from labelscape.legend import Legend
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.lazy import LazyScene
from labelscape.training import crops, reading
from labelscape.training.crops import Crops, Drawing, index_crops
from labelscape.training.loop import batches
from labelscape.training.reading import Reader, threads_for
from labelscape.training.recipe import make_recipe
from labelscape.training.setup import Task
from labelscape.training.team import gather

SIDE = 32


@pytest.fixture
def files(tmp_path):
    """Two scenes, the second smaller than a crop in one direction, with labels on a grid of their own."""
    images, labels = [], []
    for number, (height, width) in enumerate(((96, 128), (24, 90))):
        folder = tmp_path / str(number)
        folder.mkdir()
        w = world.make(folder, height, width, bands=3, nodata=0, seed=number)
        images.append(str(w.scene))
        labels.append(str(world.label_raster(w, folder / "labels.tif")))
    return images, labels


def drawing_of(dataset, **settings):
    recipe = make_recipe(
        data={"images": ["a.tif"], "labels": ["b.tif"]},
        **{"steps": 6, "batch": 6, "crop": SIDE, "device": "cpu", **settings},
    )
    return recipe, Drawing.of(recipe, index_crops(dataset), ((3.0, 7.0),) * 3)


def opened(files, **options):
    return open_dataset(*files, block=16, shares={"train": 0.7, "test": 0.3}, hold=False, **options)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "uniform", "augment": "none"},
        {"sampling": "balanced"},
        {"scale_range": (0.5, 2.0), "resampling": "antialiased"},
    ],
    ids=["plain", "balanced", "scaled"],
)
def test_batches_are_the_same_for_every_number_of_threads(files, settings):
    with opened(files) as dataset:
        _, drawing = drawing_of(dataset, **settings)
        alone = [[drawing.part(step, part, 2) for part in (0, 1)] for step in range(6)]
        for threads in (1, 2, 5):
            with Reader(threads) as reader:
                begun = [[reader.begin(drawing, step, part, 2) for part in (0, 1)] for step in range(6)]
                for parts, waiting in zip(alone, begun, strict=True):
                    for (image, label), drawn in zip(parts, waiting, strict=True):
                        found = drawn()
                        assert torch.equal(found[0], image) and torch.equal(found[1], label)
                        assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_a_seed_gives_the_crops_it_always_gave(files):
    """Of earlier versions, which read them one after the other. Whole numbers scaled by IEEE arithmetic: no
    library rounds them otherwise.
    """
    with opened(files) as dataset:
        _, drawing = drawing_of(dataset, sampling="labelled", seed=3)
        found = hashlib.sha256()
        for step in range(6):
            for values in drawing.part(step, 0, 1):
                found.update(values.contiguous().numpy().tobytes())
    assert found.hexdigest()[:16] == "079eb3110e0bef44"


def test_one_band_stays_in_the_order_it_had(tmp_path):
    """Both orders are one then; torch tells them apart by strides, and other kernels round otherwise."""
    w = world.make(tmp_path, 64, 64, bands=1, nodata=0)
    labels = str(world.label_raster(w, tmp_path / "labels.tif"))
    with open_dataset([str(w.scene)], [labels]) as dataset:
        drawing = Drawing(index_crops(dataset), ((0.0, 1.0),), seed=0, batch=2, crop=SIDE)
        assert drawing.part(0, 0, 1)[0].stride() == torch.empty(2, 1, SIDE, SIDE).stride()


@pytest.fixture
def handles(monkeypatch):
    """Every raster that is opened from now on, by thread."""
    found = []
    real = scene_files.open_raster

    def noted(file):
        found.append((threading.current_thread().name, real(file)))
        return found[-1][1]

    for module in (scene_files, label_rasters):
        monkeypatch.setattr(module, "open_raster", noted)
    return found


def reading_threads():
    return [one for one in threading.enumerate() if one.name.startswith("crops")]


@pytest.mark.parametrize("end", ["all read", "stopped", "interrupted"])
def test_threads_open_files_of_their_own_and_close_them(files, handles, monkeypatch, end):
    monkeypatch.setattr(reading.os, "sched_getaffinity", lambda _: range(3), raising=False)
    with opened(files) as dataset:
        recipe, drawing = drawing_of(dataset)
        handles.clear()
        barrier = threading.Barrier(3, timeout=PATIENCE)
        waiting, real = iter(range(3)), crops.draw

        def together(*given):  # so that each thread has a crop
            if next(waiting, None) is not None:
                barrier.wait()
            return real(*given)

        monkeypatch.setattr(crops, "draw", together)
        steps = batches(recipe, [Task(drawing, None)], gather("cpu", "32"), 0, 6)
        if end == "all read":
            assert [step for step, _ in steps] == list(range(6))
        elif end == "stopped":
            with closing(steps) as read:
                next(read)
        else:
            with pytest.raises(KeyboardInterrupt), closing(steps) as read:
                for _ in read:
                    raise KeyboardInterrupt
        assert {name.partition("_")[0] for name, _ in handles} == {"crops"}
        assert len({name for name, _ in handles}) == 3
        # A thread opens a scene once.
        opened_by = [(name, one.name) for name, one in handles]
        assert len(opened_by) == len(set(opened_by))
        assert all(one.closed for _, one in handles)
        assert not reading_threads()
        assert dataset.scenes[0].read(dataset.scenes[0].scene.grid.window)[1].shape == (96, 128)


@pytest.mark.parametrize(("device", "inside"), [("cpu", 3), ("cuda", 1)])
def test_torchs_threads_are_left_to_the_network_or_to_nobody(files, monkeypatch, device, inside):
    seen, real, before = set(), crops.draw, torch.get_num_threads()
    team = SimpleNamespace(device=torch.device(device), world_size=1, global_rank=0)

    def threads_of_torch():
        torch.ones(100_000).sum()  # a thread learns its number in its first operation of several threads
        return torch.get_num_threads()

    def noted(*given):
        seen.add(threads_of_torch())
        return real(*given)

    monkeypatch.setattr(crops, "draw", noted)
    torch.set_num_threads(3)
    try:
        with opened(files) as dataset:
            recipe, drawing = drawing_of(dataset)
            with closing(batches(recipe, [Task(drawing, None)], team, 0, 6)) as read:
                next(read)
                assert torch.get_num_threads() == inside
            assert torch.get_num_threads() == 3  # also where it ends early
            assert seen == {1}
            assert ThreadPoolExecutor(1).submit(threads_of_torch).result() == 3
    finally:
        torch.set_num_threads(before)


def pack(source, path, pixels=None):
    """Write a copy in compressed blocks, with other pixels if given."""
    with rasterio.open(source) as file:
        pixels = file.read() if pixels is None else pixels
        blocks = {"compress": "deflate", "tiled": True, "blockxsize": 192, "blockysize": 192}
        like = {"count": len(pixels), "dtype": pixels.dtype, "nodata": None}
        with rasterio.open(path, "w", **(file.profile | blocks | like)) as out:
            out.write(pixels)


def damage(path):
    """Overwrite every second block of a file."""
    with rasterio.open(path) as file:
        blocks = [
            [
                int(file.get_tag_item(f"BLOCK_{what}_{n % 4}_{n // 4}", "TIFF", bidx=1))
                for what in ("OFFSET", "SIZE")
            ]
            for n in range(0, 16, 2)
        ]
    with open(path, "r+b") as raw:
        for place, size in blocks:
            raw.seek(place)
            raw.write(bytes(size))


@pytest.mark.parametrize("which", ["scene", "label"])
def test_a_damaged_file_is_told_as_without_threads(tmp_path, which):
    w = world.make(tmp_path, 768, 768, bands=3, nodata=0)
    # As speckled as can be: GDAL has all of a small file in memory as soon as it is open.
    speckle = np.random.default_rng(0).integers(0, 6, (1, 768, 768), np.uint8)
    paths = {name: tmp_path / f"{name}s.tif" for name in ("scene", "label")}
    pack(w.scene, paths["scene"])
    pack(w.scene, paths["label"], speckle)
    sides = [str(paths["scene"])], [str(paths["label"])]
    legend = Legend.of_names(list("abcdef"))
    with open_dataset(*sides, spec={"legend": legend}) as whole:
        index = index_crops(whole)
    with open_dataset(*sides, spec={"legend": legend}, hold=False) as dataset:
        damage(paths[which])  # while it is open: all labels are looked through before
        index = replace(index, scenes=dataset.scenes)
        drawing = Drawing(index, ((3.0, 7.0),) * 3, seed=0, batch=12, crop=SIDE, sampling="uniform")
        with pytest.raises(BadFile, match="truncated or damaged") as caught:
            drawing.part(0, 0, 1)
        messages = {str(caught.value)}
        for threads in (1, 3, 3, 3):
            with Reader(threads) as reader, pytest.raises(BadFile) as caught:
                reader.begin(drawing, 0, 0, 1)()
            messages.add(str(caught.value))
    assert len(messages) == 1
    assert not reading_threads()


def test_a_thread_keeps_to_its_part_of_a_scene_and_then_helps_the_others(files):
    """What GDAL has decoded for one file handle it decodes again for another."""
    with opened(files) as dataset:
        _, drawing = drawing_of(dataset, batch=24, sampling="uniform")
        taken = []
        for thread in (0, 1):
            following = partial(Crops(drawing, 0, 0, 1)._next, thread, 2)
            taken.append([crop.part(2) for _, crop in iter(following, None)])
    assert taken[0] == sorted(taken[0]) and taken[1] == sorted(taken[0], reverse=True)
    assert set(taken[0]) == {0, 1} and len(taken[0]) == 24


def test_a_scene_that_is_missing_when_it_is_placed_is_told_with_its_name(tmp_path):
    w = world.make(tmp_path, 64, 64, bands=3, nodata=0)
    labels = str(world.label_raster(w, tmp_path / "labels.tif"))
    with open_dataset([str(w.scene)], [labels], hold=False) as dataset:
        missing = LazyScene(str(tmp_path / "gone.tif"), name="gone", band_names=dataset.bands)
        index = replace(index_crops(dataset), scenes=(replace(dataset.scenes[0], scene=missing),))
        drawing = Drawing(index, ((0.0, 1.0),) * 3, seed=0, batch=4, crop=SIDE)
        for threads in (1, 3):
            with Reader(threads) as reader, pytest.raises(BadFile, match="gone.tif does not exist"):
                reader.begin(drawing, 0, 0, 1)()


def test_who_may_read_in_several_threads(files, monkeypatch):
    monkeypatch.setattr(reading.os, "sched_getaffinity", lambda _: range(64), raising=False)
    with opened(files) as dataset:
        _, drawing = drawing_of(dataset)
        assert threads_for([drawing], 1) == reading.MOST_THREADS
        assert threads_for([drawing], 32) == 2
        assert threads_for([drawing], 64) == 1
        # Each thread would open all of them.
        monkeypatch.setattr(reading, "MOST_FILES", 8)
        assert threads_for([drawing], 1) == 2
        monkeypatch.setattr(reading, "MOST_FILES", 3)
        assert threads_for([drawing], 1) == 1
    with open_dataset(*files) as dataset:
        _, drawing = drawing_of(dataset)
        assert threads_for([drawing], 1) == reading.MOST_THREADS


def test_arrays_of_others_are_read_by_one_thread(tmp_path):
    """They may not be made for several: nobody has said so."""
    w = world.make(tmp_path, 64, 64, bands=3, nodata=0)
    labels = str(world.label_raster(w, tmp_path / "labels.tif"))
    with rasterio.open(w.scene) as file:
        scene = ArrayScene(file.read(), transform=file.transform, crs=file.crs)
    with open_dataset([scene], [labels], hold=False) as dataset:
        drawing = Drawing(index_crops(dataset), ((0.0, 1.0),) * 3, seed=0, batch=2, crop=SIDE)
        assert threads_for([drawing], 1) == 1


def test_scenes_that_open_their_files_at_each_read_keep_none_open(tmp_path, handles):
    w = world.make(tmp_path, 64, 64, bands=3, nodata=0)
    labels = str(world.label_raster(w, tmp_path / "labels.tif"))
    with open_dataset([str(w.scene)], [labels], hold=False) as dataset:
        one = dataset.scenes[0]
        lazy = LazyScene(str(w.scene), name="a", band_names=one.scene.bands)
        index = index_crops(dataset)
        index = replace(index, scenes=(replace(one, scene=lazy),))
        drawing = Drawing(index, ((0.0, 1.0),) * 3, seed=0, batch=4, crop=SIDE)
        handles.clear()
        with Reader(2) as reader:
            reader.begin(drawing, 0, 0, 1)()
            scenes = [file for _, file in handles if file.name == str(w.scene)]
            assert len(scenes) >= 4 and all(file.closed for file in scenes)

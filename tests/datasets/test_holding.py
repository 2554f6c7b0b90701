"""Data are kept in memory as far as the machine, a container and the other processes of a training allow."""

import numpy as np
import pytest
import world

from labelscape.datasets import own
from labelscape.datasets.holding import LEAST, MOST, held_bytes
from labelscape.scenes.memory import HeldScene

GIB = 1 << 30


def machine(root, available, **files):
    """A machine with this much free memory, in GiB; other files by their paths."""
    written = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {int(available * 2**20)} kB\n", **files}
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


def test_a_quarter_of_what_is_free_within_bounds(tmp_path):
    assert held_bytes(machine(tmp_path, 12)) == 3 * GIB
    assert held_bytes(machine(tmp_path, 2)) == LEAST == GIB
    assert held_bytes(machine(tmp_path, 500)) == MOST == 8 * GIB


def test_the_least_is_no_more_than_half_of_what_is_free(tmp_path, monkeypatch):
    """A process that takes all that a container has is ended without a word."""
    assert held_bytes(machine(tmp_path, 1)) == GIB // 2
    limits = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}
    limits["sys/fs/cgroup/memory.current"] = f"{GIB // 2}\n"
    assert held_bytes(machine(tmp_path, 200, **limits)) == GIB // 4
    limits["sys/fs/cgroup/memory.current"] = f"{2 * GIB}\n"
    assert held_bytes(machine(tmp_path, 200, **limits)) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert held_bytes(machine(tmp_path / "many", 8)) == GIB // 2


def test_a_system_that_does_not_say_gets_what_all_can_give(tmp_path):
    assert held_bytes(tmp_path) == LEAST


@pytest.mark.parametrize(
    "started", [{"LOCAL_WORLD_SIZE": "3"}, {"SLURM_STEP_TASKS_PER_NODE": "3(x2)"}], ids=["torchrun", "slurm"]
)
def test_processes_that_train_together_share_it(tmp_path, monkeypatch, started):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert held_bytes(machine(tmp_path, 24)) == 2 * GIB


def test_a_container_gives_what_is_left_of_its_limit(tmp_path):
    """Files in the cache count as used; they go when memory is wanted."""
    root = machine(
        tmp_path,
        200,
        **{
            "proc/self/cgroup": "0::/jöb/step\n",
            "sys/fs/cgroup/jöb/memory.max": f"{16 * GIB}\n",
            "sys/fs/cgroup/jöb/memory.current": f"{7 * GIB}\n",
            "sys/fs/cgroup/jöb/memory.stat": f"anon 1\ninactive_file {3 * GIB}\n",
            "sys/fs/cgroup/jöb/step/memory.max": "max\n",
            "sys/fs/cgroup/jöb/step/memory.current": f"{6 * GIB}\n",
        },
    )
    assert held_bytes(root) == 3 * GIB


def test_of_several_groups_the_tightest_counts_in_the_older_kernels_tree_too(tmp_path):
    limits = {"": 2**63 - 4096, "/a": 20 * GIB, "/a/b": 40 * GIB}
    files = {"proc/self/cgroup": "9:cpu:/x\n4:memory:/a/b\n0::/\n"}
    for place, limit in limits.items():
        files[f"sys/fs/cgroup/memory{place}/memory.limit_in_bytes"] = f"{limit}\n"
        files[f"sys/fs/cgroup/memory{place}/memory.usage_in_bytes"] = f"{4 * GIB}\n"
    assert held_bytes(machine(tmp_path, 200, **files)) == 4 * GIB


def test_a_path_that_only_the_machine_has_leaves_the_container_s_own_limit(tmp_path):
    files = {
        "proc/self/cgroup": "0::/docker/0123\n",
        "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory.current": "0\n",
    }
    assert held_bytes(machine(tmp_path, 200, **files)) == 2 * GIB


def test_scenes_are_held_while_it_suffices(tmp_path, monkeypatch):
    images, labels = [], []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        w = world.make(folder, 40, 50, bands=3, nodata=0, seed=number)
        images.append(str(w.scene))
        labels.append(str(world.label_raster(w, folder / "labels.tif")))
    with own.open_dataset(images, labels, hold=False) as dataset:
        one = dataset.scenes[0].scene.nbytes + 40 * 50
        read = [scene.read(scene.scene.grid.window) for scene in dataset.scenes]
    assert not any(isinstance(scene.scene, HeldScene) for scene in dataset.scenes)
    monkeypatch.setattr(own, "held_bytes", lambda: 2 * one)
    with own.open_dataset(images, labels) as dataset:
        assert [isinstance(s.scene, HeldScene) for s in dataset.scenes] == [True, True, False]
        for scene, (patch, indices) in zip(dataset.scenes, read, strict=True):
            mine, its = scene.read(scene.scene.grid.window)
            np.testing.assert_array_equal(mine.pixels, patch.pixels)
            np.testing.assert_array_equal(mine.valid, patch.valid)
            np.testing.assert_array_equal(its, indices)


def test_this_machine_says_something():
    assert 0 < held_bytes() <= MOST

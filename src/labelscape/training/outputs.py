"""The files of a training run: their paths, and how the log is written."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from labelscape.errors import BadFile
from labelscape.files import stem_of, written_whole


def checkpoint_path(out: Path, network: str) -> Path:
    """Path of a network's checkpoint: `smp/Unet` becomes smp-unet.safetensors. Its log lies beside it as
    .csv.
    """
    return out / f"{network.replace('/', '-').lower()}.safetensors"


def state_path(out: Path, network: str) -> Path:
    """Path of the state file that an unfinished run is resumed from."""
    return checkpoint_path(out, network).with_suffix(".state.safetensors")


def runs_path(out: Path, network: str) -> Path:
    """Path of the ids of an unfinished training's runs in loggers, which a resumed training continues."""
    return checkpoint_path(out, network).with_suffix(".runs.json")


def steps_folder(out: Path, network: str) -> Path:
    """Folder of the checkpoints that are kept while a network is trained, by their steps."""
    path = checkpoint_path(out, network)
    return path.with_name(f"{path.stem}_steps")


def val_picture_path(out: Path, network: str) -> Path:
    """Path of the newest map of the part "val"."""
    return checkpoint_path(out, network).with_suffix(".val.png")


def times_path(out: Path, network: str) -> Path:
    """Path of the seconds that a step took."""
    path = checkpoint_path(out, network)
    return path.with_name(f"{path.stem}_times.json")


def counts_path(out: Path, network: str, task: str = "") -> Path:
    """Path of the counts of the held-out score, of the second task where that is named."""
    path = checkpoint_path(out, network)
    return path.with_name(f"{path.stem}{f'_{stem_of(task)}' if task else ''}_counts.json")


def write_log(path: Path, history: tuple[dict, ...]) -> None:
    """Write the log as CSV: step, loss, learning rate; with two tasks the loss of each (`loss_first`,
    `loss_mate`); where it was scored, mIoU on the part "val" (`val_miou`, `val_miou_mate`); in runs with
    `map_size` also the side of the crops, and the tiles of batch normalisation's statistics.
    """
    sometimes = ("loss_first", "loss_mate", "val_miou", "val_miou_mate", "crop", "bn_tiles")
    fields = ["step", "loss", "rate", *(key for key in sometimes if any(key in row for row in history))]
    with written_whole(path, overwrite=True) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields)
        writer.writeheader()
        writer.writerows(history)


def forget_state(out: Path, network: str) -> None:
    for path in (state_path(out, network), runs_path(out, network)):
        with suppress(OSError):
            path.unlink()


def forget_steps(out: Path, network: str) -> None:
    """Delete the checkpoints of the steps of an earlier run."""
    for path in steps_folder(out, network).glob("*.safetensors"):
        with suppress(OSError):
            path.unlink()


def forget_finished_state(out: Path, network: str) -> None:
    """Delete the state of a network whose checkpoint is written: a run that is killed between the two leaves
    both. A state that is newer than the checkpoint is that of another, unfinished run.
    """
    with suppress(OSError):
        state, target = state_path(out, network), checkpoint_path(out, network)
        if state.stat().st_mtime_ns <= target.stat().st_mtime_ns:
            forget_state(out, network)


def make_room(out: Path) -> None:
    """Create the folder and write to it once: hours of training must not end at a read-only one. Raises
    BadFile.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        made = "written to" if out.is_dir() else "created"
        raise BadFile(
            f"The folder {out} cannot be {made}: {error.strerror or error}. Name another `out`."
        ) from error

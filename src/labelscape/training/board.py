"""The training log as TensorBoard event files. Needs the package tensorboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labelscape.training.outputs import checkpoint_path
from labelscape.training.recipe import Recipe


class Board:
    """A training's log as event files beside its checkpoint. Events that an interrupted run wrote after its
    last saved state are hidden.
    """

    id = ""

    def __init__(self, out: Path, recipe: Recipe, history: Sequence[Mapping[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = checkpoint_path(out, recipe.network).with_suffix(".tensorboard")
        self.where = str(folder)
        done = int(history[-1]["step"]) if history else 0
        # A training that wrote no events so far has none of its history.
        self.step = done if any(folder.glob("events.*")) else 0
        # purge_step: TensorBoard hides events from this step on, because those steps are run again.
        self.writer = SummaryWriter(str(folder), purge_step=self.step + 1 if self.step else None)
        if not self.step:
            self.writer.add_text("recipe", f"    {recipe.model_dump_json()}", 0)

    def rows(self, lines: Sequence[Mapping[str, float]]) -> None:
        for line in lines:
            for name, value in line.items():
                if name != "step":
                    self.writer.add_scalar(name, value, line["step"])
            self.step = int(line["step"])

    def end(self, scores: Mapping[str, float], checkpoint: Path) -> None:
        for name, value in scores.items():
            self.writer.add_scalar(name, value, self.step)
        self.writer.add_text("checkpoint", str(checkpoint), self.step)

    def close(self, *, well: bool) -> None:
        self.writer.close()

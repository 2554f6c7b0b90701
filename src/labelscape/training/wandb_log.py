"""The training log in Weights & Biases. Needs the package wandb."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from labelscape.training.recipe import Recipe

SECONDS = 60.0
"""How long the end of a training waits for a server (ours); what is not uploaded lies in the folder."""


class WandbLog:
    """A training as a run of W&B, named after its folder and network. The user's own settings decide where it
    goes (WANDB_MODE, WANDB_PROJECT, `wandb login`); without a login it stays in the folder.
    """

    def __init__(self, out: Path, recipe: Recipe, known: str) -> None:
        import wandb

        offline = _is_offline(wandb)
        self.run = wandb.init(
            dir=os.environ.get("WANDB_DIR", str(out)),
            project=os.environ.get("WANDB_PROJECT", "labelscape"),
            name=os.environ.get("WANDB_NAME", f"{out.absolute().name} {recipe.network}"),
            group=os.environ.get("WANDB_RUN_GROUP", out.absolute().name),
            config=recipe.model_dump(mode="json"),
            mode="offline" if offline else None,
            id=known or None,
            # Offline there is no run to ask for; W&B would warn of it.
            resume="allow" if known and not offline else None,
            allow_val_change=True,
            reinit="create_new",
            # Our own lines and progress bars are the talk of a training.
            settings=wandb.Settings(console="off", silent=True, finish_timeout=SECONDS),
        )
        self.id = self.run.id
        # A server knows the run's last step. Continued offline, a run gets another folder of the same id, of
        # which some versions of `wandb sync` upload the last alone: it gets all steps, from the first one.
        self.step = 0 if offline else max(0, self.run.starting_step - 1)
        folder = Path(self.run.dir).parent
        self.where = (
            f"{folder} (upload it with: wandb sync {folder})" if offline else str(self.run.url or folder)
        )

    def rows(self, lines: Sequence[Mapping[str, float]]) -> None:
        for line in lines:
            values = {name: value for name, value in line.items() if name != "step"}
            # commit: by itself W&B keeps a step back until the next one, and a killed run would lose it.
            self.run.log(values, step=int(line["step"]), commit=True)
            self.step = int(line["step"])

    def end(self, scores: Mapping[str, float], checkpoint: Path) -> None:
        self.run.summary.update({**scores, "checkpoint": str(checkpoint)})

    def close(self, *, well: bool) -> None:
        self.run.finish(exit_code=0 if well else 1)


def _is_offline(wandb: Any) -> bool:
    """Whether the user's settings say so, or have no login: W&B would ask for one, or end the training."""
    settings = wandb.setup().settings
    if settings.mode != "online":
        return settings.mode in ("offline", "dryrun")
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return False
    # Where `wandb login` writes; a damaged file is W&B's to name.
    with suppress(OSError, NetrcParseError):
        return netrc(os.environ.get("NETRC")).authenticators(urlparse(settings.base_url).hostname) is None
    return True

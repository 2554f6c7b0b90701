"""The training log as TensorBoard event files. Needs the package tensorboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labelscape.errors import BadOption


def require_tensorboard() -> None:
    """Raises BadOption if the package is missing. Called before the first step, not after hours of
    training.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise BadOption(
            "TensorBoard logs need the package tensorboard: pip install 'labelscape[tensorboard]'."
        ) from error


@contextmanager
def board(folder: Path, history: Sequence[dict]) -> Iterator[Callable[[dict], None]]:
    """Yields a function that writes one line of the log (step, losses, rate, scores) as scalars.

    `history` holds the lines of an interrupted run that is resumed; events it wrote after its last saved
    state are hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    done = history[-1]["step"] if history else 0
    # purge_step: TensorBoard hides events from this step on, because those steps are run again.
    writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def note(row: dict) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])

    try:
        yield note
    finally:
        writer.close()

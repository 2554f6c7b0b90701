"""The log as TensorBoard's event files, for those who watch several runs side by side. Needs the package
tensorboard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labelscape.errors import BadOption


def require_tensorboard() -> None:
    """Raises BadOption where the package is missing, before any step is made."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise BadOption(
            "TensorBoard logs need the package tensorboard: pip install 'labelscape[tensorboard]'."
        ) from error


@contextmanager
def board(folder: Path, history: Sequence[dict]) -> Iterator[Callable[[dict], None]]:
    """Yields what writes a line of the log (step, loss, rate, val_miou) as scalars. `history`: the lines of
    an earlier run that is continued.

    What the earlier run had written beyond its last saved state is dropped.
    """
    from torch.utils.tensorboard import SummaryWriter

    done = history[-1]["step"] if history else 0
    writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def note(row: dict) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])

    try:
        yield note
    finally:
        writer.close()

"""Local workers begin by running the user's script once more, as all new processes of Python do."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from labelscape.errors import BadInput

GUARD = 'if __name__ == "__main__":'


def check_script() -> None:
    """Raises BadInput where a script starts workers without the guard: every worker would start workers of
    its own, and end with pages of tracebacks.
    """
    main = sys.modules["__main__"]
    # Run with -m, in a notebook or at the prompt there is no script that a worker would run.
    path = getattr(main, "__file__", None)
    script = Path(path) if path and main.__spec__ is None else None
    within = getattr(multiprocessing.current_process(), "_inheriting", False)
    if within or (script and script.suffix == ".py" and script.is_file() and "__name__" not in _text(script)):
        raise BadInput(
            f"{script.name if script else 'The script'} starts workers, and each of them runs it from its "
            f"first line: put what it does into a function, and call that below `{GUARD}`."
        )


def _text(script: Path) -> str:
    return script.read_text("utf-8", "replace")

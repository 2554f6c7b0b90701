import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests share world.py

torch.set_num_threads(1)  # tensors here are tiny: more threads only wait for each other


@pytest.fixture
def run_cli(capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        from labelscape.cli import main

        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in argv])
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run

"""How threads of torch wait for each other is told to OpenMP before it is loaded."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from labelscape.cli import main
try:
    main(["--version"])
except SystemExit:
    pass
early = "torch" not in sys.modules
print(json.dumps([os.environ.get("GOMP_SPINCOUNT"), early]))
"""


@pytest.mark.parametrize(
    ("own", "wanted"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_the_command_line_lets_waiting_threads_sleep(own, wanted, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # Where torch is loaded already OpenMP has read its settings.
    assert json.loads(done.stdout.splitlines()[-1]) == [wanted, True]

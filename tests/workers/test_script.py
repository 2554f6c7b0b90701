"""A user's script that starts workers: each of them runs it again."""

import subprocess
import sys

import pytest
from processes import PATIENCE

CALL = "from labelscape.workers.cluster import connected\n"
BARE = f"{CALL}with connected(1) as client:\n    print('begun')\n"


def ran(script):
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("text", [BARE, f"# not __name__\n{BARE}"], ids=["without", "with the word"])
def test_a_script_without_the_guard_is_told_of_it(tmp_path, text):
    script = tmp_path / "my.py"
    script.write_text(text)
    code, out, error = ran(script)
    assert code != 0 and 'call that below `if __name__ == "__main__":`' in error
    if text == BARE:
        assert "begun" not in out and error.count("Traceback") == 1


def test_a_module_and_a_prompt_have_no_script(monkeypatch):
    from labelscape.workers.script import check_script

    check_script()  # pytest is run with -m, or by a script with the guard
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    check_script()

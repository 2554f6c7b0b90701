"""The types that the page's modules state in their comments, checked by TypeScript where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import labelscape

PAGE = Path(labelscape.__file__).parent / "viewer" / "page"
OPTIONS = "--noEmit --allowJs --checkJs --strict --target es2022 --module es2022 --moduleResolution bundler"


@pytest.mark.long
def test_types_of_the_page_fit_each_other(tmp_path):
    checker = shutil.which("tsc")
    if checker is None:
        pytest.skip("needs TypeScript: npm install --global typescript")
    code = ""
    for file in PAGE.glob("*.js"):
        shutil.copy(file, tmp_path)
        code += file.read_text()
    # Leaflet states no types: all of its names are of any.
    names = sorted(set(re.findall(r"\bL\.(\w+)", code)))
    (tmp_path / "leaflet.d.ts").write_text("".join(f"export const {name}: any;\n" for name in names))
    lib = ["--lib", "es2022,dom,dom.iterable"]
    command = [checker, *OPTIONS.split(), *lib, "main.js", "polygon-worker.js", "training.js"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    # It does find what is wrong.
    (tmp_path / "main.js").write_text(
        (tmp_path / "main.js").read_text() + "\n/** @type {number} */ const x = 'a';"
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Type 'string' is not assignable to type 'number'" in done.stdout

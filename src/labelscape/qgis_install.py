"""Copy the plug-in for QGIS into QGIS's folder; it then knows which installation of Labelscape to call."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from labelscape.errors import BadFile
from labelscape.files import check_local, make_folder, written_whole

SOURCE = Path(__file__).with_name("qgis_plugin")
NAME, PROGRAM = "labelscape_qgis", "program.json"


def plugins_folder(system: str) -> Path:
    """QGIS's folder of plug-ins of the default profile, on Linux ("linux"), macOS ("darwin"), Windows
    ("win32").
    """
    base = {
        "win32": Path(os.environ.get("APPDATA") or "~/AppData/Roaming"),
        "darwin": Path("~/Library/Application Support"),
    }.get(system, Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share"))
    return base.expanduser() / "QGIS" / "QGIS3" / "profiles" / "default" / "python" / "plugins"


def install(plugins: str | Path, *, overwrite: bool = False) -> Path:
    """Copy the plug-in into a folder of plug-ins; returns its own folder. Raises BadFile where it is there
    already (unless `overwrite`) or cannot be written.
    """
    check_local(plugins)
    folder = Path(plugins) / NAME
    if folder.exists() and not overwrite:
        raise BadFile(f"{folder} exists; pass `overwrite=True` to replace the plug-in.")
    make_folder(folder)
    files = {file.name: file.read_bytes() for file in SOURCE.iterdir() if file.suffix in (".py", ".txt")}
    # Not `labelscape` alone: QGIS is started with another PATH than a terminal.
    files[PROGRAM] = json.dumps([sys.executable, "-m", "labelscape"]).encode()
    for name, content in files.items():
        with written_whole(folder / name, overwrite=True) as part:
            part.write_bytes(content)
    return folder

"""Sphinx: `make docs` builds the pages that docs/generate.py gathered."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from generate import as_rst

from labelscape.version import __version__

project = "Labelscape"
author = "Labelscape developers"
copyright = author
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"Labelscape {__version__}"
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True


def _docstring(app, what, name, obj, options, lines):
    """Docstrings of the package are plain text; Sphinx reads reStructuredText."""
    lines[:] = as_rst(lines)


def setup(app):
    app.connect("autodoc-process-docstring", _docstring)

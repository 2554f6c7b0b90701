"""Sphinx: `make docs` builds the pages that docs/generate.py gathered."""

import re
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
html_static_path = ["static"]
html_css_files = ["wide.css"]
toc_object_entries_show_parents = "hide"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True


def _docstring(app, what, name, obj, options, lines):
    """Docstrings of the package are plain text; Sphinx reads reStructuredText."""
    lines[:] = as_rst(lines)


def _signature(app, what, name, obj, options, signature, returns):
    """Fields with a factory have no default that can be written, and Sphinx then spells types in full."""
    return (
        re.sub(r"~(?:\w+\.)*", "", signature).replace("<factory>", "...") if signature else signature
    ), returns


def setup(app):
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _docstring)

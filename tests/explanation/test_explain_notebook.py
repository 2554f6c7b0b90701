"""The notebook of `explain`: its cells run, and its objects show themselves."""

import ast
import json
from pathlib import Path

import pytest
import world
from inside import checkpoint_of

import labelscape as ls

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "explain.ipynb"


@pytest.fixture
def folder(tmp_path):
    """What the notebook speaks of."""
    scene = world.make(tmp_path)
    world.label_polygons(scene, tmp_path / "fields.gpkg", column="crop")
    (tmp_path / "run").mkdir()
    model = checkpoint_of("mlp", scene.scene, widths=(4, 6, 8, 10), hidden=16)
    model.recipe["data"] = {"images": ["scene.tif"], "class_column": "crop"}
    ls.save(model, tmp_path / "run" / "mlp.safetensors")
    return tmp_path


def cells():
    return [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]


def test_the_cells_of_the_notebook_run_and_show_the_page_and_its_analyses(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names, shown = {}, []
    for source in cells():
        *lines, last = ast.parse(source).body
        exec(compile(ast.Module(lines, []), str(NOTEBOOK), "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names))
    done, resolutions, mistakes, (share, shape) = shown
    assert "Where the model is wrong" in done._repr_html_() and "<iframe" in done._repr_html_()
    for one in (resolutions, mistakes):
        html = one._repr_html_()
        assert html.startswith(f"<p>{one.lead[:40]}")
        assert html.count("<img ") == len(one.pictures) + len(one.figures) > 1
        assert html.count("Computed:") == 1 + len(one.figures)
    assert "<table><caption>" in resolutions._repr_html_()
    assert share == pytest.approx(1 - mistakes.numbers["overall_accuracy"]) and shape == (3, 5)


@pytest.mark.long
def test_a_kernel_runs_the_notebook(folder):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: make install")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: make install")
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [cell.outputs[-1] for cell in book.cells if cell.cell_type == "code"]
    assert all("text/html" in output.data for output in outputs[:3])

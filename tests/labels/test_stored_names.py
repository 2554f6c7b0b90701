"""Names that are stored with label rasters become the classes of training."""

import contextlib
import json

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import world

from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.labels.class_names import NAMES_TAG
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.write import MapWriter


def labelled(folder, names, name="labels", values=(1, 4, 7)):
    """A scene and a label raster that names its values."""
    w = world.make(folder, 64, 64, name=f"scene_{name}")
    path = world.label_raster(w, folder / f"{name}.tif", values=values)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{NAMES_TAG: json.dumps(names)})
    return w, path


def legend_of(images, labels, **rules):
    with open_dataset([str(i) for i in images], [str(file) for file in labels], spec=rules) as dataset:
        return dict(zip(dataset.legend.names, dataset.legend.values)), dataset.class_counts().tolist()


def test_a_map_of_ours_keeps_its_names_as_labels(tmp_path):
    w = world.make(tmp_path, 64, 64)
    legend = Legend.of_names(["Straßen & Wege", "Wald"], values=[0, 9])
    with rasterio.open(w.scene) as file:
        from labelscape.scenes.georeference import grid_of

        grid = grid_of(file)
    values = np.array([0, 9, 9], np.uint8)[w.classes]
    with MapWriter(tmp_path / "map.tif", grid, 1, IGNORE, legend=legend) as writer:
        writer.write(grid.window, values)
    found, counts = legend_of([w.scene], [tmp_path / "map.tif"])
    assert found == {"Straßen & Wege": 0, "Wald": 9}
    assert counts == [(values == 0).sum(), (values == 9).sum()]
    (tmp_path / "map.tif.aux.xml").unlink()
    assert legend_of([w.scene], [tmp_path / "map.tif"])[0] == found


def test_values_without_a_name_and_names_of_two_values_stay_apart(tmp_path):
    w, path = labelled(tmp_path, {1: "Wald", 4: "Wald", 9: "Meer"})
    assert legend_of([w.scene], [path])[0] == {"Wald (1)": 1, "Wald (4)": 4, "class 7": 7}


@pytest.mark.parametrize("olds", [("See", "Wald"), ("class 1", "class 7"), ("See", "class 7"), ("1", "7")])
def test_classes_are_merged_by_their_name_or_their_value(tmp_path, olds):
    w, path = labelled(tmp_path, {1: "See", 4: "Acker", 7: "Wald"})
    found, counts = legend_of([w.scene], [path], merge={"wild": olds, "farmed": ("Acker",)})
    assert list(found) == ["wild", "farmed"]
    assert counts == [np.isin(w.classes, (0, 2)).sum(), (w.classes == 1).sum()]
    said = [
        f.text for f in check_data([w.scene], [path], spec={"merge": {"wild": olds, "farmed": ("Acker",)}})
    ]
    share = 100 * np.isin(w.classes, (0, 2)).mean()
    assert any(f"wild {share:.1f} %" in text for text in said)
    assert not any("no class" in text or "not used" in text for text in said)


def test_files_that_name_a_value_differently_are_refused(tmp_path):
    one, first = labelled(tmp_path, {1: "See", 4: "Acker", 7: "Wald"})
    two, second = labelled(tmp_path, {1: "Acker", 4: "See"}, "other")
    with pytest.raises(BadInput, match="value 1 is called 'See' in .*labels.tif and 'Acker' in .*other.tif"):
        legend_of([one.scene, two.scene], [first, second])
    classes = {"See": 1, "Acker": 4, "Wald": 7}
    assert legend_of([one.scene, two.scene], [first, second], classes=classes)[0] == classes
    _, third = labelled(tmp_path, {4: "Acker"}, "third")
    found, _ = legend_of([one.scene, two.scene], [first, third])
    assert found == classes


def test_labels_whose_names_exchange_a_models_classes_are_refused(tmp_path):
    w, path = labelled(tmp_path, {0: "forest", 1: "water", 2: "field"}, values=(0, 1, 2))
    with rasterio.open(path) as file:
        from labelscape.scenes.georeference import grid_of

        grid = grid_of(file)
    with pytest.raises(BadInput, match="the value 0 'forest', which elsewhere is 'water'") as told:
        open_labels(path, grid, LabelRules(legend=world.LEGEND))
    assert "`classes={'forest': 0, 'water': 1, 'field': 2}`" in str(told.value)
    classes = {"forest": 0, "water": 1, "field": 2}
    labels = open_labels(path, grid, LabelRules(legend=world.LEGEND, classes=classes))
    np.testing.assert_array_equal(labels.read(), np.array([2, 0, 1])[w.classes])
    labels.close()


def test_codes_that_are_names_of_some_classes_and_values_of_others_are_refused(tmp_path):
    """Of polygons with the crop codes 1, 2 and 5 classes are called so, and have the values 0, 1 and 2: in a
    raster without names a 1 may be either.
    """
    w = world.make(tmp_path, 64, 64)
    model = Legend.of_names(["1", "2", "5"])
    with rasterio.open(w.scene) as file:
        from labelscape.scenes.georeference import grid_of

        grid = grid_of(file)
    path = world.label_raster(w, tmp_path / "codes.tif", values=(1, 2, 5))
    with pytest.raises(BadInput, match="whether its value 1 is the class '1', or '2'") as told:
        open_labels(path, grid, LabelRules(legend=model))
    assert "`classes={'1': 1, '2': 2, '5': 5}`, or `classes={'1': 0, '2': 1, '5': 2}`" in str(told.value)
    rules = LabelRules(legend=model, classes={"1": 1, "2": 2, "5": 5})
    with contextlib.closing(open_labels(path, grid, rules)) as labels:
        np.testing.assert_array_equal(labels.read(), w.classes)
    # A map of the model says it.
    with MapWriter(tmp_path / "map.tif", grid, 1, IGNORE, legend=model) as writer:
        writer.write(grid.window, w.classes.astype(np.uint8))
    with contextlib.closing(open_labels(tmp_path / "map.tif", grid, LabelRules(legend=model))) as labels:
        np.testing.assert_array_equal(labels.read(), w.classes)


def test_the_data_check_names_them_too(tmp_path):
    w, path = labelled(tmp_path, {1: "See", 4: "Acker", 7: "Wald"})
    texts = " ".join(f.text for f in check_data([w.scene], [path]))
    assert "1 See" in texts and "4 Acker" in texts and "class 1" not in texts


@pytest.mark.parametrize("driver", ["ENVI", "GTiff", "PNG"])
def test_categories_of_any_format_are_the_classes(tmp_path, driver):
    """In the header where the format has a place for them, else in GDAL's side file."""
    w = world.make(tmp_path, 64, 64, crs=None)
    categories = "".join(f"<Category>{name}</Category>" for name in ("", "See", "Acker", "Wald"))
    band = f'<PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames></PAMRasterBand>'
    path = world.write(tmp_path / "first.tif", w.classes + 1, crs=None)
    (tmp_path / "first.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    if driver == "ENVI":
        path = world.write(tmp_path / "labels.dat", w.classes + 1, crs=None, driver=driver)
        header = (tmp_path / "labels.hdr").read_text().replace("ENVI Standard", "ENVI Classification")
        (tmp_path / "labels.hdr").write_text(
            f"{header}\nclasses = 4\nclass names = {{ , See, Acker, Wald}}\n"
        )
    elif driver != "GTiff":
        with rasterio.open(path) as file:
            path = tmp_path / "labels.png"
            rasterio.shutil.copy(file, path, driver=driver)
    assert legend_of([w.scene], [path])[0] == {"See": 1, "Acker": 2, "Wald": 3}

"""Run by the Python that QGIS is installed for, which has neither pytest nor Labelscape: opens files as QGIS
does and prints what it makes of them, as JSON. --answer=PATH answers the points of a sample, as a person
would in the attribute table.
"""

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsExpressionContextUtils,
    QgsRasterLayer,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor


def raster(path):
    layer = QgsRasterLayer(path, "raster")
    renderer = layer.renderer()
    # Pixels that are shown: nodata is transparent.
    block = renderer.block(1, layer.extent(), layer.width(), layer.height(), None)
    shown = {}
    values = layer.dataProvider().block(1, layer.extent(), layer.width(), layer.height())
    for row in range(layer.height()):
        for column in range(layer.width()):
            key = "nodata" if values.isNoData(row, column) else str(int(values.value(row, column)))
            if key not in shown:
                # An unsigned 0xAARRGGBB.
                color = QColor.fromRgba(block.color(row, column))
                shown[key] = [color.red(), color.green(), color.blue(), color.alpha()]
    classes = getattr(renderer, "classes", list)()
    return {
        "valid": layer.isValid(),
        "renderer": renderer.type(),
        "classes": [[int(c.value), c.label, c.color.name()] for c in classes],
        "shown": shown,
        "crs": layer.crs().authid(),
    }


def symbols(layer):
    """Feature id -> colour in which the layer's style draws it."""
    context = QgsRenderContext()
    context.expressionContext().appendScope(QgsExpressionContextUtils.layerScope(layer))
    renderer = layer.renderer().clone()
    renderer.startRender(context, layer.fields())
    found = {}
    for feature in layer.getFeatures():
        context.expressionContext().setFeature(feature)
        symbol = renderer.symbolForFeature(feature, context)
        # Areas and pixels are outlines: what is filled shows nothing of the ground.
        layer_of = symbol.symbolLayer(0) if symbol else None
        empty = symbol and getattr(layer_of, "brushStyle", lambda: 1)() == 0
        paint = layer_of.strokeColor() if empty else symbol and symbol.color()
        found[feature.id()] = paint.name() if symbol else None
    renderer.stopRender(context)
    return found


def vector(path):
    whole = QgsVectorLayer(path, "all", "ogr")
    names = [one.split("!!::!!")[1] for one in whole.dataProvider().subLayers()]
    del whole
    return {name: described(QgsVectorLayer(f"{path}|layername={name}", name, "ogr")) for name in names}


def described(layer):
    fields, form = layer.fields(), layer.editFormConfig()
    renderer = layer.renderer()
    return {
        "valid": layer.isValid(),
        "features": layer.featureCount(),
        "crs": layer.crs().authid(),
        "renderer": renderer.type(),
        "categories": [c.label() for c in renderer.categories()] if hasattr(renderer, "categories") else [],
        "colours": sorted(set(symbols(layer).values())),
        "sorted_by": layer.attributeTableConfig().sortExpression(),
        "fields": {
            field.name(): {
                "widget": layer.editorWidgetSetup(index).type(),
                "choices": layer.editorWidgetSetup(index).config().get("map"),
                "alias": layer.attributeAlias(index),
                "fixed": form.readOnly(index),
            }
            for index, field in enumerate(fields)
        },
    }


def answer(path):
    """Answer every point but the last from the map that lies beside, by the values of the form."""
    ground = QgsRasterLayer(str(Path(path).with_name("m_class.tif")), "map")
    layer = QgsVectorLayer(f"{path}|layername=points", "points", "ogr")
    column = layer.fields().indexOf("reference")
    layer.startEditing()
    for feature in list(layer.getFeatures())[:-1]:
        value, known = ground.dataProvider().sample(feature.geometry().asPoint(), 1)
        assert known
        layer.changeAttributeValue(feature.id(), column, int(value))
    assert layer.commitChanges(), layer.commitErrors()


def main(paths):
    # GUI too: the widgets of forms are registered there.
    app = QgsApplication([], True)
    app.initQgis()
    found = {}
    for path in paths:
        if path.startswith("--answer="):
            answer(path.partition("=")[2])
        else:
            found[Path(path).name] = (raster if path.endswith(".tif") else vector)(path)
    print("FOUND" + json.dumps(found))
    app.exitQgis()


main(sys.argv[1:])

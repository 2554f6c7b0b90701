"""Run by the Python that QGIS is installed for, which has neither pytest nor Labelscape: opens files as QGIS
does and prints what it makes of them, as JSON. --picture=PATH draws a raster with its legend, --answer=PATH
answers the points of a sample, as a person would in the attribute table.
"""

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsExpressionContextUtils,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapLayerLegendUtils,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter


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


def picture(path, target):
    """Draw a raster as QGIS's map window does, four pixels for each of its pixels, with its legend below."""
    layer = QgsRasterLayer(path, "Class map")
    width, height = 4 * layer.width(), 4 * layer.height()
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(width, height))
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    tree = QgsLayerTree()
    node = tree.addLayer(layer)
    # QGIS before 3.30 lists all 256 entries of a colour table: the classes are the first of them.
    named = [n for n, one in enumerate(layer.renderer().classes()) if one.label != str(int(one.value))]
    QgsMapLayerLegendUtils.setLegendNodeOrder(node, [0, *(n + 1 for n in named)])  # 0: the band's name
    model = QgsLayerTreeModel(tree)
    model.refreshLayerLegend(node)
    legend = QgsLegendRenderer(model, QgsLegendSettings())
    size = legend.minimumSize()  # in millimetres
    scale = 8  # pixels a millimetre
    drawn = QImage(
        max(width, int(scale * size.width())), height + int(scale * size.height()), QImage.Format_RGB32
    )
    drawn.fill(QColor("white"))
    drawn.setDotsPerMeterX(1000 * scale)
    drawn.setDotsPerMeterY(1000 * scale)
    painter = QPainter(drawn)
    painter.drawImage(0, 0, job.renderedImage())
    painter.translate(0, height)
    painter.scale(scale, scale)  # a legend is drawn in millimetres
    context = QgsRenderContext.fromQPainter(painter)
    context.setScaleFactor(scale)
    legend.drawLegend(context)
    painter.end()
    assert drawn.save(target)


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
        elif path.startswith("--picture="):
            picture(path.partition("=")[2], path.partition("=")[2].replace(".tif", ".png"))
        else:
            found[Path(path).name] = (raster if path.endswith(".tif") else vector)(path)
    print("FOUND" + json.dumps(found))
    app.exitQgis()


main(sys.argv[1:])

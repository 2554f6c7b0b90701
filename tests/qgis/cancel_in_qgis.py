"""Run by the Python that QGIS is installed for: runs the plug-in's algorithm on a raster by a program that
never ends, cancels it as the button does once it has told its progress, and prints what QGIS got, as JSON.

    python3 cancel_in_qgis.py PLUGINS RASTER PROGRAM OUTPUT
"""

import json
import sys

from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsRasterLayer


class Watched(QgsProcessingFeedback):
    def __init__(self):
        super().__init__(False)
        self.shares, self.lines = [], []
        self.progressChanged.connect(self.got)

    def got(self, share):
        self.shares.append(share)
        self.cancel()

    def pushConsoleInfo(self, line):
        self.lines.append(line)


def ran(raster, program, output):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("labelscape:map")
    layer = QgsRasterLayer(raster, "r")
    given = {"INPUT": layer, "MODEL": "m.safetensors", "PROGRAM": program, "OUTPUT": output}
    feedback, context = Watched(), QgsProcessingContext()
    results, fine = algorithm.run(given, context, feedback)
    asked = [parameter.name() for parameter in algorithm.parameterDefinitions()]
    return {
        "shares": feedback.shares,
        "lines": feedback.lines,
        "results": results,
        "fine": fine,
        "asked": asked,
    }


def main(plugins, *words):
    app = QgsApplication([], False)
    app.initQgis()
    sys.path.insert(0, plugins)
    from labelscape_qgis.provider import Provider

    provider = Provider()
    assert QgsApplication.processingRegistry().addProvider(provider)
    # Layers and algorithms must be gone before QGIS is.
    found = ran(*words)
    print("FOUND" + json.dumps(found), flush=True)
    QgsApplication.processingRegistry().removeProvider(provider)
    app.exitQgis()


main(*sys.argv[1:])

"""The plug-in's provider of Processing algorithms."""

from qgis.core import QgsApplication, QgsProcessingProvider

from .algorithm import MapScene


class Provider(QgsProcessingProvider):
    """Labelscape's algorithms in the Processing toolbox."""

    def id(self):
        return "labelscape"

    def name(self):
        return "Labelscape"

    def supportedOutputRasterLayerExtensions(self):
        # What its dialog offers; what is typed is checked by the algorithm.
        return ["tif"]

    def loadAlgorithms(self):
        self.addAlgorithm(MapScene())


class Plugin:
    """What `classFactory` returns: it adds the provider, and removes it."""

    def __init__(self):
        self.provider = None

    def initProcessing(self):
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        self.initProcessing()

    def unload(self):
        QgsApplication.processingRegistry().removeProvider(self.provider)

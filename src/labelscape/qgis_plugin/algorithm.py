"""Processing's algorithm: a raster and a model give a class map, which QGIS loads in its colours."""

import os
import tempfile

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from .command import Cancelled, Failed, arguments, check_target, class_map, moved, program, run

MODELS = "Models (*.safetensors *.onnx *.xml *.pt2);;All files (*)"
TTA = ("none", "flips", "dihedral")


class MapScene(QgsProcessingAlgorithm):
    """labelscape:map"""

    def name(self):
        return "map"

    def displayName(self):
        return "Map a raster with a model"

    def createInstance(self):
        return MapScene()

    def shortHelpString(self):
        return (
            "Gives every pixel of a raster one of the classes of a trained model (labelscape map). A raster "
            "that does not fit the model (other bands, units or pixel size) is refused with the reason. "
            "Model: a checkpoint (.safetensors), a model that labelscape export wrote (.onnx, .xml of "
            "OpenVINO, .pt2), a folder that labelscape push wrote, or hf://owner/name."
        )

    def initAlgorithm(self, config=None):
        self.addParameter(QgsProcessingParameterRasterLayer("INPUT", "Raster"))
        self.addParameter(QgsProcessingParameterFile("MODEL", "Model", fileFilter=MODELS))
        self.addParameter(
            QgsProcessingParameterEnum("TTA", "Test-time augmentation", options=list(TTA), defaultValue=0)
        )
        force = QgsProcessingParameterBoolean("FORCE", "Map a raster that does not fit", defaultValue=False)
        name = QgsProcessingParameterString("PROGRAM", "Program (path of labelscape)", "", optional=True)
        for parameter in (force, name):
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
            self.addParameter(parameter)
        self.addParameter(QgsProcessingParameterRasterDestination("OUTPUT", "Class map"))

    def processAlgorithm(self, parameters, context, feedback):
        raster = self.parameterAsRasterLayer(parameters, "INPUT", context)
        target = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        model = self.parameterAsString(parameters, "MODEL", context)
        if raster is None or not raster.source():
            raise QgsProcessingException(self.invalidRasterError(parameters, "INPUT"))
        try:
            check_target(target)
        except Failed as error:
            raise QgsProcessingException(str(error)) from error
        # Beside the target: a map may be larger than the system's folder of temporary files.
        with tempfile.TemporaryDirectory(prefix="labelscape_", dir=os.path.dirname(target) or ".") as folder:
            try:
                words = program(self.parameterAsString(parameters, "PROGRAM", context))
                words += arguments(
                    model,
                    raster.source(),
                    folder,
                    TTA[self.parameterAsEnum(parameters, "TTA", context)],
                    self.parameterAsBoolean(parameters, "FORCE", context),
                )
                feedback.pushCommandInfo(" ".join(words))
                run(
                    words,
                    progress=feedback.setProgress,
                    # Not where files lie that are gone when the map is moved.
                    say=lambda line: feedback.pushConsoleInfo(line) if folder not in line else None,
                    cancelled=feedback.isCanceled,
                )
                moved(class_map(folder), target)
            except Cancelled:
                return {}
            except (Failed, OSError) as error:
                raise QgsProcessingException(str(error)) from error
        return {"OUTPUT": target}

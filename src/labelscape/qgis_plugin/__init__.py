"""A plug-in for QGIS 3: copied into QGIS's folder by `labelscape qgis`, it runs in QGIS's own Python, where
Labelscape is not installed. It calls the command line.
"""


def classFactory(iface):
    """What QGIS calls to load a plug-in."""
    from .provider import Plugin

    return Plugin()

"""What a file or folder is, what it holds and what to do with it (`info`), without weights or all pixels."""

from labelscape.inspection.card import Info
from labelscape.inspection.describe import info

__all__ = ["Info", "info"]

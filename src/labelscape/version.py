"""The version, without importing anything else of Labelscape."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

__version__ = "0.1.0"


@lru_cache(maxsize=1)  # files may change while a process runs what they held
def build() -> str:
    """The version with a hash of the package's source, as in "0.1.0 (code 3fa9c2d1e0)": copies from between
    two releases have one version, and may compute other values. The version alone where that is no folder of
    files.
    """
    folder = Path(__file__).parent
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*.py"))
    digest = sha256()
    for name, file in files:
        # Line ends of another system are no other code.
        text = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return f"{__version__} (code {digest.hexdigest()[:10]})" if files else __version__

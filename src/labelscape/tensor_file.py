"""Safetensors files that say what was written: a byte that a disk or a transfer changed in the weights gives
another map without an error, so it is found when the file is read.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from labelscape.errors import BadFile

CHECKSUM = "crc32"
"""Key of the checksum among a file's metadata: of the rest of its header, and of the tensors' bytes."""
CHUNK = 2**22
"""Bytes of a file that are read at once."""


def write_tensors(path: Path, content: bytes) -> None:
    """Write the content that safetensors made of tensors, with its checksum."""
    start = _header_end(content[:8])
    header = json.loads(content[8:start])
    tensors = memoryview(content)[start:]
    header["__metadata__"][CHECKSUM] = f"{_of_header(header)} {zlib.crc32(tensors):08x}"
    # No spaces, and whole words of 8 bytes, as safetensors writes it.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(tensors)


def check_header(path: Path) -> None:
    """Raises BadFile where names, shapes or metadata of a safetensors file are not those that were written.
    Files of earlier versions and of other programs have no checksum.
    """
    header, _ = _header(path)
    if (known := _known(header)) and known[0] != _of_header(header):
        raise _damaged(path, "description")


def check_tensors(path: Path) -> None:
    """Raises BadFile where the tensors of a safetensors file, or its header, changed after it was written."""
    check_header(path)
    header, start = _header(path)
    if not (known := _known(header)):
        return
    found = 0
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    if known[1] != f"{found:08x}":
        raise _damaged(path, "weights")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    with path.open("rb") as file:
        start = _header_end(file.read(8))
        return json.loads(file.read(start - 8)), start


def _header_end(first: bytes) -> int:
    return 8 + int.from_bytes(first, "little")


def _known(header: dict[str, Any]) -> list[str]:
    known = header.get("__metadata__", {}).get(CHECKSUM, "").split()
    return known if len(known) == 2 else []


def _of_header(header: dict[str, Any]) -> str:
    about = {key: text for key, text in header["__metadata__"].items() if key != CHECKSUM}
    return f"{zlib.crc32(json.dumps({**header, '__metadata__': about}, sort_keys=True).encode()):08x}"


def _damaged(path: Path, part: str) -> BadFile:
    return BadFile(
        f"{path} is damaged: its {part} changed after the file was written (the checksum differs). Copy or "
        "download it once more, or take another copy."
    )

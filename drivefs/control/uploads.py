"""How contents that are on their way are told to commands and in `.drivefs/status`.

Owns the fields; paths are relative to the root of the drive, and None while they are not known here.
"""

import os
from typing import Any

from drivefs.sync.incoming import Incoming


def as_fields(upload: Incoming) -> dict[str, Any]:
    """For a command: paths and names are bytes."""
    return {
        "path": upload.path,
        "name": upload.name,
        "size": upload.size,
        "sent": upload.sent,
        "device": upload.device,
        "stalled_since_ns": upload.stalled_since_ns or None,
    }


def as_text(upload: Incoming) -> dict[str, Any]:
    """For JSON: bytes of names that are not UTF-8 are lone surrogates, as everywhere in Python."""
    path = None if upload.path is None else os.fsdecode(upload.path)
    return {**as_fields(upload), "path": path, "name": os.fsdecode(upload.name)}

"""What recovery and the local check have to say about the local state, in words for people."""

import enum
from typing import NamedTuple


class Severity(enum.StrEnum):
    """How bad it is."""

    NOTE = "note"
    """Worth knowing; nothing is lost."""
    WARNING = "warning"
    """Something was put aside or has to be fetched again."""
    DAMAGE = "damage"
    """Bytes that existed only here cannot be trusted any more."""


class Finding(NamedTuple):
    """What was found, what it means for people's data, and what to do."""

    severity: Severity
    what: str
    meaning: str
    advice: str

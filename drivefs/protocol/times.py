"""Moments as people and programs write them (ISO 8601), to the nanosecond; pure.

Owns both directions. What names no zone is local time; what names no time of day is the day's beginning, and what names
a month or a year alone is theirs.
"""

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)|(?<=[T ]\d{6})[.,](\d+)")
_LONG = re.compile(r"[0-9]{4}(-[0-9]{2})?")
NS_PER_SECOND = 10**9
LAST_NS = 2**63 - 1


def parse_time(text: str) -> int | None:
    """The moment that a text names, in nanoseconds since 1970; None if it names none, or one before that.

    What comes after the last that fits (in 2262) is that one.
    """
    fraction = _FRACTION.search(text)
    digits = (fraction[1] or fraction[2]) if fraction else ""
    whole = text if fraction is None else text[: fraction.start()] + text[fraction.end() :]
    if _LONG.fullmatch(text):
        whole += "-01" if "-" in text else "-01-01"
    try:
        moment = datetime.fromisoformat(whole)
        seconds = int(moment.timestamp()) if moment.tzinfo else int(moment.astimezone().timestamp())
    except (ValueError, OverflowError, OSError):
        return None
    ns = seconds * NS_PER_SECOND + int(digits[:9].ljust(9, "0"))
    return min(ns, LAST_NS) if ns >= 0 else None


def iso_time(time_ns: int) -> str:
    """A moment in UTC, whole: `parse_time` gives the same number again."""
    seconds, ns = divmod(time_ns, NS_PER_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def iso_seconds(time_ns: int) -> str:
    """The same in whole seconds."""
    return f"{datetime.fromtimestamp(time_ns // NS_PER_SECOND, UTC):%Y-%m-%dT%H:%M:%S}Z"

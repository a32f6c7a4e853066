"""Which revisions of a file are let go as they get older: dense when recent, sparse when old; pure.

Owns the rules. A revision was the content from its time until that of the next one, and what counts is what the file
was at certain moments: at each full minute of the last day, each full hour of a week, each day of a month and each week
of a year, all counted from 1970. A content that stood for long is therefore kept for long, however old it was when
something took its place, and what came and went between two such moments goes. What was current within the last hour
stays. Where more are left than a file may have, all distances are twice as long, until there are not.

Invariants: what the file was at each of those moments stays; so does the newest revision, what is held, and what the
file was within each of the spans that are given. To decide again about what is left lets nothing go that the first
decision kept, for the same time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HOUR, DAY, WEEK = 3600, 86400, 7 * 86400
NS_PER_SECOND = 10**9
MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Rules:
    """Up to which age what a file was is kept so densely; in seconds, each age not less than the one before."""

    burst_seconds: int = 60
    """The shortest distance: of a burst of saves between two such moments the last one stays."""
    all_seconds: int = DAY
    hourly_seconds: int = 7 * DAY
    daily_seconds: int = 30 * DAY
    weekly_seconds: int = 365 * DAY
    most: int = 1000
    """Of one file, but what is held."""
    lag_seconds: int = 600
    """So far behind a device may have been when it was heard of last."""

    def tiers(self) -> list[tuple[int, int]]:
        """Up to which age there are moments at which distance."""
        return [
            (self.all_seconds, self.burst_seconds),
            (self.hourly_seconds, HOUR),
            (self.daily_seconds, DAY),
            (self.weekly_seconds, WEEK),
        ]


class Standing(NamedTuple):
    """A revision of one history: when it came to be there, and whether something else than its age keeps it."""

    number: int
    time_ns: int
    is_held: bool = False


class Span(NamedTuple):
    """A stretch of time, both ends included: all that a file was in it is held."""

    since_ns: int
    until_ns: int


def let_go(
    revisions: Sequence[Standing], spans: Collection[Span], now_ns: int, rules: Rules, *, ended_ns: int | None = None
) -> set[int]:
    """The numbers of those revisions of one history that go; they are given by number.

    `ended_ns` is when the newest stopped being what the file is, since the file went on with another history; such a
    newest one may go like any other.
    """
    if not revisions:
        return set()
    ends = [*(each.time_ns for each in revisions[1:]), now_ns + 1 if ended_ns is None else ended_ns]
    held = {each.number for each in revisions if each.is_held}
    if ended_ns is None:
        held.add(revisions[-1].number)
    for each, end_ns in zip(revisions, ends, strict=True):
        if any(each.time_ns <= span.until_ns and end_ns > span.since_ns for span in spans):
            held.add(each.number)
    factor = 1
    kept = held | _kept(revisions, ends, now_ns, rules, factor)
    while len(kept) > max(rules.most, len(held)) and factor < 2**MOST_DOUBLINGS:
        factor *= 2
        kept = held | _kept(revisions, ends, now_ns, rules, factor)
    return {each.number for each in revisions} - kept


def _kept(revisions: Sequence[Standing], ends: Sequence[int], now_ns: int, rules: Rules, factor: int) -> set[int]:
    """What was the content at one of the moments, where all distances are so many times as long."""
    young_ns = min(HOUR, rules.all_seconds) * NS_PER_SECOND
    tiers = [(age * NS_PER_SECOND, distance * factor * NS_PER_SECOND) for age, distance in rules.tiers()]
    if factor > 1:
        # Not even all of the last hour can stay.
        tiers.append((young_ns, factor * NS_PER_SECOND))
    found = set[int]()
    for each, end_ns in zip(revisions, ends, strict=True):
        is_young = factor == 1 and end_ns >= now_ns - young_ns
        # The last moment before its end has to be one at which it was there, and young enough.
        if is_young or any(
            (end_ns - 1) // distance_ns * distance_ns >= max(each.time_ns, now_ns - age_ns)
            for age_ns, distance_ns in tiers
        ):
            found.add(each.number)
    return found

"""Which revisions of a file are let go as they get older: dense when recent, sparse when old; pure.

Owns the rules. Time is cut into pieces that are longer the longer ago they are, and of each piece the newest revision
stays: of the last hour all, of the last day one of each burst of saves, then one for each hour, day and week. So what a
file was at the end of each piece can be had. Where more are left than a file may have, all pieces are twice as long,
until there are not.

Invariants: the newest revision stays, and so does what is held, and what was the newest at each of the moments that are
given. What goes has a newer one in the same piece of time, or is older than everything that is kept. To decide again
about what is left lets nothing go that the first decision kept, for the same time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HOUR, DAY, WEEK = 3600, 86400, 7 * 86400
NS_PER_SECOND = 10**9
MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Rules:
    """For how long revisions are kept so densely; ages in seconds, each not less than the one before."""

    burst_seconds: int = 60
    """Of saves within a piece as long as this, the last counts, once they are more than an hour old."""
    all_seconds: int = DAY
    hourly_seconds: int = 7 * DAY
    daily_seconds: int = 30 * DAY
    weekly_seconds: int = 365 * DAY
    most: int = 1000
    """Of one file, but what is held."""

    def tiers(self) -> list[tuple[int, int]]:
        """Up to which age there is a revision for each piece of which length."""
        return [
            (min(HOUR, self.all_seconds), 1),
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


def let_go(revisions: Sequence[Standing], moments: Iterable[int], now_ns: int, rules: Rules) -> set[int]:
    """The numbers of those revisions of one history that go; they are given by number."""
    held = _held(revisions, moments)
    pieces = 1
    kept = held | _kept(revisions, now_ns, rules, pieces)
    while len(kept) > max(rules.most, len(held)) and pieces < 2**MOST_DOUBLINGS:
        pieces *= 2
        kept = held | _kept(revisions, now_ns, rules, pieces)
    return {each.number for each in revisions} - kept


def _held(revisions: Sequence[Standing], moments: Iterable[int]) -> set[int]:
    held = {each.number for each in revisions if each.is_held}
    held.update(each.number for each in revisions[-1:])
    for moment in moments:
        held.update([each.number for each in revisions if each.time_ns <= moment][-1:])
    return held


def _kept(revisions: Sequence[Standing], now_ns: int, rules: Rules, pieces: int) -> set[int]:
    """The newest of each piece of time, where all pieces are so many times as long."""
    tiers = rules.tiers()
    found: dict[tuple[int, int], int] = {}
    for each in revisions:
        age_ns = now_ns - each.time_ns
        for until_seconds, piece_seconds in tiers:
            if age_ns <= until_seconds * NS_PER_SECOND:
                piece = each.time_ns // (piece_seconds * pieces * NS_PER_SECOND)
                # Of the last hour all stay, unless there are too many.
                within = each.number if piece_seconds == pieces == 1 else piece
                found[until_seconds, within] = each.number
                break
    return set(found.values())

"""What dealing with one refused change led to: for people, and for whoever publishes.

Owns the shape only; `amends` fills it, and `refusals` tells it.
"""

from dataclasses import dataclass, field

from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.sync.questions import Place


@dataclass(slots=True)
class Outcome:
    """What one refusal led to, for people and for whoever publishes."""

    copies: list[tuple[InodeId, Place]] = field(default_factory=list)
    """Conflict copies, and where they are."""
    given_up: list[tuple[InodeId, Place | None, str]] = field(default_factory=list)
    """Changes that were given up: of what, where, and why."""
    aside: list[tuple[Place, Place]] = field(default_factory=list)
    """Names that something other than a file took, and what is called instead that was to have them here."""
    made: list[OpNumber] = field(default_factory=list)
    """What was made in place of it."""
    contents: set[InodeId] = field(default_factory=set)
    """Files whose unpublished content, if there is any, may go on its way now: no store of theirs is in its way."""

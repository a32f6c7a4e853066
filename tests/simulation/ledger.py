"""What programs were promised: which contents they have written, and which of them may be gone.

Owns the account of contents, by their bytes; every content that is written is like no other, but for what is left of
a file that is cut. A content has to be somewhere in the end, unless a program that was shown it removed it or wrote
over it, or a machine lost power before anybody was told that it was durable.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """All contents of one run."""

    known: set[bytes] = field(default_factory=lambda: {b""})
    """Every content that a program has seen as the outcome of its own writes."""
    given_up: set[bytes] = field(default_factory=set)
    _written: dict[bytes, str] = field(default_factory=dict)
    """What has to be somewhere, with the device that wrote it."""
    _volatile: dict[bytes, str] = field(default_factory=dict)
    """Those of them that a power cut of that device may take."""

    _often: set[bytes] = field(default_factory=set)
    """What files have come to be more than once, by being cut: that says nothing of what led to it."""
    _before: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Of each content, those that its writer was shown in its place and wrote over."""
    _stays: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Of contents whose files had another name left, those that took their place under one."""

    def wrote(self, device: str, content: bytes, *before: bytes) -> None:
        """A program that was shown what was `before` was told that a file of a device has this content now."""
        self.known.add(content)
        self.wrote_over(content, *before)
        if content:
            self._written[content] = device
            self._volatile[content] = device

    def cut(self, device: str, content: bytes, before: bytes) -> None:
        """A program that was shown what was `before` has given a file another size, and has this of it now."""
        if content in self.known and content != before:
            self._often.add(content)
        self.wrote(device, content, before)

    def wrote_over(self, content: bytes, *before: bytes) -> None:
        """Who wrote a content had been shown these in its place."""
        self._before.setdefault(content, set()).update(before)

    def is_by(self, device: str, content: bytes) -> bool:
        """Whether a program on this device wrote a content, as far as that was not lost."""
        return self._written.get(content) == device

    def stays(self, content: bytes, later: bytes) -> None:
        """A program that put another file in the place of this content was shown it under another name after that."""
        self._stays.setdefault(content, set()).add(later)

    def led_to(self, earlier: bytes, later: bytes, *, gone: bool = False) -> bool:
        """Whether who wrote the later content knew of the earlier one, over however many others.

        With `gone`: and left it under no other name.
        """
        seen: set[bytes] = {b"", *self._often}
        waiting = [] if {earlier, later} & self._often else [later]
        while waiting:
            content = waiting.pop()
            for before in self._before.get(content, set()) - seen:
                if before == earlier and gone and content in self._stays.get(earlier, set()):
                    continue
                if before == earlier:
                    return True
                seen.add(before)
                waiting.append(before)
        return False

    def read(self, content: bytes) -> None:
        """A program was shown this: no more and no less than what some program wrote."""
        assert content in self.known, f"a program reads {content[:60]!r}, which no program wrote"

    def gave_up(self, content: bytes) -> None:
        """A program that was shown this content wrote over it, or removed it."""
        self.given_up.add(content)
        self._stays.pop(content, None)

    @contextmanager
    def giving_up(self, content: bytes) -> Iterator[None]:
        """A call that is to take this content away: what it is refused stays."""
        is_first = content not in self.given_up
        self.gave_up(content)
        try:
            yield
        except Exception:
            if is_first:
                self.given_up.discard(content)
            raise

    def synced(self, device: str, before: set[bytes]) -> None:
        """What a device had written before is durable."""
        for content in before:
            if self._volatile.get(content) == device:
                del self._volatile[content]

    def volatile(self, device: str) -> set[bytes]:
        """What a barrier that begins now has to cover."""
        return {content for content, owner in self._volatile.items() if owner == device}

    def lost_power(self, device: str) -> None:
        """What was not synced may be gone."""
        for content in self.volatile(device):
            del self._volatile[content]
            del self._written[content]

    def written_by(self, device: str) -> set[bytes]:
        """What a device has to keep now."""
        return {content for content, owner in self._written.items() if owner == device}

    def went_back(self, device: str, kept: set[bytes]) -> None:
        """A device has no more than it had when these were all that it had written."""
        for content in self.written_by(device) - kept:
            del self._written[content]
            self._volatile.pop(content, None)

    def owed(self) -> set[bytes]:
        """What has to be somewhere."""
        return set(self._written) - self.given_up

"""Opens the places where blocks lie, as they are configured: the data directory's own, a cold one, a mirror.

Owns how they are put together, and the marks that tell the cold place and the mirror from a directory on which they are
not mounted, and from those of another data directory: the one has what is nowhere else, and what is not in the other
lies on one disk only. Where there is a mirror, it has all objects, whether or not they rest.
"""

import errno
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.blockstore import errors
from backend.blockstore.local import LocalStore
from backend.blockstore.replicated import Place, ReplicatedStore
from backend.blockstore.store import ObjectStore
from backend.blockstore.tiered import TieredStore

log = logging.getLogger(__name__)

BLOCKS_NAME = "blocks"
MARK_NAME = "drivefs-cold"
MIRROR_MARK_NAME = "drivefs-mirror"
MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Places:
    """The directories; `needs_both` says whether uploads wait while the mirror is not there."""

    data: Path
    cold: Path | None = None
    mirror: Path | None = None
    needs_both: bool = True


def open_places(places: Places, random_bytes: Callable[[int], bytes]) -> ObjectStore:
    """One store over all of them.

    Raises:
        PlaceUnusable: one of them is not there, or cannot be written; nothing was changed.
    """
    _require_apart(places)
    own = LocalStore(places.data / BLOCKS_NAME, leaves_room=True)
    own.prepare()
    first = _with_cold(own, places, random_bytes)
    if places.mirror is None:
        return first
    mirror = Mirror(places.mirror, places.data / MIRROR_MARK_NAME, random_bytes)
    try:
        mirror.take()
        mirror.require()
    except OSError as error:
        if places.needs_both:
            raise errors.PlaceUnusable(
                f"The mirror {places.mirror} cannot be used: {error.strerror}. If it is lost for good, remove "
                f"{mirror.remembered}: what is there then becomes the mirror, and all blocks are copied to it."
            ) from error
        log.warning("the mirror %s cannot be used (%s); blocks are copied when it can", places.mirror, error)
    return ReplicatedStore(first, mirror.store, needs_both=places.needs_both, require_second=mirror.require)


class Mirror:
    """The second place of all blocks; `remembered` has the word that its mark has to have."""

    def __init__(self, root: Path, remembered: Path, random_bytes: Callable[[int], bytes]) -> None:
        self.store = LocalStore(root / BLOCKS_NAME)
        self.remembered = remembered
        self._mark = root / MIRROR_MARK_NAME
        self._random_bytes = random_bytes
        self._is_prepared = False

    def take(self) -> None:
        """Make it this data directory's, if that has none yet.

        Raises:
            OSError: it is out of reach.
            PlaceUnusable: it is that of another data directory.
        """
        if not self.remembered.exists():
            _take(self._mark, self.remembered, self._random_bytes)

    def require(self) -> None:
        """See that it is there, and take it if it is so for the first time.

        Raises:
            OSError: it is out of reach, or that of another data directory.
        """
        try:
            self.take()
        except errors.PlaceUnusable as error:
            raise OSError(errno.EBUSY, str(error)) from error
        if not _is_there(self._mark, self.remembered):
            raise OSError(errno.ENODEV, "The mirror that was used before is not at its place")
        if not self._is_prepared:
            self.store.prepare()
            self._is_prepared = True


def _require_apart(places: Places) -> None:
    """Where two of them were one directory, what is moved from the one to the other would be deleted there.

    Raises:
        PlaceUnusable: two are.
    """
    named = {"the data directory": places.data, "cold": places.cold, "mirror": places.mirror}
    for (name, place), (other, another) in itertools.combinations(named.items(), 2):
        if place is not None and another is not None and _is_same(place, another):
            raise errors.PlaceUnusable(
                f"{name[0].upper()}{name[1:]} and {other} are one directory, {another}: set {other} to another one. "
                "Nothing was changed."
            )


def _is_same(place: Path, another: Path) -> bool:
    try:
        return place.samefile(another)
    except OSError:
        return place.absolute() == another.absolute()


def tier_of(store: ObjectStore) -> TieredStore | None:
    """The part of a store that moves objects between a hot and a cold place; None: there is one place only."""
    if isinstance(store, ReplicatedStore):
        store = store.first
    return store if isinstance(store, TieredStore) else None


def _with_cold(own: LocalStore, places: Places, random_bytes: Callable[[int], bytes]) -> Place:
    remembered = places.data / MARK_NAME
    if places.cold is None:
        if remembered.exists():
            raise errors.PlaceUnusable(
                "Some blocks of this data directory rest in a cold store, and none is set. Set cold to its directory. "
                f"If it is lost for good, remove {remembered}: devices are then asked for what it had."
            )
        return own
    mark = places.cold / MARK_NAME
    try:
        if not remembered.exists():
            _take(mark, remembered, random_bytes)
        cold = LocalStore(places.cold / BLOCKS_NAME)
        if not _is_there(mark, remembered):
            raise errors.PlaceUnusable(
                f"The cold store that this data directory has used is not at {places.cold}: mount it, or set cold to "
                f"where it is. If it is lost for good, remove {remembered}."
            )
        cold.prepare()
    except OSError as error:
        raise errors.PlaceUnusable(f"The cold store {places.cold} cannot be used: {error.strerror}.") from error
    return TieredStore(own, cold, lambda: _is_there(mark, remembered))


def _take(mark: Path, remembered: Path, random_bytes: Callable[[int], bytes]) -> None:
    """Make a place this data directory's; its own word is there first, so the next try knows what a crash left."""
    begun = remembered.with_name(f"{remembered.name}.begun")
    word = begun.read_text() if begun.exists() else ""
    known = mark.read_text() if mark.exists() else ""
    if known and known != word:
        raise errors.PlaceUnusable(
            f"{mark.parent} is that of another data directory, whose server does not start without it. "
            f"Nothing was changed. Set another directory; if that data is lost for good, remove {mark}."
        )
    if not known:
        word = random_bytes(MARK_BYTES).hex()
        begun.write_text(word)
        mark.write_text(word)
    begun.rename(remembered)


def _is_there(mark: Path, remembered: Path) -> bool:
    try:
        return mark.read_text() == remembered.read_text()
    except OSError:
        return False

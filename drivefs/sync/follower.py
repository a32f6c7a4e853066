"""Applies what happened on the backend: pages of the change feed, this device's own commits among them.

Owns the order of steps: a page and its cursor are one transaction of the replica; then the overlay gives up what the
replica now has, the caches in front forget what changed, and at last the kernel is told of what differs from what it
was shown. Invariants: the cursor never moves without the page it belongs to; a page that does not begin at the cursor
is not applied, but asked for once more, and then the replica begins again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import trio

from cache.journal import Forgotten
from cache.overlay import MISSING, Missing
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.messages import ChangesRequest, FeedPage, FeedStatus, WorkspaceCursor
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync import seen
from drivefs.sync.announcer import Announcer, Before
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.happenings import NameChange
from drivefs.sync.notices import Notices
from drivefs.sync.overtaken import Overtaken
from drivefs.sync.parting import Parting
from drivefs.sync.presence import Presence
from drivefs.sync.quiet import Quiet
from drivefs.sync.sharing import Sharing

log = logging.getLogger(__name__)

POLL_SECONDS = 50.0
PAGE_CHANGES = 1000
MOST_GAPS = 1
"""How often in a row a page that does not fit is asked for again."""
LET_GO_MUTATIONS = 32
LET_GO_PAUSE_SECONDS = 0.005
LET_GO_WAIT_SECONDS = 0.1
"""So long a step waits for a pause of the programs."""
LET_GO_PATIENCE_SECONDS = 5.0
"""After so long it goes on whether they pause or not: what is in the replica would pile up in the overlay."""


@dataclass(slots=True)
class _Difference:
    """What changes of what is shown here; `alike` are states that are newer and look the same."""

    attributes: list[InodeId] = field(default_factory=list)
    contents: list[InodeId] = field(default_factory=list)
    names: list[NameChange] = field(default_factory=list)
    alike: list[InodeState] = field(default_factory=list)
    came: list[InodeId] = field(default_factory=list)
    """What the replica did not have: nobody knew it, or it was removed and is back."""
    states: list[tuple[InodeState, InodeState]] = field(default_factory=list)

    def add_state(self, before: InodeState, after: InodeState | None, *, is_listed_anew: bool = False) -> None:
        """An inode was shown as `before` and is now as `after`; None: it is gone, or nothing is known of it.

        With `is_listed_anew` the numbers of their revisions may be of two histories.
        """
        if after is None:
            # A removed inode was shown as removed already, or its names are told.
            self.attributes.append(before.inode)
        elif _looks_same(before, after) and before.blocks == after.blocks:
            self.alike.append(after)
        else:
            is_file = after.kind is InodeKind.FILE
            if before.revision == after.revision and not (is_listed_anew and is_file):
                self.attributes.append(after.inode)
            else:
                self.contents.append(after.inode)
            self.states.append((before, after))


class Polled(NamedTuple):
    """What came of one poll: whether the cursor has moved, and how long the server asks to wait before the next."""

    has_moved: bool
    retry_seconds: float
    has_more: bool = False
    """Whether the server had more to tell than one reply takes."""
    lost: FeedPage | None = None
    """What says why the feed cannot go on from the cursor, if it cannot."""


class Follower:
    """Keeps the replica of one workspace up with the backend."""

    def __init__(self, ends: Ends, shown: Shown, announcer: Announcer) -> None:
        self._local = ends.local
        self._remote = ends.remote
        self._workspace = ends.workspace
        self._views = shown.views
        self._invalidator = shown.invalidator
        self._announcer = announcer
        self.coming: Callable[[FeedPage], None] = lambda page: None
        """Hears of each page before it is applied."""
        self.moved: Callable[[], None] = lambda: None
        """Hears that others, or this device, changed something."""
        self.presence: Presence | None = None
        """Hears what others are sending, and says what is pending; None: nobody wants to know."""
        self.notices: Notices | None = None
        """Hears that people may have to be told of something."""
        self.quiet = Quiet(lambda: 0)
        self._hides = False
        """Whether the overlay shows something else than what a page brought."""
        self._pause = trio.CancelScope()
        self._overtaken = Overtaken(ends.local)
        self.sharing = Sharing(ends.local, shown)
        self.parting = Parting(ends.local, shown)
        self._gap_count = 0
        ends.local.journal.uncovered = self.uncovered

    async def poll(self, wait_seconds: float = POLL_SECONDS, *, is_anew: bool = False) -> Polled:
        """Ask once for changes, waiting for some if there are none; with `is_anew` over a new connection.

        Cancellation leaves the cursor where it was.

        Raises:
            RemoteError: no answer, or none that can be believed.
        """
        cursor = self._local.replica.cursor(self._workspace)
        if cursor is None:
            raise RuntimeError("a workspace is followed only after its first session")
        presence = self.presence
        known = presence.incoming.stamp if presence is not None else 0
        request = ChangesRequest(
            cursors=[
                WorkspaceCursor(
                    workspace=self._workspace, cursor=cursor, seen=seen.beyond(self._local, cursor), uploads=known
                )
            ],
            wait_seconds=wait_seconds,
            limit=PAGE_CHANGES,
            pending=presence.pending() if presence is not None else None,
            notified=self.notices.heard if self.notices is not None else None,
        )
        reply = await self._remote.changes(request, is_anew=is_anew)
        if reply.pages:
            self.moved()
        if self.notices is not None and (reply.pages or reply.notified):
            self.notices.moved(reply.notified)
        lost = None
        for page in reply.pages:
            lost = self._take(page) or lost
        for told in reply.uploads:
            if presence is not None and told.workspace == self._workspace:
                presence.incoming.heard(told)
        has_more = any(page.more for page in reply.pages)
        return Polled(bool(reply.pages), reply.retry_seconds, has_more, lost)

    def _take(self, page: FeedPage) -> FeedPage | None:
        """Apply a page; gives what says that the feed cannot go on, if it cannot."""
        if page.status is not FeedStatus.CHANGES:
            return page
        cursor = self._local.replica.cursor(self._workspace)
        if cursor is not None and page.since != cursor.seq:
            self._gap_count += 1
            log.warning("the feed goes on from commit %d, and this device is at %d", page.since, cursor.seq)
            expired = msgspec.structs.replace(page, status=FeedStatus.EXPIRED)
            return expired if self._gap_count > MOST_GAPS else None
        self._gap_count = 0
        self.apply(page)
        return None

    def apply(self, page: FeedPage) -> None:
        """Apply one page and tell everyone whom it concerns."""
        if page.shares is not None:
            self.sharing.told(page.shares)
        self.sharing.named(page)
        # Only now: of what was forgotten just here, a state that is as it was is news as well.
        difference = self._compare(page)
        before = self._announcer.before(difference.names)
        self.coming(page)
        parted = self.parting.came(page.inodes)
        moved = self._overtaken.moved_by(page)
        self._local.replica.apply_page(page)
        if moved:
            given_way = self._overtaken.give_way(moved, page.cursor.seq)
            difference.names += self._uncovered(Forgotten([], given_way, False)).names
        self._tell(difference, before)
        for directory, name in parted:
            self._invalidator.entry(directory, name)

    async def let_go(self) -> None:
        """Drop from the overlay what the replica has durably taken over; cancellation leaves the rest for later.

        Nobody waits for it, so it goes in small steps, in pauses of those whose system calls do wait: beside it a scan
        of a directory took a third longer.
        """
        replica = self._local.replica
        await replica.sync()
        # What hides something from here on is synced the next time, and let go of at once then too.
        hides, self._hides = self._hides, False
        more, patience = True, trio.current_time() + LET_GO_PATIENCE_SECONDS
        while more:
            if not (hides or self._hides) and trio.current_time() < patience:
                with trio.CancelScope() as self._pause:
                    await self.quiet.wait(LET_GO_WAIT_SECONDS)
            forgotten = self._local.journal.forget(replica.synced_seq(self._workspace), LET_GO_MUTATIONS)
            self._tell(self._uncovered(forgotten), Before())
            more = forgotten.more
            await trio.sleep(LET_GO_PAUSE_SECONDS if more else 0.0)

    def uncovered(self, forgotten: Forgotten) -> None:
        """Changes were taken back, so that the replica shows where they were: tell where that is something else.

        Pages that came meanwhile were not told, since the overlay had its own. The times of a directory stay as they
        were shown: what was made in it and is gone again has moved them.
        """
        replica, found = self._local.replica, _Difference()
        for before in forgotten.inodes:
            after = replica.inode(before.inode)
            if after is not None:
                shown = self._views.cached(before.inode) or before
                if after.kind is InodeKind.DIRECTORY:
                    shown = msgspec.structs.replace(shown, mtime_ns=after.mtime_ns, ctime_ns=after.ctime_ns)
                if not _looks_same(shown, after):
                    found.add_state(shown, after)
        for dentry in forgotten.names:
            known = replica.dentry(dentry.parent, dentry.name)
            led = self._views.leads_to(dentry.parent, dentry.name)
            if led is not None and not isinstance(known, Missing) and (known or NO_INODE) != led:
                found.names.append(NameChange(dentry.parent, dentry.name, led, _leads_to(known)))
        if found.names or found.attributes or found.contents:
            self._tell(found, self._announcer.before(found.names))

    def relisted(self, directory: InodeId) -> None:
        """A directory was listed again after all was set aside, or is not there any more: tell what is different.

        `replica.earlier` has what was shown.
        """
        replica, overlay = self._local.replica, self._local.journal.overlay
        assert replica.earlier is not None, "it was set aside"
        before = dict(replica.earlier.shown_names(directory))
        after = dict(replica.names(directory)) if replica.is_complete(directory) else {}
        found = _Difference()
        for name in before.keys() | after.keys():
            led, leads = before.get(name, NO_INODE), after.get(name, NO_INODE)
            if led != leads and overlay.dentry(directory, name) is MISSING:
                found.names.append(NameChange(directory, name, led, leads))
        inodes = list({directory, *before.values(), *after.values()})
        now = {state.inode: state for state in replica.inodes(inodes)}
        own = {state.inode for state in overlay.inodes(inodes)}
        for inode in inodes:
            if inode not in own and (was := replica.earlier.inode(inode)) is not None:
                found.add_state(was, now.get(inode), is_listed_anew=True)
        self._tell(found, Before())

    def _compare(self, page: FeedPage) -> _Difference:
        """Find what the page changes of what this device shows: where the overlay has something, it stays."""
        replica, overlay = self._local.replica, self._local.journal.overlay
        own = {state.inode: state for state in overlay.inodes([state.inode for state in page.inodes])}
        found = _Difference()
        for state in page.inodes:
            if (shown := own.get(state.inode)) is not None:
                if state.kind is InodeKind.DIRECTORY:
                    # What is made in it here moves these all the time.
                    moving = {"mtime_ns": state.mtime_ns, "ctime_ns": state.ctime_ns, "nlink": state.nlink}
                    shown = msgspec.structs.replace(shown, **moving)
                self._hide(_looks_same(shown, state))
                continue
            if (before := replica.inode(state.inode)) is not None:
                found.add_state(before, state)
            else:
                found.came.append(state.inode)
        for dentry in page.dentries:
            if (leads := overlay.dentry(dentry.parent, dentry.name)) is not MISSING:
                self._hide((leads or NO_INODE) == dentry.inode)
                continue
            known = replica.dentry(dentry.parent, dentry.name)
            if known is MISSING or (known or NO_INODE) != dentry.inode:
                found.names.append(NameChange(dentry.parent, dentry.name, _leads_to(known), dentry.inode))
        return found

    def _hide(self, is_alike: bool) -> None:
        """Something of a page does not show yet: unless it looks alike, the overlay lets go of what it can at once."""
        if not is_alike:
            self._hides = True
            self._pause.cancel()

    def _uncovered(self, forgotten: Forgotten) -> _Difference:
        """Find where the replica, now that it shows, differs from what the overlay showed until now."""
        replica, found = self._local.replica, _Difference()
        after = {state.inode: state for state in replica.inodes([state.inode for state in forgotten.inodes])}
        for before in forgotten.inodes:
            found.add_state(before, after.get(before.inode))
        for dentry in forgotten.names:
            known = replica.dentry(dentry.parent, dentry.name)
            if known is MISSING or (known or NO_INODE) != dentry.inode:
                found.names.append(NameChange(dentry.parent, dentry.name, dentry.inode, _leads_to(known)))
        return found

    def _tell(self, difference: _Difference, before: Before) -> None:
        names = [(change.parent, change.name) for change in difference.names]
        # What came back may still be open as it was when it was removed.
        back = set(difference.came).intersection(self._views.open_inodes()) if difference.came else ()
        changed = [*difference.attributes, *difference.contents, *difference.came]
        self._views.forget_cached(changed, names)
        self._views.replaced(difference.alike)
        for inode in difference.attributes:
            self._invalidator.inode(inode, content=False)
        for inode in (*difference.contents, *back):
            self._invalidator.inode(inode, content=True)
        for parent, name in names:
            self._invalidator.entry(parent, name)
        self._announcer.elsewhere(before, difference.names, difference.states)


def _leads_to(known: InodeId | Missing | None) -> InodeId:
    return NO_INODE if known is None or isinstance(known, Missing) else known


def _looks_same(before: InodeState, after: InodeState) -> bool:
    """Whether nothing that a system call could show has changed."""
    return (
        before.size == after.size
        and before.mtime_ns == after.mtime_ns
        and before.ctime_ns == after.ctime_ns
        and before.revision == after.revision
        and before.mode == after.mode
        and before.nlink == after.nlink
        and (before.uid, before.gid) == (after.uid, after.gid)
        and before.xattrs == after.xattrs
    )

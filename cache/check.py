"""The local fsck: every invariant of what a device keeps, checked while nobody has it open. Changes nothing.

Owns the list of invariants of the journal, staging and the replica, each a method that adds findings. What recovery
would mend at the next mount is a finding too: after an orderly close there is none.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cache import workspace
from cache.aliases import read_aliases
from cache.database import Database
from cache.drafts import PLACE_BITS, DraftRow
from cache.effects import entries, outcome, renamed, subjects
from cache.errors import CacheError, Corrupt, Misfit, ReplicaCorrupt
from cache.findings import Finding, Severity
from cache.foreign import find_foreign
from cache.journal import OP_STRIDE
from cache.overlay import Overlay
from cache.rescue import find_gaps, look_at_log
from cache.salvage import finish_salvage
from cache.schema import JOURNAL_VERSION, REPLICA_VERSION
from cache.staging import StagedRange, number_of, read_range
from cache.structure import JOURNAL_STRUCTURE, REPLICA_STRUCTURE, Structure, refuse_other
from cache.verification import LAST_FILE, bad_rows, pages, record_bytes, records_of
from cache.versions import refuse_newer
from cache.workspace import held_lock, least_log, next_transactions, opened_since, redo_path, refuse_lost
from drivefs.protocol import wire
from drivefs.protocol.changes import Mutation, Store
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import ID_RANGE_LENGTH, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState

CACHE_KIBIBYTES = 4096

MOUNT = "Mount the drive: recovery deals with it and says what it did"
CHECK_DISK = "Check the disk, then mount the drive: recovery saves what can be saved"
CLEAR = "`drivefs check --repair` removes it: everything in it is fetched again"
REPAIR = "Check the disk and keep a copy of the state directory, then `drivefs check --repair`"
REPORT = "This should not happen: please report it, with a copy of the state directory"


def check(state_dir: Path, cache_dir: Path) -> list[Finding]:
    """Check the state in two directories; no findings mean that all is well.

    Raises:
        StateInUse: a process has it open.
        NewerState: a newer drivefs wrote it.
    """
    if not os.path.lexists(state_dir):
        return []
    foreign = find_foreign(state_dir, cache_dir)
    if foreign:
        return foreign
    with held_lock(state_dir):
        finish_salvage(state_dir)
        found = Findings()
        check_modes(state_dir, found)
        check_replica(cache_dir, found)
        replica = open_replica(cache_dir, Findings())
        try:
            JournalCheck(state_dir, replica, found).run()
        finally:
            if replica is not None:
                replica.close()
        return found.all


class Findings:
    """What was found so far."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def damage(self, what: str, meaning: str, advice: str = CHECK_DISK) -> None:
        """Bytes that exist only here cannot be trusted."""
        self.all.append(Finding(Severity.DAMAGE, what, meaning, advice))

    def warning(self, what: str, meaning: str, advice: str = MOUNT) -> None:
        """Something is not as it should be; no bytes are lost by it."""
        self.all.append(Finding(Severity.WARNING, what, meaning, advice))

    def broken(self, what: str) -> None:
        """An invariant of the journal does not hold although all rows verify."""
        self.warning(what, "A change may not be uploaded, or may be shown wrongly", REPORT)


def check_modes(state_dir: Path, found: Findings) -> None:
    """Everything is for its owner only; links have no mode of their own."""
    for path in [state_dir, *state_dir.rglob("*")]:
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077:
            found.warning(f"{path} can be read by others", "Other users of this computer may see your files")


def check_replica(cache_dir: Path, found: Findings) -> None:
    """All invariants of the replica."""
    replica = open_replica(cache_dir, found)
    if replica is None:
        return
    try:
        ReplicaCheck(replica, found).run()
    except (CacheError, ProtocolError) as error:
        meaning = "Nothing is lost: it holds what the server has"
        found.warning(f"{cache_dir / 'replica.db'} is damaged: {error}", meaning, CLEAR)
    finally:
        replica.close()


def open_replica(cache_dir: Path, found: Findings) -> Database | None:
    """The replica for reading, or None: it may have been deleted, or is damaged."""
    path = cache_dir / "replica.db"
    if not path.exists():
        return None
    try:
        refuse_newer(path, REPLICA_VERSION)
        replica = Database(path, cache_kibibytes=CACHE_KIBIBYTES, corrupt=ReplicaCorrupt, is_for_reading=True)
        if replica.row("PRAGMA user_version") != (REPLICA_VERSION,):
            replica.close()
            return None  # an older one: the next mount throws it away
        if is_sound(replica, REPLICA_STRUCTURE):
            return replica
        replica.close()
    except CacheError:
        pass
    found.warning(f"{path} is damaged", "Nothing is lost: it holds what the server has", CLEAR)
    return None


def is_sound(database: Database, structure: Structure) -> bool:
    """Whether SQLite finds the database whole, and it is what we made."""
    try:
        refuse_other(database, structure)
        return database.rows("PRAGMA integrity_check(1)") == [("ok",)]
    except CacheError:
        return False


class JournalCheck:
    """All invariants of the journal and of staging."""

    def __init__(self, state_dir: Path, replica: Database | None, found: Findings) -> None:
        self._path = state_dir / "journal.db"
        self._staging = state_dir / "staging"
        self._replica = replica
        self._found = found

    def run(self) -> None:
        """Check them; a journal that cannot be read is one finding."""
        refuse_newer(self._path, JOURNAL_VERSION)
        lost_by = "Changes that were not uploaded are in it"
        try:
            refuse_lost(self._path)
            if not self._path.exists():
                return  # this state was never mounted
            if find_gaps(self._path, workspace.boot_id()).rot is not None:
                self._found.damage(f"The log of {self._path} has rotted", lost_by)
                return
            self._log = look_at_log(self._path)
            self._database = Database(self._path, cache_kibibytes=CACHE_KIBIBYTES, is_for_reading=True)
        except CacheError as error:
            self._found.damage(str(error).rstrip("."), lost_by, REPAIR)
            return
        try:
            self._run()
        except Corrupt as error:
            # SQLite finds it whole, and then not what it needs in it.
            self._found.damage(str(error).rstrip("."), lost_by, REPAIR)
        finally:
            self._database.close()

    def _run(self) -> None:
        if not is_sound(self._database, JOURNAL_STRUCTURE):
            self._found.damage(f"{self._path} is damaged", "Changes that were not uploaded are in it", REPAIR)
            return
        if opened_since(self._database) is not None and self._log.is_lost(least_log(self._database)):
            what = f"The log of {self._path} is not the one that was written, or a part of it is gone"
            self._found.damage(what, "The last changes before the mount ended were in it")
        if accepted := next_transactions(self._database):
            # As the next start does; closing takes it back.
            self._database.rows("PRAGMA query_only = 0")
            self._database.begin()
            try:
                self._database.run_again(accepted)
            except Misfit:
                self._found.damage(f"{redo_path(self._path)} does not fit the journal", "The last changes are in it")
        if bad := list(bad_rows(self._database)):
            for row in bad:
                what = f"A row of {row.table} in the journal ({row.key}) does not match its checksum"
                self._found.damage(what, "That change cannot be trusted")
            return
        self._overlay = Overlay(self._database)
        self._check_mutations()
        self._check_inodes()
        self._check_entries()
        self._check_drafts()
        self._check_records()
        self._check_staging()
        self._check_counters()

    def _mutations(self) -> Iterator[tuple[Mutation, int]]:
        aliases = read_aliases(self._database)
        for _n, state, body in pages(self._database, "mutations", "n, state, body", (0,)):
            mutation = wire.decode_mutation(body)
            yield renamed(mutation, aliases) if state in (0, 3, 4) else mutation, state

    def _check_mutations(self) -> None:
        """Columns say what the body says; each name that is still to be changed is in the overlay.

        Predecessors come before, but for the first store of a file: it is sent with the file's creation.
        """
        for mutation, state in self._mutations():
            n = mutation.n
            columns = self._database.row("SELECT n, inode, other FROM mutations WHERE n = ?", (n,))
            if columns != (n, *subjects(mutation)):
                self._found.broken(f"Mutation {n} stands in a row that is not its own")
            if any(before >= n and not self._is_early_store(before, n) for before in mutation.after):
                self._found.broken(f"Mutation {n} waits for one that comes later")
            if state == 3:
                continue
            for parent, name in entries(mutation):
                row = self._database.row("SELECT op FROM dentries WHERE parent = ? AND name = ?", (parent, name))
                if row is None and state in (1, 2):
                    # What was refused behind it, or has overtaken it, has left this name to the replica.
                    continue
                if row is None or row[0] < n:
                    self._found.broken(f"The overlay does not show the entry {name!r} of {parent} that {n} changed")
                elif row[0] == n and (parent, name, self._target(parent, name)) not in outcome(mutation):
                    self._found.broken(f"The overlay shows the entry {name!r} of {parent} otherwise than {n} made it")

    def _is_early_store(self, op: OpNumber, waiting: OpNumber) -> bool:
        """Whether a later op is a store, or is settled and gone, so that an earlier one may wait for it."""
        row = self._database.row("SELECT body FROM mutations WHERE n = ?", (op,))
        return op != waiting and (row is None or isinstance(wire.decode_mutation(row[0]), Store))

    def _target(self, parent: InodeId, name: bytes) -> InodeId:
        row = self._database.row("SELECT inode FROM dentries WHERE parent = ? AND name = ?", (parent, name))
        return InodeId(row[0] if row else -1)

    def _check_inodes(self) -> None:
        """An overlay inode stands for a mutation, a draft or an entry."""
        for (inode,) in self._database.rows(
            "SELECT inode FROM inodes WHERE inode NOT IN (SELECT inode FROM mutations)"
            " AND inode NOT IN (SELECT other FROM mutations WHERE other != 0)"
            " AND inode NOT IN (SELECT inode FROM drafts) AND inode NOT IN (SELECT parent FROM dentries) LIMIT 20"
        ):
            self._found.broken(f"The overlay hides what the server says of inode {inode}, for no change")
        for inode, state in pages(self._database, "inodes", "inode, state", (0,)):
            if wire.decode(state, InodeState).inode != inode:
                self._found.broken(f"The state of inode {inode} is that of another")

    def _check_entries(self) -> None:
        """An overlay entry stands for a mutation and leads to an inode that is known."""
        for parent, name, inode, op in pages(self._database, "dentries", "parent, name, inode, op", (0, b"")):
            if self._database.row("SELECT 1 FROM mutations WHERE n = ?", (op,)) is None:
                self._found.broken(f"The overlay hides the entry {name!r} of {parent}, for no change")
            if inode and not self._is_known(inode):
                self._found.broken(f"The entry {name!r} of {parent} leads to inode {inode}, which is not known")

    def _is_known(self, inode: InodeId) -> bool:
        if self._replica is None or self._overlay.inode(inode) is not None:
            return True
        return self._replica.row("SELECT 1 FROM inodes WHERE inode = ?", (inode,)) is not None

    def _check_drafts(self) -> None:
        """The size that is shown is what the records make of the base."""
        for inode, place, state in pages(self._database, "drafts", "inode, place, state", (0,)):
            draft = wire.decode(state, DraftRow)
            if draft.inode != inode:
                self._found.broken(f"The draft of inode {inode} is that of another")
            size, last = draft.base_size, 0
            for record, _data, _is_good in records_of(self._database, place, with_data=False):
                size = record.file_offset if record.is_truncation else max(size, record.file_offset + record.length)
                last = record.id
            shown = self._overlay.inode(inode)
            if shown is None:
                self._found.broken(f"Inode {inode} has a draft but no state in the overlay")
            elif shown.size != size:
                self._found.broken(f"Inode {inode} is shown with {shown.size} bytes, its draft has {size}")
            # A power cut may have taken bytes of what is on its way: the store has them, its answer ends it.
            if draft.frozen > last and not self._is_pending(draft.frozen_op):
                self._found.broken(f"The draft of inode {inode} has a record on its way that is not there")

    def _is_pending(self, op: OpNumber) -> bool:
        return self._database.row("SELECT 1 FROM mutations WHERE n = ?", (op,)) is not None

    def _check_records(self) -> None:
        """All written bytes are there and are those that were written; each record belongs to a draft."""
        known = set()
        for inode, place in pages(self._database, "drafts", "inode, place", (0,)):
            known.add(place)
            for record, data, is_good in records_of(self._database, place):
                if not is_good or record_bytes(self._place, record, data) is None:
                    what = f"Bytes written to inode {inode} at offset {record.file_offset} do not match their checksum"
                    self._found.damage(what, "They were not uploaded yet, and will not be", CHECK_DISK)
        for (place,) in self._database.rows(f"SELECT DISTINCT (id - 1) >> {PLACE_BITS} FROM records"):
            if place not in known:
                self._found.broken(f"Written bytes (place {place}) belong to no draft")

    def _place(self, staged: StagedRange) -> bytes | None:
        return read_range(self._staging / f"{staged.file:016x}", staged)

    def _check_staging(self) -> None:
        """Each staging file is named by a record, or waits for its removal."""
        named = {row[0] for row in self._database.rows("SELECT file FROM retired")}
        named |= {row[0] for row in self._database.rows("SELECT DISTINCT staging_file FROM records")}
        for path in self._staging.iterdir():
            number = number_of(path)
            if number is None or (number not in named and path.stat().st_size):
                self._found.warning(f"No record names {path}", "Its bytes will be kept in lost+found")

    def _check_counters(self) -> None:
        """No number that is in use will be given out again."""
        for name, query in (
            ("op", f"SELECT max(n) / {OP_STRIDE} FROM mutations"),
            ("draft", "SELECT max(place) FROM drafts"),
            ("file", LAST_FILE),
        ):
            used = self._database.row(query)
            reserved = self._database.row("SELECT reserved FROM counters WHERE name = ?", (name,))
            if used and used[0] and (reserved is None or reserved[0] <= used[0]):
                self._found.broken(f"Numbers of the kind {name!r} would be given out twice")
        for start, following in self._database.rows("SELECT start, next FROM id_ranges"):
            if not start <= following <= start + ID_RANGE_LENGTH:
                self._found.broken(f"The range of inode ids at {start} is used beyond its end")


class ReplicaCheck:
    """All invariants of the replica."""

    def __init__(self, database: Database, found: Findings) -> None:
        self._database = database
        self._found = found

    def run(self) -> None:
        """Check them."""
        for parent, name in self._database.rows(
            "SELECT parent, name FROM dentries WHERE inode != 0 AND inode NOT IN (SELECT inode FROM inodes)"
            " AND parent IN (SELECT directory FROM complete) LIMIT 20"
        ):
            self._wrong(f"The entry {name!r} of {parent} leads to an inode that is not there")
        for parent, name in self._database.rows(
            "SELECT parent, name FROM dentries WHERE inode = 0 AND parent IN (SELECT directory FROM complete) LIMIT 20"
        ):
            self._wrong(f"The entry {name!r} of {parent} is noted as gone in a directory that is complete")
        for (directory,) in self._database.rows(
            "SELECT directory FROM incomplete WHERE directory IN (SELECT directory FROM complete)"
            " OR directory NOT IN (SELECT inode FROM inodes) LIMIT 20"
        ):
            self._wrong(f"Directory {directory} is to be listed, but has been, or is not there")
        for inode, row_state in pages(self._database, "inodes", "inode, state", (0,)):
            state = wire.decode(row_state, InodeState)
            if state.inode != inode or not state.nlink:
                self._wrong(f"The state of inode {inode} is not one that belongs there")
            if state.kind is not InodeKind.DIRECTORY and self._has_entries(inode):
                self._wrong(f"Inode {inode} has entries but is no directory")

    def _has_entries(self, inode: InodeId) -> bool:
        return self._database.row("SELECT 1 FROM dentries WHERE parent = ? LIMIT 1", (inode,)) is not None

    def _wrong(self, what: str) -> None:
        self._found.warning(what, "Nothing is lost: the replica holds what the server has", CLEAR)

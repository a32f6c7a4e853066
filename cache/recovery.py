"""Brings the journal and staging back into a state that keeps all invariants, before anything uses them.

Owns what is done about each kind of damage; finding it is `verification`'s work, rot of the log `rescue`'s. Nothing
here discards bytes: what cannot stay where it is goes to `lost+found` first, durably, and rows that do not verify go to
`quarantine`. All changes of rows are one transaction, everything else may be done twice: a crash at any moment, any
number of times, leads to the same end.

`is_thorough` (after a power cut, or when the disk had failed) also reads back all written bytes.
"""

from collections.abc import Callable, Container, Iterator
from itertools import chain
from pathlib import Path

import msgspec

from cache.database import Database
from cache.drafts import PLACE_BITS, DraftRow, Record
from cache.durable import sync_path
from cache.effects import outcome
from cache.errors import Unusable
from cache.findings import Finding, Severity
from cache.lost import LostAndFound, Piece
from cache.overlay import Overlay
from cache.rescue import unreadable
from cache.sealing import row_digest
from cache.staging import Staging, number_of
from cache.standing import Found, standing
from cache.verification import (
    PLAIN,
    BadRow,
    all_records,
    bad_rows,
    end_of_records,
    pages,
    place_of,
    record_bytes,
    records_of,
)
from drivefs.protocol import wire
from drivefs.protocol.changes import Create, Mutation, Store
from drivefs.protocol.ids import NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState, cut_runs, run_id, unpack_blocks

ReplicaStates = Callable[[InodeId], InodeState | None]
"""What the replica knows of an inode."""

CHECK_DISK = "Check the disk of this device"


class Recovery:
    """One run over a journal that nobody uses yet; `findings` tells what was done."""

    def __init__(
        self, database: Database, staging: Staging, lost: LostAndFound, *, replica: ReplicaStates, is_thorough: bool
    ) -> None:
        self._database = database
        self._staging = staging
        self._replica = replica
        self._overlay = Overlay(database)
        self._lost = lost
        self._is_thorough = is_thorough
        self._bereft: set[InodeId] = set()
        """Inodes one of whose mutations was put aside."""
        self.findings: list[Finding] = []

    def run(self, first: Callable[[], list[Finding]] = list) -> list[Finding]:
        """Do all of it; `first` is called in the same transaction, before rows are looked at.

        Raises:
            Corrupt: the database cannot be read; it is as it was.
        """
        with self._database.transaction():
            self._mend_indexes()
            self.findings += first()
            self._mend_rows()
            self._take_in_strays()
            for place in self._bad_places():
                self._cut_draft(place)
            for inode in self._bereft:
                self._keep_unborn(inode)
            self._drop_needless()
        # Else a power cut could bring records back whose staging files are gone.
        sync_path(self._database.wal_path)
        self._tidy_staging()
        return self.findings

    def run_salvaged(self, is_doubtful: Callable[[int], bool]) -> list[Finding]:
        """For a journal that was made of what was left of another: make again what can be, give up what cannot stay.

        `is_doubtful`: whether records at a place may be lacking. `run` deals with all else at the next opening.
        """
        with self._database.transaction():
            self._mend_rows()
            drafts = self._database.rows("SELECT inode, place FROM drafts ORDER BY inode")
            for inode, place in drafts:
                if is_doubtful(place):
                    self._give_up_draft(inode, place)
                    self._database.write("DELETE FROM drafts WHERE inode = ?", (inode,))
            self._give_up_records({place for _inode, place in drafts})
            for mutation in self._mutations():
                if isinstance(mutation, Create) and self._overlay.inode(mutation.inode) is None:
                    self._rebuild_inode(mutation.inode)
            self._rebuild_entries()
            self._drop_needless()
        return self.findings

    def _give_up_records(self, known: set[int]) -> None:
        """Records whose draft is not known go to `lost+found`."""
        for (place,) in self._database.rows(f"SELECT DISTINCT (id - 1) >> {PLACE_BITS} FROM records"):
            if place in known:
                continue
            first = next(records_of(self._database, place, with_data=False))[0]
            end = end_of_records(place)
            kept = self._lost.keep_pieces(f"draft-{place}", self._good_pieces(place, range(first.id, end)))
            self._database.write("DELETE FROM records WHERE id >= ? AND id < ?", (first.id, end))
            what = f"What was written to a file cannot be put in its place: which file it was is lost (draft {place})"
            self._find(Severity.DAMAGE, what, f"The bytes are in {kept}", "Look into that file and copy what you miss")

    def _find(self, severity: Severity, what: str, meaning: str, advice: str = CHECK_DISK) -> None:
        self.findings.append(Finding(severity, what, meaning, advice))

    def _mend_indexes(self) -> None:
        """Damage of an index costs nothing: it is made again. Other damage is told, and after a power cut refused."""
        sound = [("ok",)]
        if self._database.rows("PRAGMA integrity_check(1)") == sound:
            self._require_indexes()
            return
        self._database.execute_script("REINDEX")
        is_sound = self._database.rows("PRAGMA integrity_check(1)") == sound
        if self._is_thorough and not is_sound:
            raise Unusable(unreadable(self._database.path, "its structure is damaged"))
        if is_sound:
            self._find(Severity.WARNING, "An index of the journal was damaged", "It was made again; nothing is lost")
        else:
            self._require_facts()
            meaning = "What was written and not uploaded may be lacking in part; no damaged byte is given out or sent"
            advice = f"{CHECK_DISK}, unmount, keep a copy of the state directory, then `drivefs check --repair`"
            self._find(Severity.DAMAGE, "The journal's structure is damaged", meaning, advice)

    def _require_facts(self) -> None:
        """What is read once the journal is open can be read: later it would be refused with all this done to it."""
        for (name,) in self._database.rows("SELECT name FROM sqlite_schema WHERE type = 'table'"):
            if name in FACTS:
                self._database.rows(f"SELECT * FROM {name}")

    def _require_indexes(self) -> None:
        """No index has a page that is an empty one of something else: SQLite finds that whole, and cannot use it."""
        indexes = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        for name, table, made in self._database.rows(indexes):
            condition = "".join(made.partition(" WHERE ")[1:])
            self._database.rows(f"SELECT 1 FROM {table} INDEXED BY {name}{condition} LIMIT 1")

    # -- rows --------------------------------------------------------------------------------------------------------

    def _mend_rows(self) -> None:
        bad = list(bad_rows(self._database))
        for row in bad:
            self._quarantine(row)
        if any(row.table == "drafts" for row in bad):
            # The place of a damaged row need not be the one that it had.
            self._give_up_records({place for (place,) in self._database.rows("SELECT place FROM drafts")})
        for row in bad:
            if row.table == "inodes":
                self._rebuild_inode(row.key[0])
        if any(row.table == "dentries" for row in bad):
            self._rebuild_entries()

    def _quarantine(self, row: BadRow) -> None:
        if row.table == "drafts":
            inode, place = row.columns[:2]
            other = self._database.row("SELECT 1 FROM drafts WHERE place = ? AND inode != ?", (place, inode))
            self._give_up_draft(inode, None if other else place)
        if row.table == "mutations":
            subject = self._database.row(
                "SELECT inode FROM mutations WHERE n = ? AND typeof(inode) = 'integer'", row.key
            )
            self._bereft.update(subject or ())
        self._database.write(
            "INSERT INTO quarantine (origin, content) VALUES (?, ?)", (row.table, msgspec.msgpack.encode(row.columns))
        )
        # A key that is text, as none was written, is found by no index.
        for column in ("{}", PLAIN):
            where = " AND ".join(f"{column.format(key)} = ?" for key in KEYS[row.table])
            self._database.write(f"DELETE FROM {row.table} WHERE {where}", row.key)
            if self._database.changed_count():
                break
        severity, meaning = MEANINGS[row.table]
        self._find(severity, f"A row of {row.table} in the journal ({row.key}) did not match its checksum", meaning)

    def _mutations(self) -> Iterator[Mutation]:
        for row in pages(self._database, "mutations", "n, body", (0,)):
            yield wire.decode_mutation(row[1])

    def _rebuild_inode(self, inode: InodeId) -> None:
        """Make the state of a damaged row again, from the inode's creation, or with the size of its draft."""
        for mutation in self._mutations():
            if isinstance(mutation, Create) and self._is_creation(mutation, inode):
                self._overlay.put_inode(state_created(mutation), mutation.n)
        row = self._database.row("SELECT place FROM drafts WHERE inode = ?", (inode,))
        if row is None:
            return
        state = self._overlay.inode(inode) or self._replica(inode)
        if state is None:
            self._give_up_draft(inode, row[0])
            self._database.write("DELETE FROM drafts WHERE inode = ?", (inode,))
            return
        size = self._draft_row(inode).base_size
        for record, _data, _is_good in records_of(self._database, row[0], with_data=False):
            size = size_after(record, size)
        self._overlay.put_inode(msgspec.structs.replace(state, size=size), NO_OP)

    def _take_in_strays(self) -> None:
        """A draft without a state has the one of its creation, or the replica's; else its bytes go to `lost+found`."""
        for (inode,) in self._database.rows("SELECT inode FROM drafts WHERE inode NOT IN (SELECT inode FROM inodes)"):
            what = f"What was written to inode {inode} had lost its file"
            self._find(Severity.NOTE, what, "The content is there, in its file or in lost+found")
            self._rebuild_inode(inode)

    def _rebuild_entries(self) -> None:
        """Make damaged entries again, from all mutations in their order."""
        for mutation in self._mutations():
            for parent, name, inode in outcome(mutation):
                row = self._database.row("SELECT op FROM dentries WHERE parent = ? AND name = ?", (parent, name))
                if row is None or row[0] < mutation.n:
                    self._overlay.put_dentry(parent, name, inode, mutation.n)

    def _drop_needless(self) -> None:
        """Drop overlay rows whose mutation is not there any more."""
        self._database.write("DELETE FROM dentries WHERE op NOT IN (SELECT n FROM mutations)")
        self._database.write(
            "DELETE FROM inodes WHERE inode NOT IN (SELECT inode FROM mutations)"
            " AND inode NOT IN (SELECT other FROM mutations WHERE other != 0)"
            " AND inode NOT IN (SELECT inode FROM drafts) AND inode NOT IN (SELECT parent FROM dentries)"
        )

    # -- drafts ------------------------------------------------------------------------------------------------------

    def _is_good(self, record: Record, data: bytes | None, row_is_good: bool) -> bool:
        if not row_is_good or not self._is_thorough:
            return row_is_good
        return record_bytes(self._staging.peek, record, data) is not None

    def _bad_places(self) -> list[int]:
        """Where records are that are not what was written."""
        found = all_records(self._database, with_data=self._is_thorough)
        return sorted({place_of(each[0]) for each in found if not self._is_good(*each)})

    def _cut_draft(self, place: int) -> None:
        """Keep the records up to the first that is not what was written; what lies behind it goes to `lost+found`."""
        row = self._database.row("SELECT inode FROM drafts WHERE place = ?", (place,))
        if row is None:
            return
        inode = InodeId(row[0])
        draft = self._draft_row(inode)
        size = draft.base_size
        for record, data, is_good in records_of(self._database, place, with_data=self._is_thorough):
            if not self._is_good(record, data, is_good):
                first_bad = record
                break
            size = size_after(record, size)
        else:
            return
        if first_bad.id <= draft.frozen and self._stand_on_store(draft, place):
            return self._cut_draft(place)
        kept = self._keep_behind(inode, place, first_bad)
        self._database.write("DELETE FROM records WHERE id >= ? AND id < ?", (first_bad.id, end_of_records(place)))
        self._shrink_draft(inode, place, size)
        self._drop_bare(draft, place)
        what = f"Bytes written to inode {inode} at offset {first_bad.file_offset} are not on the disk"
        if kept is None:
            meaning = "That write, the last one, was not yet synced or has rotted: it is undone, all before it is there"
            self._find(Severity.WARNING, what, meaning)
        else:
            meaning = f"The file is as it was before that write. What was written after it is in {kept}"
            self._find(Severity.DAMAGE, what, meaning, "Look into that file and copy what you miss")
        return None

    def _drop_bare(self, draft: DraftRow, place: int) -> None:
        """A draft without a record left is what its base is: published, it would be a change that nobody made."""
        is_changed = draft.low_size != draft.base_size or draft.is_over_past or draft.frozen_op
        if is_changed or not draft.base.revision or next(records_of(self._database, place, with_data=False), None):
            return
        self._database.write("DELETE FROM drafts WHERE inode = ?", (draft.inode,))
        self._database.write("DELETE FROM bases WHERE inode = ?", (draft.inode,))

    def _stand_on_store(self, draft: DraftRow, place: int) -> bool:
        """Let what is on its way be the draft's base: its blocks are with the backend, only its records lack bytes.

        To cut the draft instead would cut, or cover with older bytes, what the store then makes of the file. The writes
        whose bytes are here stay over it, for the backend may let the blocks go. False if the store is not there, or
        does not say what all its blocks are.
        """
        row = self._database.row("SELECT body FROM mutations WHERE n = ?", (draft.frozen_op,))
        store = wire.decode_mutation(row[0]) if row else None
        if not isinstance(store, Store):
            return False
        row = self._database.row("SELECT blocks FROM bases WHERE inode = ?", (draft.inode,))
        base = cut_runs(unpack_blocks(row[0])) if row else []
        runs = {run_id(run): run for run in [*base, *store.new_runs]}
        if not runs.keys() >= set(store.runs):
            return False
        blocks = b"".join(runs[run] for run in store.runs)
        self._drop_unfounded(draft, place)
        self._database.write(
            "INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (draft.inode, blocks, row_digest(blocks, draft.inode))
        )
        self._put_draft(place, msgspec.structs.replace(draft, base_size=store.size, low_size=store.size))
        return True

    def _drop_unfounded(self, draft: DraftRow, place: int) -> None:
        """Of what is on its way only such writes stay as show what its store has there."""
        found = [
            Found(record, self._is_good(record, data, row_is_good), row_is_good)
            for record, data, row_is_good in records_of(self._database, place, with_data=self._is_thorough)
            if record.id <= draft.frozen
        ]
        stay = standing(found)
        going = [each.record for each in found if each.record.id not in stay]
        files = {each.record.staged.file for each in found if each.row_is_good and each.record.staged is not None}
        pieces = self._good_pieces(place, {record.id for record in going})
        kept = self._keep_any(f"inode-{draft.inode}-on-its-way-{going[0].id:x}", pieces)
        for record in going:
            self._database.write("DELETE FROM records WHERE id = ?", (record.id,))
        for file in files - self._staged_files():
            self._database.write("INSERT OR IGNORE INTO retired VALUES (?)", (file,))
        if kept is not None:
            what = f"Bytes of inode {draft.inode} that were on their way to the server are not on the disk"
            self._find(Severity.NOTE, what, f"The server has them. What was written there before is in {kept}")

    def _put_draft(self, place: int, draft: DraftRow) -> None:
        state = wire.encode(draft)
        digest = row_digest(state, draft.inode, place)
        self._database.write("UPDATE drafts SET state = ?, digest = ? WHERE inode = ?", (state, digest, draft.inode))

    def _draft_row(self, inode: InodeId) -> DraftRow:
        row = self._database.row("SELECT state FROM drafts WHERE inode = ?", (inode,))
        assert row is not None
        return wire.decode(row[0], DraftRow)

    def _keep_behind(self, inode: InodeId, place: int, first: Record) -> Path | None:
        """Put the good bytes of the records from `first` on into a file; None if there are none."""
        pieces = self._good_pieces(place, range(first.id, end_of_records(place)))
        return self._keep_any(f"inode-{inode}-from-record-{first.id:x}", pieces)

    def _keep_any(self, name: str, pieces: Iterator[Piece]) -> Path | None:
        """Put pieces into a file; None if there are none."""
        begin = next(pieces, None)
        return None if begin is None else self._lost.keep_pieces(name, chain([begin], pieces))

    def _good_pieces(self, place: int, ids: Container[int]) -> Iterator[Piece]:
        for record, data, is_good in records_of(self._database, place):
            if record.id in ids and is_good and not record.is_truncation:
                found = record_bytes(self._staging.peek, record, data)
                if found is not None:
                    yield record.file_offset, found

    def _shrink_draft(self, inode: InodeId, place: int, size: int) -> None:
        self._put_draft(place, msgspec.structs.replace(self._draft_row(inode), size=size))
        shown = self._overlay.inode(inode)
        if shown is not None:
            self._overlay.put_inode(msgspec.structs.replace(shown, size=size), NO_OP)

    def _give_up_draft(self, inode: InodeId, place: object) -> None:
        """The row of a draft is damaged, so its base is not known: its bytes go to `lost+found`."""
        if not isinstance(place, int) or place <= 0:
            return
        first = next(records_of(self._database, place, with_data=False), None)
        kept = self._keep_behind(inode, place, first[0]) if first else None
        self._database.write(
            "DELETE FROM records WHERE id > ? AND id < ?", (end_of_records(place - 1) - 1, end_of_records(place))
        )
        self._database.write("DELETE FROM bases WHERE inode = ?", (inode,))
        if kept is not None:
            what = f"What was written to inode {inode} cannot be put in its place"
            self._find(Severity.DAMAGE, what, f"The bytes are in {kept}", "Look into that file and copy what you miss")

    def _keep_unborn(self, inode: InodeId) -> None:
        """If it was the creation of a file that was put aside, its content would never be uploaded: rescue that."""
        shown = self._overlay.inode(inode)
        row = self._database.row("SELECT place FROM drafts WHERE inode = ?", (inode,))
        if (
            row is None
            or shown is None
            or shown.seq
            or any(self._is_creation(each, inode) for each in self._mutations())
        ):
            return
        self._give_up_draft(inode, row[0])
        self._database.write("DELETE FROM drafts WHERE inode = ?", (inode,))

    def _is_creation(self, mutation: Mutation, inode: InodeId) -> bool:
        return isinstance(mutation, Create) and mutation.inode == inode

    # -- staging -----------------------------------------------------------------------------------------------------

    def _staged_files(self) -> set[int]:
        return {row[0] for row in self._database.rows("SELECT DISTINCT staging_file FROM records")}

    def _tidy_staging(self) -> None:
        """Remove staging files that were retired; those that nothing names go to `lost+found`."""
        retired = {row[0] for row in self._database.rows("SELECT file FROM retired")}
        needed = self._staged_files()
        for path in sorted(self._staging.paths()):
            file = number_of(path)
            if file is None:
                kept = self._lost.take_file(f"foreign-{path.name}", path)
                what = f"{path.name} lay among the staging files, and is none"
                self._find(Severity.NOTE, what, f"It was moved to {kept}", "Keep it elsewhere, or delete it")
                continue
            if file in needed:
                continue
            if file in retired or not path.stat().st_size:
                path.unlink()
                continue
            kept = self._lost.take_file(f"staging-{path.name}", path)
            what = "Written bytes were found that no file of the drive knows of"
            meaning = f"The write they belong to never ended, or was not synced when the power went: they are in {kept}"
            self._find(Severity.NOTE, what, meaning, "Look into that file and copy what you miss, then delete it")
        self._staging.recount()
        self._database.write("DELETE FROM retired")


FACTS = frozenset({"meta", "counters", "id_ranges", "aliases", "pins", "retired"})
"""Small tables without which a journal cannot be opened."""

KEYS: dict[str, tuple[str, ...]] = {
    "inodes": ("inode",),
    "dentries": ("parent", "name"),
    "mutations": ("n",),
    "drafts": ("inode",),
    "bases": ("inode",),
    "id_ranges": ("start",),
}

MEANINGS: dict[str, tuple[Severity, str]] = {
    "inodes": (Severity.WARNING, "The attributes of that inode are again as the server, or its creation, says"),
    "dentries": (Severity.WARNING, "The name was made again from the journal"),
    "mutations": (Severity.DAMAGE, "That one change is put aside and will not be uploaded"),
    "drafts": (Severity.DAMAGE, "The file is as the server has it"),
    "bases": (Severity.NOTE, "It is fetched again from the server"),
    "id_ranges": (Severity.NOTE, "Those ids are not used any more"),
}


def size_after(record: Record, size: int) -> int:
    """The size of a file after a write or a truncation."""
    return record.file_offset if record.is_truncation else max(size, record.file_offset + record.length)


def state_created(mutation: Create) -> InodeState:
    """The state of an inode when it had just been created."""
    return InodeState(
        mutation.inode,
        mutation.kind,
        mutation.mode,
        mutation.uid,
        mutation.gid,
        rdev=mutation.rdev,
        atime_ns=mutation.time_ns,
        mtime_ns=mutation.time_ns,
        ctime_ns=mutation.time_ns,
        nlink=2 if mutation.kind is InodeKind.DIRECTORY else 1,
        target=mutation.target,
        size=len(mutation.target),
    )

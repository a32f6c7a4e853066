"""Copies out of a device's state what exists nowhere else: content, new files, directories and links not yet sent.

Owns the walk and the form of the copy; changes nothing in the state, and asks nothing of the network. What it finds
goes to its path on the drive, below a directory of the user's; a list of all of it, and of the other changes that wait,
lies beside it. Invariant: a file of which bytes are missing (they are on the server, and were never fetched) is named
so, and never passes for the whole.
"""

import errno
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.effects import entries, outcome
from cache.errors import Corrupt
from cache.journal import JournalRow
from cache.workspace import LocalState
from drivefs.protocol.changes import Create, Exchange, Mutation, Rename, SetAttributes, SetXattr
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.draft_files import DraftFiles, Range, Written, finish
from drivefs.sync.places import MAX_DEPTH, Places, Way, path_of

LIST_NAME = "drivefs-export.json"
INCOMPLETE = b".incomplete"
UNPLACED = b"without-a-place"
LOST_AND_FOUND = "lost+found"
PAGE_ROWS = 500
ATTRIBUTES = ("mode", "uid", "gid", "atime_ns", "mtime_ns")
COPIED = (InodeKind.FILE, InodeKind.DIRECTORY, InodeKind.SYMLINK)

Progress = Callable[[int, int], Awaitable[None]]
"""Told how many files, and how many bytes of them, were copied so far."""


@dataclass(slots=True)
class Export:
    """What was copied: `missing` counts files of which some bytes are on the server only, or were damaged here."""

    file_count: int = 0
    size_bytes: int = 0
    missing_count: int = 0
    other_count: int = 0
    change_count: int = 0


class Exporter:
    """Copies what exists nowhere else into `target`, an empty directory outside the drive."""

    def __init__(self, local: LocalState, root: InodeId, target: Path, lost_and_found: Path) -> None:
        self._local = local
        self._root = root
        self._places = Places(local, root)
        self._drafts = DraftFiles(local)
        self._target = target
        self._lost_and_found = lost_and_found
        self._listed: list[dict[str, Any]] = []
        self._last_names: dict[InodeId, tuple[InodeId, bytes]] = {}
        self.done = Export()

    async def run(self, progress: Progress) -> Export:
        """Copy everything; durable on return. Cancellation leaves a part of it.

        Raises:
            OSError: the target cannot be written.
        """
        self._last_names = self._named_last()
        changes = [self._as_change(row.mutation) for row in self._unsettled()]
        for inode in self._wanted():
            await self._copy(inode)
            await progress(self.done.file_count, self.done.size_bytes)
        if self._lost_and_found.is_dir():
            await self._local.offload(self._copy_rescued, self._target / LOST_AND_FOUND)
        self.done.change_count = len(changes)
        await self._local.offload(self._write_list, changes)
        return self.done

    def _unsettled(self) -> Iterator[JournalRow]:
        after = 0
        while rows := self._local.journal.unsettled(PAGE_ROWS, after):
            yield from rows
            after = rows[-1].n

    def _named_last(self) -> dict[InodeId, tuple[InodeId, bytes]]:
        """The last name that each inode got here: nobody else knows it of what was removed before it came back."""
        rows = sorted([*self._local.journal.acknowledged(), *self._unsettled()], key=lambda row: row.n)
        given = (each for row in rows for each in outcome(row.mutation))
        return {inode: (parent, name) for parent, name, inode in given if inode != NO_INODE}

    def _wanted(self) -> list[InodeId]:
        """Inodes that were made here and not sent, in order, and those with content that was not."""
        found = {row.mutation.inode: None for row in self._unsettled() if isinstance(row.mutation, Create)}
        ignored = self._local.journal.ignored.all()
        return list(found | dict.fromkeys(ignored) | dict.fromkeys(self._local.journal.drafts.draft_inodes()))

    def _as_change(self, mutation: Mutation) -> dict[str, Any]:
        """A change that waits, for the list: by the paths that it names, or those of what it is about."""
        found: dict[str, Any] = {"kind": mutation.__struct_config__.tag, "inode": mutation.inode}
        named = [self._path(parent, name) for parent, name in entries(mutation)]
        if not named:
            found["paths"] = [self._path(*name) for name in self._places.names_of(mutation.inode)]
        elif isinstance(mutation, Rename):
            found["path"], found["new_path"] = named
        elif isinstance(mutation, Exchange):
            found["path"], found["other_path"] = named
        else:
            found["path"] = named[0]
        if isinstance(mutation, SetXattr):
            found["attribute"] = os.fsdecode(mutation.name)
        if isinstance(mutation, SetAttributes):
            given = {field: getattr(mutation, field) for field in ATTRIBUTES}
            found |= {field: value for field, value in given.items() if value is not None}
        return found

    def _path(self, parent: InodeId, name: bytes) -> str | None:
        """Where a name is, or was last if its directory is gone here; None if nobody knows."""
        steps = [name]
        while parent != self._root:
            names = self._places.names_of(parent) or self._local.replica.names_of(parent)
            last = names[0] if names else self._last_names.get(parent)
            if last is None or len(steps) > MAX_DEPTH:
                return None
            parent, above = last
            steps.append(above)
        return os.fsdecode(b"/".join(reversed(steps)))

    async def _copy(self, inode: InodeId) -> None:
        """Copy one inode to its path, or beside where it cannot be there: the path is too long, or taken."""
        try:
            state = self._places.state(inode)
            if state is None or not state.nlink or state.kind not in COPIED:
                return
            known = [path_of(way, name) for way, name in self._ways(inode) if way is not None]
            unplaced = os.path.join(UNPLACED, b"inode-%d" % inode)
            try:
                relative = known[0] if known else unplaced
                missing = await self._copy_to(state, relative)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTDIR):
                    raise
                relative = unplaced
                missing = await self._copy_to(state, relative)
        except Corrupt as error:
            self._listed.append({"path": None, "inode": inode, "problem": str(error)})
            self.done.missing_count += 1
            return
        if missing is None:
            return
        if state.kind is InodeKind.FILE:
            self.done.file_count += 1
            self.done.missing_count += bool(missing)
        else:
            self.done.other_count += 1
        listed = {"path": os.fsdecode(relative), "kind": state.kind.name.lower(), "size": state.size}
        others = [os.fsdecode(each) for each in known[1:]]
        self._listed.append({**listed, "other_names": others, "missing": missing})

    def _ways(self, inode: InodeId) -> list[tuple[Way | None, bytes]]:
        return [(self._places.way_to(parent), name) for parent, name in self._places.names_of(inode)]

    async def _copy_to(self, state: InodeState, relative: bytes) -> list[Range] | None:
        """Gives the ranges of a file that are not here; None: the server has it meanwhile."""
        path = os.path.join(os.fsencode(self._target), relative)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if state.kind is InodeKind.DIRECTORY:
            os.makedirs(path, mode=0o700, exist_ok=True)
            return []
        if state.kind is InodeKind.SYMLINK:
            os.symlink(state.target, path)
            return []
        return await self._copy_file(state, path)

    async def _copy_file(self, state: InodeState, path: bytes) -> list[Range] | None:
        draft = self._local.journal.drafts.draft(state.inode)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            written = Written() if draft is None else await self._drafts.write(draft, descriptor)
            await self._local.offload(finish, descriptor, state)
        finally:
            os.close(descriptor)
        self.done.size_bytes += written.size_bytes
        if written.missing.ranges and draft is not None:
            now = self._local.journal.drafts.draft(state.inode)
            if now is None or now.base != draft.base:
                os.unlink(path)
                return None
            os.rename(path, path + INCOMPLETE)
        return written.missing.ranges

    def _copy_rescued(self, rescued: Path) -> None:
        """Copy what was rescued before, as far as it can be read."""
        try:
            shutil.copytree(self._lost_and_found, rescued, symlinks=True)
        except shutil.Error as error:
            for _source, copy, why in error.args[0]:
                path = Path(copy)
                if path.is_file():
                    path.rename(path.with_name(path.name + os.fsdecode(INCOMPLETE)))
                self._listed.append({"path": str(path.relative_to(self._target)), "problem": why})
                self.done.missing_count += 1

    def _write_list(self, changes: list[dict[str, Any]]) -> None:
        text = json.dumps({"files": self._listed, "changes": changes}, indent=2)
        with (self._target / LIST_NAME).open("x", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(self._target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

"""Makes scenes of happenings: what the player has to do, and what it is shown meanwhile.

Owns pure functions, and the bounded list of what waits to be replayed. Every scene is one call on names, or one on the
times of an inode, so that each makes the inotify events that the change would have made if a program here had made it:

| happened | the player | inotify |
| --- | --- | --- |
| file created | open with O_CREAT and O_EXCL, times if it has content, close | CREATE, OPEN, MODIFY, CLOSE_WRITE |
| anything else created | mkdir, symlink, mknod | CREATE |
| content changed | mtime, open for writing, close | MODIFY, OPEN, CLOSE_WRITE |
| attributes changed | both times | ATTRIB |
| renamed | rename | MOVED_FROM, MOVED_TO, MOVE_SELF |
| removed | unlink, rmdir | DELETE, and DELETE_SELF with the last name |
"""

import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from drivefs.fuse.replay_stage import Name, Scene
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

CREATED, CHANGED, RENAMED, REMOVED, ATTRIBUTES = "created", "changed", "renamed", "removed", "attributes"


class Step(Protocol):
    """One name on a way, and the directory that it leads to."""

    @property
    def parent(self) -> InodeId: ...
    @property
    def name(self) -> bytes: ...
    @property
    def inode(self) -> InodeId: ...


Way = Sequence[Step]
"""The way from the root to a directory."""


class Happening(Protocol):
    """What happened to an inode: a kind of the above; where it is now, or was; where a renamed one was; what it took
    the name of."""

    @property
    def kind(self) -> str: ...
    @property
    def inode(self) -> InodeId: ...
    @property
    def name(self) -> Name | None: ...
    @property
    def source(self) -> Name | None: ...
    @property
    def replaced(self) -> InodeId: ...


class Told(Protocol):
    """A happening with the ways to its names, the inode's state, and that of the one it replaced."""

    @property
    def happened(self) -> Happening: ...
    @property
    def way(self) -> Way: ...
    @property
    def source_way(self) -> Way | None: ...
    @property
    def state(self) -> InodeState | None: ...
    @property
    def replaced(self) -> InodeState | None: ...


Present = Callable[[InodeId], InodeState | None]
"""The present state of an inode, None if it is gone."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order for the player, its arguments as it takes them, and the scene for it."""

    call: str
    arguments: tuple[Any, ...]
    scene: Scene


def concerns(told: Told) -> set[InodeId]:
    """The inodes of which a watcher of any would hear of it: directories of its names, and the inodes themselves."""
    happened = told.happened
    names = (happened.name, happened.source)
    return {name[0] for name in names if name is not None} | ({happened.inode, happened.replaced} - {0})


def orders(told: Told, present: Present) -> list[Order]:
    """What the player has to do, in order; nothing if too little is known of it."""
    happened, name = told.happened, told.happened.name
    state = present(happened.inode) or told.state
    if name is None or state is None:
        return []
    if happened.kind == REMOVED:
        return [_remove(told, name, state, present)]
    if happened.kind == RENAMED:
        return [_rename(told, name, state, present)]
    if happened.kind == CREATED:
        return [_create(told, name, state, present)]
    if happened.kind == CHANGED and happened.replaced:
        gone = [] if told.replaced is None else [_remove(told, name, told.replaced, present)]
        return [*gone, _create(told, name, state, present)]
    return [_touch(told, name, state, present)]


def _create(told: Told, name: Name, state: InodeState, present: Present) -> Order:
    scene = Scene(_shown(told.way, present), "create", (name,), made=state)
    scene.names[name] = None
    times = None
    if state.kind is InodeKind.FILE and state.size:
        scene.touches, times = state.inode, (None, state.mtime_ns)
    mode = state.kind | (stat.S_IRWXU if state.kind is InodeKind.DIRECTORY else stat.S_IRUSR | stat.S_IWUSR)
    return Order("create", (_place(told.way, name), name[1], mode, state.target, times), scene)


def _remove(told: Told, name: Name, state: InodeState, present: Present) -> Order:
    scene = Scene(_shown(told.way, present), "remove", (name,))
    scene.names[name] = _as_it_was(state, present)
    return Order("remove", (_place(told.way, name), name[1], state.kind is InodeKind.DIRECTORY), scene)


def _rename(told: Told, name: Name, state: InodeState, present: Present) -> Order:
    source, source_way = told.happened.source, told.source_way
    if source is None or source_way is None:
        return _create(told, name, state, present)
    scene = Scene(_shown(source_way, present) | _shown(told.way, present), "rename", (source, name))
    scene.names[source] = state
    scene.names[name] = None if told.replaced is None else _as_it_was(told.replaced, present)
    places = (_place(source_way, source), source[1], _place(told.way, name), name[1])
    return Order("rename", places, scene)


def _touch(told: Told, name: Name, state: InodeState, present: Present) -> Order:
    scene = Scene(_shown(told.way, present), "", touches=state.inode)
    is_changed = told.happened.kind == CHANGED
    times = (None if is_changed else state.atime_ns, state.mtime_ns)
    return Order("touch", (_place(told.way, name), name[1], state.inode, times, is_changed), scene)


def _place(way: Way, name: Name) -> tuple[list[bytes], int]:
    return [step.name for step in way], name[0]


def _shown(way: Way, present: Present) -> dict[Name, InodeState | None]:
    """The directories on a way, whether they are still there or not."""
    return {
        (step.parent, step.name): present(step.inode)
        or InodeState(inode=step.inode, kind=InodeKind.DIRECTORY, mode=stat.S_IRWXU, nlink=2)
        for step in way
    }


def _as_it_was(state: InodeState, present: Present) -> InodeState:
    """An inode that is about to lose a name: the kernel counts that one off, and is right then."""
    now = present(state.inode)
    if state.kind is InodeKind.DIRECTORY:
        return now or state
    return msgspec.structs.replace(now or state, nlink=(now.nlink if now is not None else 0) + 1)


class Waiting:
    """What waits to be replayed, in order, bounded; a change of a file that waits for one already adds nothing."""

    def __init__(self, capacity: int) -> None:
        self._told: list[Told] = []
        self._last: dict[InodeId, Told] = {}
        self._capacity = capacity
        self.dropped: set[InodeId] = set()
        """Directories in which something happened that did not fit."""

    def __len__(self) -> int:
        return len(self._told)

    def add(self, told: Iterable[Told]) -> None:
        """Queue, as far as there is room."""
        for each in told:
            last = self._last.get(each.happened.inode)
            if last is not None and is_covered(each, last):
                continue
            if len(self._told) >= self._capacity:
                self.drop([each])
                continue
            self._told.append(each)
            self._last[each.happened.inode] = each

    def drop(self, told: Iterable[Told]) -> None:
        """Note of these only where they happened."""
        for each in told:
            self.dropped |= {name[0] for name in (each.happened.name, each.happened.source) if name is not None}

    def take(self, count: int) -> Sequence[Told]:
        """The next ones."""
        taken, self._told = self._told[:count], self._told[count:]
        for each in taken:
            if self._last.get(each.happened.inode) is each:
                del self._last[each.happened.inode]
        return taken


def is_covered(told: Told, last: Told) -> bool:
    """Whether replaying `last`, which waits, will tell all that `told` would: it shows the file as it is then."""
    kind, before = told.happened.kind, last.happened.kind
    if told.happened.name != last.happened.name or told.happened.replaced:
        return False
    if kind == CHANGED:
        return before in (CREATED, CHANGED)
    return kind == ATTRIBUTES and before in (CREATED, CHANGED, ATTRIBUTES)

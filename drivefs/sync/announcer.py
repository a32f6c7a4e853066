"""Tells what happens on the drive: from the file system's mutations what was done here, from the feed what elsewhere.

Owns the translation of differences into events with paths, and into what a replayer of inotify events is given. Decides
nothing about the tree. Invariant: while nobody listens, nothing is found out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drivefs.protocol.changes import Create, Exchange, Link, Mutation, Rename, SetAttributes, SetXattr, Unlink
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync import happenings
from drivefs.sync.events import Event, Events, Kind, Origin
from drivefs.sync.happenings import Happening, Name, NameChange
from drivefs.sync.places import Places, Way, path_of


@dataclass(frozen=True, slots=True)
class Told:
    """A happening with all that is needed to speak of it.

    `way` leads to the directory of its name, `source_way` to that of its source; `state` is the inode's, as it is now
    or, removed, as it was; `replaced` that of the inode that had the name.
    """

    happened: Happening
    way: Way
    source_way: Way | None
    state: InodeState | None
    replaced: InodeState | None


class Replayer(Protocol):
    """Shows programs that watch through the kernel what happened elsewhere."""

    @property
    def wants(self) -> bool:
        """Whether there is any use in telling it."""
        ...

    def replay(self, told: Sequence[Told]) -> None:
        """Queue what happened elsewhere, in order; never waits."""
        ...


@dataclass(slots=True)
class Before:
    """What a change is about to take out of the tree: how to get there, and what it was."""

    ways: dict[InodeId, Way | None] = field(default_factory=dict)
    states: dict[InodeId, InodeState] = field(default_factory=dict)


class Announcer:
    """Speaks of one workspace to those who listen to events, and to a replayer if there is one."""

    def __init__(self, events: Events, places: Places) -> None:
        self._events = events
        self._places = places
        self.replayer: Replayer | None = None

    @property
    def is_heard(self) -> bool:
        """Whether there is any use in finding out what happened."""
        return self._events.are_heard or (self.replayer is not None and self.replayer.wants)

    # -- elsewhere ---------------------------------------------------------------------------------------------------

    def before(self, names: Sequence[NameChange]) -> Before:
        """Note what will have been, just before the databases take over what names lead to now."""
        noted, ways = Before(), self._places.ways()
        if not self.is_heard:
            return noted
        for change in names:
            if change.before:
                noted.ways.setdefault(change.parent, ways.to(change.parent))
                if (state := self._places.state(change.before)) is not None:
                    noted.states[change.before] = state
        return noted

    def elsewhere(
        self, before: Before, names: Sequence[NameChange], states: Sequence[tuple[InodeState, InodeState]]
    ) -> None:
        """Tell what another device did, just after; `states` are those of inodes that were shown, before and after."""
        if not self.is_heard:
            return
        happened = happenings.of_names(names)
        spoken_of = {each.inode for each in happened if each.kind is not Kind.RENAMED}
        for was, now in states:
            kind = happenings.of_state(was, now)
            if kind is not None and now.nlink and now.inode not in spoken_of:
                name = next(iter(self._places.names_of(now.inode)), None)
                happened.append(Happening(kind=kind, inode=now.inode, name=name))
        told = self._resolved(before, happened)
        if self._events.are_heard:
            for each in told:
                self._events.publish(_event(each, Origin.ELSEWHERE))
        if self.replayer is not None and self.replayer.wants:
            self.replayer.replay(told)

    def made_good(self, names: Sequence[NameChange], states: Sequence[tuple[InodeState, InodeState]]) -> None:
        """Tell what became of a change that was refused: what another device did first shows now, and what was done
        here has another name, or is given up."""
        self.elsewhere(self.before(names), names, states)

    def _resolved(self, before: Before, happened: Sequence[Happening]) -> list[Told]:
        ways, found = self._places.ways(), {}

        def way_to(name: Name) -> Way | None:
            now = ways.to(name[0])
            return now if now is not None else before.ways.get(name[0])

        for each in happened:
            if each.name is not None and (way := way_to(each.name)) is not None:
                found[each] = way
        depths = {each.name[0]: len(way) for each, way in found.items() if each.name is not None}
        return [
            Told(
                each,
                found[each],
                way_to(each.source) if each.source else None,
                self._places.state(each.inode) or before.states.get(each.inode),
                before.states.get(each.replaced) if each.replaced else None,
            )
            for each in happenings.in_order(list(found), depths)
        ]

    # -- here --------------------------------------------------------------------------------------------------------

    def mutated(self, mutation: Mutation) -> None:
        """Tell what a program on this mount does, just before the overlay has it."""
        for happened in _of_mutation(mutation):
            self._here(happened, self._is_directory(mutation, happened.inode))

    def written(self, inode: InodeId) -> None:
        """Tell that a program on this mount has written a file and closed it, or made sure of it."""
        self._here(Happening(kind=Kind.CHANGED, inode=inode), False)

    def _here(self, happened: Happening, is_directory: bool) -> None:
        ways = self._places.ways()
        name = happened.name or next(iter(self._places.names_of(happened.inode)), None)
        if name is None or (way := ways.to(name[0])) is None:
            return
        source_way = ways.to(happened.source[0]) if happened.source else None
        self._events.publish(
            Event(
                kind=happened.kind,
                path=path_of(way, name[1]),
                origin=Origin.HERE,
                inode=happened.inode,
                source=path_of(source_way, happened.source[1]) if source_way is not None and happened.source else None,
                is_directory=is_directory,
            )
        )

    def _is_directory(self, mutation: Mutation, inode: InodeId) -> bool:
        if isinstance(mutation, Create):
            return mutation.kind is InodeKind.DIRECTORY
        state = self._places.state(inode)
        return state is not None and state.kind is InodeKind.DIRECTORY


def _event(told: Told, origin: Origin) -> Event:
    happened, source = told.happened, told.happened.source
    return Event(
        kind=happened.kind,
        path=path_of(told.way, happened.name[1] if happened.name else b""),
        origin=origin,
        inode=happened.inode,
        source=path_of(told.source_way, source[1]) if told.source_way is not None and source else None,
        is_directory=told.state is not None and told.state.kind is InodeKind.DIRECTORY,
    )


def _of_mutation(mutation: Mutation) -> list[Happening]:
    """What a mutation of this device does, in the words of events; a store says nothing that was not said."""
    match mutation:
        case Create() | Link():
            return [Happening(kind=Kind.CREATED, inode=mutation.inode, name=(mutation.parent, mutation.name))]
        case Unlink():
            return [Happening(kind=Kind.REMOVED, inode=mutation.inode, name=(mutation.parent, mutation.name))]
        case Rename():
            source, name = (mutation.parent, mutation.name), (mutation.new_parent, mutation.new_name)
            replaced = mutation.replaced
            return [
                Happening(kind=Kind.RENAMED, inode=mutation.inode, name=name, source=source, replaced=replaced),
            ]
        case Exchange():
            first, second = (mutation.parent, mutation.name), (mutation.other_parent, mutation.other_name)
            return [
                Happening(kind=Kind.RENAMED, inode=mutation.inode, name=second, source=first),
                Happening(kind=Kind.RENAMED, inode=mutation.other, name=first, source=second),
            ]
        case SetAttributes() | SetXattr():
            return [Happening(kind=Kind.ATTRIBUTES, inode=mutation.inode)]
        case _:
            return []

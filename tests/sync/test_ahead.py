"""What goes ahead of a burst takes with it all that has to go first, by inodes and names, however much waits."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol.changes import Create, Link, Mutation, Rename, SetAttributes, Store
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync import ahead, planner
from drivefs.sync.ahead import Ahead
from drivefs.sync.guard import Guard
from drivefs.sync.publications import Publications
from tests.cache.states import ROOT, T0, Bench, create, unlink
from tests.support.journals import mark_sent

TAR, EDITOR = 1, 2


async def no_files() -> int:
    return 0


class World:
    """A journal, and who made what is in it."""

    def __init__(self, local: LocalState) -> None:
        self.local, self.journal = local, local.journal
        self.publications = Publications(local.journal.last_op)
        self.guard = Guard(local.journal, no_files, share=0.5, asked=lambda question: None)
        trio.run(self.guard.scan)
        self.ahead = Ahead(local, self.publications, self.guard)

    def made_by(self, process: int, *ops: OpNumber, urgent: bool) -> None:
        for op in ops:
            self.publications._order.made(op, process)
            if urgent:
                self.publications.urgent_ops.add(op)

    def file(self, name: bytes, parent: InodeId = ROOT) -> tuple[InodeId, OpNumber]:
        return create(self.journal, name, parent=parent)

    def directory(self, name: bytes, parent: InodeId = ROOT) -> tuple[InodeId, OpNumber]:
        journal = self.journal
        with journal.transaction():
            inode, n = journal.allocate_inode(), journal.next_op()
            kind = InodeKind.DIRECTORY
            journal.append(Create(n=n, time_ns=T0, inode=inode, parent=parent, name=name, kind=kind, mode=0o755))
            journal.overlay.put_inode(InodeState(inode, kind, 0o755), n)
            journal.overlay.put_dentry(parent, name, inode, n)
        return inode, n

    def add(self, mutation: Mutation) -> OpNumber:
        """Add a mutation under the next number, and nothing of what it shows."""
        n = self.journal.next_op()
        with self.journal.transaction():
            self.journal.append(msgspec.structs.replace(mutation, n=n))
        return n

    def rename(self, inode: InodeId, old: bytes, new: bytes, replaced: InodeId = NO_INODE) -> OpNumber:
        return self.add(
            Rename(
                n=OpNumber(0),
                time_ns=T0,
                parent=ROOT,
                name=old,
                new_parent=ROOT,
                new_name=new,
                inode=inode,
                replaced=replaced,
            )
        )

    def gone_ahead(self) -> list[list[int]]:
        return [[row.n for row in rows] for rows in self.ahead.chains()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bench = Bench(tmp_path)
    yield World(bench.open())
    bench.close_all()


def test_a_save_behind_thousands_of_others_goes_ahead_alone(world: World) -> None:
    edited, first = world.file(b"edited")
    mark_sent(world.journal, [first])
    world.journal.settle(first, 1)  # type: ignore[arg-type]
    with world.journal.transaction():
        burst = [world.file(b"f%d" % number)[1] for number in range(3000)]
    world.made_by(TAR, *burst, urgent=False)
    save = world.add(SetAttributes(n=OpNumber(0), time_ns=T0, inode=edited, mode=0o600))
    world.made_by(EDITOR, save, urgent=True)
    assert world.gone_ahead() == [[save]]


def test_a_file_takes_along_the_new_directories_above_it_and_no_other(world: World) -> None:
    outer, made_outer = world.directory(b"outer")
    inner, made_inner = world.directory(b"inner", outer)
    _, other = world.file(b"other", outer)
    world.made_by(TAR, made_outer, made_inner, other, urgent=False)
    _, made = world.file(b"file", inner)
    world.made_by(EDITOR, made, urgent=True)
    assert world.gone_ahead() == [[made_outer, made_inner, made]]


def test_a_new_file_takes_along_what_made_its_name_free(world: World) -> None:
    old, made_old = world.file(b"name")
    removed = unlink(world.journal, b"name", old)
    _, elsewhere = world.file(b"name", world.directory(b"d")[0])
    moving, made_moving = world.file(b"a")
    moved = world.rename(moving, b"a", b"b")
    world.made_by(TAR, made_old, removed, elsewhere, made_moving, moved, urgent=False)
    world.publications._order.made(OpNumber(elsewhere - 10**6), TAR)
    _, made = world.file(b"name")
    world.made_by(EDITOR, made, urgent=True)
    assert world.gone_ahead() == [[made_old, removed, made]]
    linked = world.add(Link(n=OpNumber(0), time_ns=T0, inode=moving, parent=ROOT, name=b"a"))
    world.made_by(3, linked, urgent=True)
    assert sorted(world.gone_ahead()) == sorted([[made_old, removed, made], [made_moving, moved, linked]])


def test_a_save_by_rename_takes_along_what_was_done_to_what_it_replaces(world: World) -> None:
    old, made_old = world.file(b"name")
    world.made_by(TAR, made_old, urgent=False)
    fresh, made_fresh = world.file(b"temporary")
    saved = world.rename(fresh, b"temporary", b"name", replaced=old)
    world.made_by(EDITOR, made_fresh, saved, urgent=True)
    assert world.gone_ahead() == [[made_old, made_fresh, saved]]


def test_a_new_file_takes_along_its_first_content(world: World) -> None:
    inode, made = create(world.journal, b"file", content=b"x")
    _, later = world.file(b"later")
    store = world.add(Store(n=OpNumber(0), time_ns=T0, inode=inode, base=planner.Base(), size=1, runs=[], mtime_ns=1))
    drafts = world.journal.drafts
    draft = drafts.draft(inode)
    assert draft is not None
    with world.journal.transaction():
        drafts.put_draft(msgspec.structs.replace(draft, frozen=1, frozen_op=store))
    world.made_by(TAR, later, store, urgent=False)
    world.made_by(EDITOR, made, urgent=True)
    assert world.gone_ahead() == [[made, store]]


@pytest.mark.parametrize("what", ["moved", "removed", "dated"])
def test_what_has_to_follow_all_that_was_made_in_a_directory_goes_in_its_turn(world: World, what: str) -> None:
    directory, made = world.directory(b"d")
    _, child = world.file(b"child", directory)
    world.made_by(TAR, made, child, urgent=False)
    if what == "moved":
        op = world.rename(directory, b"d", b"e")
    elif what == "removed":
        op = unlink(world.journal, b"d", directory)
    else:
        op = world.add(SetAttributes(n=OpNumber(0), time_ns=T0, inode=directory, mtime_ns=1))
    _, behind = world.file(b"behind")
    world.made_by(EDITOR, op, behind, urgent=True)
    assert world.gone_ahead() == []
    assert world.publications.urgent_ops == set()


def test_no_removal_goes_ahead_for_its_own_sake(world: World) -> None:
    old, made = world.file(b"old")
    world.made_by(TAR, made, urgent=False)
    removed = unlink(world.journal, b"old", old)
    world.made_by(EDITOR, removed, urgent=True)
    assert world.gone_ahead() == []
    _, later = world.file(b"later")
    world.made_by(EDITOR, later, urgent=True)
    assert world.gone_ahead() == [[made, removed, later]]


def test_what_needs_something_that_is_kept_back_goes_in_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, made = world.file(b"name")
    removed = unlink(world.journal, b"name", old)
    world.made_by(TAR, made, removed, urgent=False)
    _, again = world.file(b"name")
    world.made_by(EDITOR, again, urgent=True)
    monkeypatch.setattr(world.guard, "kept", lambda numbers: {removed})
    assert world.gone_ahead() == []


def test_while_very_much_waits_all_goes_in_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST_WAITING", 3)
    _, made = world.file(b"a")
    world.made_by(EDITOR, made, urgent=True)
    world.file(b"b")
    assert world.gone_ahead() == [[made]]
    world.file(b"c")
    assert world.gone_ahead() == []


class Randomly:
    """Programs that work in few directories, on few names."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance
        self.directories = [ROOT]
        self.names = dict[tuple[InodeId, bytes], InodeId]()

    def step(self) -> OpNumber:
        chance, world = self.chance, self.world
        place = (chance.choice(self.directories), chance.choice([b"a", b"b", b"name"]))
        there = self.names.get(place)
        if there is None and chance.random() < 0.3:
            self.names[place], n = world.directory(place[1], place[0])
            self.directories.append(self.names[place])
        elif there is None:
            self.names[place], n = world.file(place[1], place[0])
        elif there in self.directories:
            n = world.add(SetAttributes(n=OpNumber(0), time_ns=T0, inode=there, mode=0o700))
        elif chance.random() < 0.4:
            n = unlink(world.journal, place[1], there, parent=place[0])
            del self.names[place]
        else:
            n = self._move(place, there)
        return n

    def _move(self, place: tuple[InodeId, bytes], inode: InodeId) -> OpNumber:
        to = (self.chance.choice(self.directories), self.chance.choice([b"a", b"b", b"name"]))
        replaced = self.names.get(to, NO_INODE)
        if to == place or replaced in self.directories:
            return self.world.add(SetAttributes(n=OpNumber(0), time_ns=T0, inode=inode, mode=0o600))
        del self.names[place]
        self.names[to] = inode
        (parent, name), (new_parent, new_name) = place, to
        rename = Rename(
            n=OpNumber(0),
            time_ns=T0,
            parent=parent,
            name=name,
            new_parent=new_parent,
            new_name=new_name,
            inode=inode,
            replaced=replaced,
        )
        return self.world.add(rename)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_waits_nothing_goes_ahead_without_what_it_would_follow_in_its_turn(world: World, seed: int) -> None:
    chance = random.Random(seed)
    programs = Randomly(world, chance)
    with world.journal.transaction():
        for _ in range(60):
            process = chance.randrange(8)
            world.made_by(process, programs.step(), urgent=process < 2)
    journal: Journal = world.journal
    everything = [row.mutation for row in journal.unsettled(1000)]
    terms = planner.Terms(frozen=set(), deferred=set(), most=1000)
    in_turn = {each.n: set(each.after) for each in planner.plan(everything, lambda inode: None, terms).batch}
    assert len(in_turn) == len(everything)
    chains = world.gone_ahead()
    for chain in chains:
        assert chain == sorted(chain)
        assert all(in_turn[OpNumber(n)] <= set(chain) for n in chain)
    assert chains or not world.publications.urgent_ops

"""The stage grants one deed to one process, on names that the kernel asked it for, and promises nothing for later."""

import errno
from typing import cast

import pyfuse3
import pytest
import trio

from drivefs.fs.filesystem import FileSystem
from drivefs.fs.ownership import Owner
from drivefs.fuse.attributes import Translation
from drivefs.fuse.replay_operations import CALLS, StagedOperations
from drivefs.fuse.replay_stage import HANDLE, Scene, Stage
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

ROOT, OLD = InodeId(1000), InodeId(2000)
STATE = InodeState(inode=OLD, kind=InodeKind.FILE, mode=0o644, mtime_ns=1_000)
NAME = (ROOT, b"a")


class NoFiles:
    """A file system in which nothing is known, and that nobody may change."""

    def shown(self, parent: InodeId, name: bytes) -> None:
        return None

    def known(self, inode: InodeId) -> None:
        return None

    def acting(self, process: int) -> None:
        """Who acts is heard."""


@pytest.fixture
def stage() -> Stage:
    return Stage(cast(FileSystem, NoFiles()), Translation(ROOT, Owner(0, 0)))


def refused(number: int) -> "pytest.RaisesContext[pyfuse3.FUSEError]":
    return pytest.raises(pyfuse3.FUSEError, check=lambda error: error.errno == number)


def test_nothing_that_is_said_here_stays_true_for_the_kernel(stage: Stage) -> None:
    stage.scene = Scene({NAME: STATE, (ROOT, b"b"): None}, "remove", (NAME,))
    told = stage.lookup(*NAME)
    assert (told.st_ino, told.entry_timeout, told.attr_timeout) == (OLD, 0.0, 0.0)
    with refused(errno.ENOENT):
        stage.lookup(ROOT, b"b")
    stage.scene = Scene({}, "", touches=OLD)
    with refused(errno.ENOENT):
        stage.touch(OLD)


def test_deed_is_granted_only_on_names_that_were_asked_for(stage: Stage) -> None:
    stage.scene = Scene({NAME: STATE}, "remove", (NAME,))
    with refused(errno.EPERM):
        stage.remove("remove", NAME)
    assert not stage.scene.is_done
    stage.lookup(*NAME)
    with refused(errno.EPERM):
        stage.remove("rename", NAME, NAME)
    with refused(errno.EPERM):
        stage.remove("remove", (ROOT, b"b"))
    stage.remove("remove", NAME)
    assert stage.scene.is_done


def test_nothing_is_granted_between_scenes(stage: Stage) -> None:
    with refused(errno.EPERM):
        stage.remove("remove", NAME)
    with refused(errno.EPERM):
        stage.make("create", *NAME)
    with refused(errno.EPERM):
        stage.open(OLD)


def test_set_times_are_never_those_that_the_next_look_finds(stage: Stage) -> None:
    stage.scene = Scene({NAME: STATE}, "", touches=OLD)
    assert stage.touch(OLD).st_mtime_ns != STATE.mtime_ns
    assert stage.attributes(OLD).st_mtime_ns == STATE.mtime_ns
    assert stage.open(OLD) == HANDLE


class Asking:
    """Stands for the kernel's word on who asks."""

    def __init__(self, pid: int) -> None:
        self.pid, self.uid, self.gid, self.umask = pid, 0, 0, 0


@pytest.mark.parametrize("call", CALLS)
def test_no_call_of_the_player_reaches_the_file_system(stage: Stage, call: str) -> None:
    operations = StagedOperations(cast(FileSystem, NoFiles()), Translation(ROOT, Owner(0, 0)), stage)
    stage.player = 77
    arguments = {
        "lookup": (1, b"a"), "create": (1, b"a", 0, 0), "mkdir": (1, b"a", 0), "mknod": (1, b"a", 0, 0),
        "symlink": (1, b"a", b"b"), "link": (2, 1, b"a"), "unlink": (1, b"a"), "rmdir": (1, b"a"),
        "rename": (1, b"a", 1, b"b", 0), "setattr": (OLD, None, Fields(), None), "open": (OLD, 1),
    }.get(call, (OLD,))  # fmt: skip

    async def ask(pid: int) -> None:
        await getattr(operations, call)(*arguments, Asking(pid))

    with pytest.raises(pyfuse3.FUSEError) as told:
        trio.run(ask, 77)
    assert told.value.errno in (errno.EPERM, errno.ENOENT)


class Fields:
    """What a setattr of times changes."""

    update_size = update_mode = update_uid = update_gid = False
    update_atime = update_mtime = True


def test_calls_of_others_go_on_to_the_file_system(stage: Stage) -> None:
    asked: list[tuple[InodeId, bytes]] = []

    class Files(NoFiles):
        async def lookup(self, parent: InodeId, name: bytes) -> None:
            asked.append((parent, name))

    operations = StagedOperations(cast(FileSystem, Files()), Translation(ROOT, Owner(0, 0)), stage)
    stage.player = 77
    trio.run(operations.lookup, 1, b"a", Asking(78))
    assert asked == [(ROOT, b"a")]


def test_scenes_do_not_share_what_was_asked() -> None:
    one, other = Scene({}, ""), Scene({}, "")
    one.asked.add(NAME)
    assert not other.asked

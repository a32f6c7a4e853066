"""What the player sees of the mount: the present, and in front of it one scene of the past.

Owns the answers to one process, by its id: the player's, which is our child and not reaped while it is on the stage, so
that no other process can have its number. It is answered from here alone, and nothing that is done here reaches a
database, the journal or the server.

Invariants:
- Nothing that is said here stays true for the kernel: all of it expires at once, so that whatever becomes of a scene,
  whoever looks next is answered by the file system.
- A scene's deed is granted only if the kernel asked here, in this scene, for every name that it is about. Asking and
  doing happen under the kernel's lock of the directory, so no name that another program made meanwhile is ever taken.
- Nothing here waits.
"""

import errno
from dataclasses import dataclass, field

import pyfuse3

from drivefs.fs.filesystem import FileSystem
from drivefs.fuse.attributes import Translation
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

Name = tuple[InodeId, bytes]

HANDLE = pyfuse3.FileHandleT(2**64 - 1)
"""The descriptor of every file that is opened here; there is nothing behind it."""
NOBODY = -1


@dataclass(slots=True)
class Scene:
    """What the player is shown while it carries out one order.

    `names` says what names led to, None for nothing; all others are as they are now. `deed` is the one call that it may
    make on names, and `about` the names. `touches` is the inode that it may open and set times of.
    """

    names: dict[Name, InodeState | None]
    deed: str
    about: tuple[Name, ...] = ()
    made: InodeState | None = None
    touches: InodeId | None = None
    asked: set[Name] = field(default_factory=set)
    is_done: bool = False


class Stage:
    """Answers the player."""

    def __init__(self, filesystem: FileSystem, translation: Translation) -> None:
        self._fs = filesystem
        self._translation = translation
        self.player = NOBODY
        """The process that is answered from here."""
        self.scene: Scene | None = None
        """What it is shown; None: nothing but the present, and it may do nothing."""

    def lookup(self, parent: InodeId, name: bytes) -> pyfuse3.EntryAttributes:
        """What a name leads to.

        Raises:
            FUSEError: ENOENT; a name that is not known here counts as absent too.
        """
        scene = self.scene
        if scene is not None and (parent, name) in scene.names:
            scene.asked.add((parent, name))
            state = scene.names[parent, name]
        else:
            state = self._fs.shown(parent, name)
        if state is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._fleeting(state)

    def attributes(self, inode: InodeId) -> pyfuse3.EntryAttributes:
        """The attributes of an inode, as they are or, if it is gone, as the scene has them."""
        return self._fleeting(self._state(inode))

    def _state(self, inode: InodeId) -> InodeState:
        if (state := self._fs.known(inode)) is not None:
            return state
        past = self.scene.names.values() if self.scene is not None else ()
        for each in past:
            if each is not None and each.inode == inode:
                return each
        raise pyfuse3.FUSEError(errno.ENOENT)

    def make(self, deed: str, parent: InodeId, name: bytes) -> pyfuse3.EntryAttributes:
        """Grant the making of a name."""
        scene = self._grant(deed, (parent, name))
        assert scene.made is not None, "a scene in which something is made says what"
        scene.names[parent, name] = scene.made
        return self._fleeting(scene.made)

    def remove(self, deed: str, *names: Name) -> None:
        """Grant the removal of a name, or the renaming of one to another."""
        state = self._grant(deed, *names).names.get(names[-1])
        if state is not None and state.kind is InodeKind.DIRECTORY:
            self._translation.removed(state.inode)

    def _grant(self, deed: str, *names: Name) -> Scene:
        """The scene, in which the deed is done now.

        Raises:
            FUSEError: EPERM; it is not in the scene, or the kernel has not asked for all names of it.
        """
        scene = self.scene
        if scene is None or scene.deed != deed or scene.about != names or not scene.asked.issuperset(names):
            raise pyfuse3.FUSEError(errno.EPERM)
        scene.is_done = True
        return scene

    def touch(self, inode: InodeId) -> pyfuse3.EntryAttributes:
        """Grant the setting of times.

        The answer is a nanosecond off: the kernel drops a file's pages when it sees another mtime or size than it had,
        and would not look at its pages for a time that it was given by the call which set it. So the next look, which
        is at once since this answer expires too, always finds another one.
        """
        self._check_touch(inode)
        told = self._fleeting(self._state(inode))
        told.st_mtime_ns ^= 1
        return told

    def open(self, inode: InodeId) -> pyfuse3.FileHandleT:
        """Grant the opening of a file."""
        self._check_touch(inode)
        return HANDLE

    def _check_touch(self, inode: InodeId) -> None:
        scene = self.scene
        if scene is None or scene.touches != inode:
            raise pyfuse3.FUSEError(errno.EPERM)
        if not scene.deed:
            scene.is_done = True

    def _fleeting(self, state: InodeState) -> pyfuse3.EntryAttributes:
        return self._translation.fleeting(state)

"""Extended attributes: those that are stored with the inode, and those that only say something about it.

Owns which names there are. `user.*`, `trusted.*` and `security.*` are stored and synced; who may use which the kernel
decides. `user.drivefs.*` are computed, can be read only and are not listed, so that copying tools leave them alone.
What drivefs stores for itself (`drivefs.*`) is in no namespace of programs: they neither see nor change it. Everything
else, ACLs among it, is not supported: mode bits decide.
"""

from collections.abc import Callable, Mapping

from drivefs.fs import errors
from drivefs.fs.interfaces import Publisher
from drivefs.fs.mutations import Mutations
from drivefs.fs.view import View
from drivefs.protocol.changes import SetXattr
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES, MAX_XATTRS_TOTAL_BYTES

STORED = (b"user.", b"trusted.", b"security.")
COMPUTED = b"user.drivefs."


class Xattrs:
    """Extended attributes of inodes; `computed` gives the value of each `user.drivefs.*`, or None."""

    def __init__(
        self,
        view: View,
        mutations: Mutations,
        now_ns: NowNs,
        computed: Mapping[bytes, Callable[[InodeState], bytes | None]],
    ) -> None:
        self._view = view
        self._mutations = mutations
        self._now_ns = now_ns
        self._computed = computed

    def get(self, inode: InodeId, name: bytes) -> bytes:
        """The value of an attribute.

        Raises:
            NoAttribute, NotSupported, Invalid, NotFound.
        """
        state = self._view.inode(inode)
        value = state.xattrs.get(name) if state.xattrs and name.startswith(STORED) else None
        if value is None and name.startswith(COMPUTED) and name in self._computed:
            value = self._computed[name](state)
        if value is None:
            _check_kind(name)
            raise errors.NoAttribute
        return value

    def list(self, inode: InodeId) -> list[bytes]:
        """The names of all attributes that are stored and that programs may know of.

        Raises:
            NotFound.
        """
        return [name for name in self._view.inode(inode).xattrs if name.startswith(STORED)]

    def set(self, inode: InodeId, name: bytes, value: bytes, publisher: Publisher) -> None:
        """Set an attribute.

        Raises:
            NotSupported, NotPermitted, Invalid: there is none of that name to be set.
            OutOfRange, NoSpace: the name or the value is too long, or all together are.
            NotFound.
        """
        _check_writable(name)
        if len(name) > MAX_XATTR_NAME_BYTES or len(value) > MAX_XATTR_VALUE_BYTES:
            raise errors.OutOfRange
        state = self._view.draft_of(inode)
        state.xattrs = {**state.xattrs, name: value}
        if sum(len(each) + len(state.xattrs[each]) for each in state.xattrs) > MAX_XATTRS_TOTAL_BYTES:
            raise errors.NoSpace
        self._mutations.admit()
        n = self._mutations.next_op()
        self._change(state, SetXattr(n=n, time_ns=self._now_ns(), inode=inode, name=name, value=value))
        publisher.changed()

    def remove(self, inode: InodeId, name: bytes, publisher: Publisher) -> None:
        """Remove an attribute.

        Raises:
            NoAttribute, NotSupported, NotPermitted, Invalid, NotFound.
        """
        _check_writable(name)
        self.drop(inode, name, publisher)

    def drop(self, inode: InodeId, name: bytes, publisher: Publisher) -> None:
        """Remove an attribute, also one that programs may not know of.

        Raises:
            NoAttribute, NotFound.
        """
        state = self._view.draft_of(inode)
        if name not in state.xattrs:
            raise errors.NoAttribute
        state.xattrs = {each: value for each, value in state.xattrs.items() if each != name}
        self._change(state, SetXattr(n=self._mutations.next_op(), time_ns=self._now_ns(), inode=inode, name=name))
        publisher.changed()

    def _change(self, state: InodeState, change: SetXattr) -> None:
        state.ctime_ns = change.time_ns
        with self._view.change():
            if state.nlink:
                self._mutations.append(change)
            self._view.put_inode(state, change.n if state.nlink else NO_OP)


def _check_kind(name: bytes) -> None:
    if not name.startswith(STORED):
        raise errors.NotSupported
    if name in STORED:
        raise errors.Invalid


def _check_writable(name: bytes) -> None:
    _check_kind(name)
    if name.startswith(COMPUTED):
        raise errors.NotPermitted


def revision_of(state: InodeState) -> bytes | None:
    """The value of `user.drivefs.revision`."""
    return str(state.revision).encode() if state.kind is InodeKind.FILE else None

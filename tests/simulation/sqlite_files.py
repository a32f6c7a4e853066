"""Lets a test stand between SQLite and its files, in both libraries that are linked here.

Owns a VFS for APSW, written in Python, and one for pysqlite3, which offers none: its library's own VFS with `xOpen`,
`xWrite`, `xTruncate`, `xSync` and `xDelete` put in front, through ctypes. Everything else goes to SQLite's own code,
shared memory and locks included. Does not know what the `Gate` does.
"""

import ctypes
import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import apsw
import pysqlite3._sqlite3


class Gate(Protocol):
    """Told of each operation on a file, in place of the file system; `work` is what SQLite would have done."""

    def wrote(self, path: str, end: int, work: Callable[[], None]) -> None:
        """Do `work`, which writes a file up to `end`; each of these raises an `OSError` to let it fail."""

    def resized(self, path: str, size: int, work: Callable[[], None]) -> None:
        """Do `work`, which cuts a file to a size."""

    def synced(self, path: str, work: Callable[[], None]) -> None:
        """Make a file durable; `work` is what SQLite does for it."""

    def removed(self, path: str, work: Callable[[], None], *, is_durable: bool) -> None:
        """Do `work`, which removes a name; durably, where SQLite asks for it."""


class _Way:
    """The way to whoever stands there now; files that were opened through it may outlive him."""

    def __init__(self) -> None:
        self.gate: Gate = _Open()


class _Open:
    """Nobody stands there."""

    def wrote(self, path: str, end: int, work: Callable[[], None]) -> None:
        work()

    def resized(self, path: str, size: int, work: Callable[[], None]) -> None:
        work()

    def synced(self, path: str, work: Callable[[], None]) -> None:
        work()

    def removed(self, path: str, work: Callable[[], None], *, is_durable: bool) -> None:
        work()


_WAY = _Way()


@contextmanager
def gated(gate: Gate) -> Iterator[None]:
    """Within it, what either library opens goes through `gate`."""
    vfs, other = _vfs_of_apsw(), _other_library()
    _WAY.gate = gate
    apsw.set_default_vfs(vfs.name)
    other.make_default(ctypes.byref(other.vfs))
    try:
        yield
    finally:
        _WAY.gate = _Open()
        apsw.set_default_vfs("unix")
        other.make_default(other.original)


# -- APSW ------------------------------------------------------------------------------------------------------------


class _ApswFile(apsw.VFSFile):  # type: ignore[misc]
    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            _WAY.gate.wrote(self._path, offset + len(data), lambda: apsw.VFSFile.xWrite(self, data, offset))
        except OSError as error:
            raise _translated(error) from error

    def xTruncate(self, size: int) -> None:
        try:
            _WAY.gate.resized(self._path, size, lambda: apsw.VFSFile.xTruncate(self, size))
        except OSError as error:
            raise _translated(error) from error

    def xSync(self, flags: int) -> None:
        try:
            _WAY.gate.synced(self._path, lambda: apsw.VFSFile.xSync(self, flags))
        except OSError as error:
            raise _translated(error) from error


class _ApswVfs(apsw.VFS):  # type: ignore[misc]
    name = "gated"

    def __init__(self) -> None:
        super().__init__(self.name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _ApswFile(name, flags)

    def xDelete(self, name: str, is_synced: bool) -> None:
        try:
            _WAY.gate.removed(name, lambda: apsw.VFS.xDelete(self, name, False), is_durable=is_synced)
        except OSError as error:
            raise _translated(error) from error


@functools.cache
def _vfs_of_apsw() -> _ApswVfs:
    return _ApswVfs()


def _translated(error: OSError) -> apsw.Error:
    """SQLite takes an error number from the kind of exception."""
    return (apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError)(str(error))


# -- pysqlite3 ---------------------------------------------------------------------------------------------------------

_OK, _IO_ERROR, _FULL = 0, 10, 13
_Pointer, _Int, _Long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_OpenFile = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Pointer, _Int, _Pointer)
_Delete = ctypes.CFUNCTYPE(_Int, _Pointer, ctypes.c_char_p, _Int)
_WriteFile = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Int, _Long)
_TruncateFile = ctypes.CFUNCTYPE(_Int, _Pointer, _Long)
_SyncFile = ctypes.CFUNCTYPE(_Int, _Pointer, _Int)


class _Vfs(ctypes.Structure):
    """The head of `sqlite3_vfs`, and the rest as it is. Source: https://www.sqlite.org/c3ref/vfs.html."""

    _fields_ = [
        ("version", _Int),
        ("file_bytes", _Int),
        ("path_bytes", _Int),
        ("next", _Pointer),
        ("name", ctypes.c_char_p),
        ("data", _Pointer),
        ("open", _Pointer),
        ("delete", _Pointer),
        ("rest", _Pointer * 14),
    ]


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`. Source: https://www.sqlite.org/c3ref/io_methods.html."""

    _fields_ = [
        ("version", _Int),
        ("close", _Pointer),
        ("read", _Pointer),
        ("write", _Pointer),
        ("truncate", _Pointer),
        ("sync", _Pointer),
        ("rest", _Pointer * 13),
    ]


class _OtherLibrary:
    """pysqlite3's SQLite with our calls in front. It is kept for ever: a connection may outlive a test."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._paths: dict[int, str] = {}
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self.original = library.sqlite3_vfs_find(None)
        self.vfs = _Vfs.from_buffer_copy(self.original.contents)
        self.vfs.name, self.vfs.next = b"gated", None
        self._open = _OpenFile(self.original.contents.open)
        self._delete = _Delete(self.original.contents.delete)
        self.vfs.open = self._kept_pointer(_OpenFile(self._on_open))
        self.vfs.delete = self._kept_pointer(_Delete(self._on_delete))

    def make_default(self, vfs: Any) -> None:
        self._library.sqlite3_vfs_register(vfs, 1)

    def _kept_pointer(self, function: Any) -> Any:
        self._kept.append(function)
        return ctypes.cast(function, _Pointer)

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        result = self._open(ctypes.addressof(self.original.contents), name, file, flags, out_flags)
        slot = ctypes.cast(file, ctypes.POINTER(_Pointer))
        address = slot[0]
        if result == _OK and name and address:
            self._paths[file] = ctypes.string_at(name).decode()
            slot[0] = ctypes.addressof(self._table(address))
        return int(result)

    def _table(self, address: int) -> _Methods:
        if address not in self._tables:
            original = _Methods.from_address(address)
            table = self._tables[address] = _Methods.from_buffer_copy(original)
            write, truncate, sync = (
                _WriteFile(original.write),
                _TruncateFile(original.truncate),
                _SyncFile(original.sync),
            )

            def on_write(file: int, data: int, count: int, offset: int) -> int:
                path, end = self._paths[file], offset + count
                return self._through(
                    lambda gate, work: gate.wrote(path, end, work), lambda: write(file, data, count, offset)
                )

            def on_truncate(file: int, size: int) -> int:
                path = self._paths[file]
                return self._through(lambda gate, work: gate.resized(path, size, work), lambda: truncate(file, size))

            def on_sync(file: int, flags: int) -> int:
                path = self._paths[file]
                return self._through(lambda gate, work: gate.synced(path, work), lambda: sync(file, flags))

            table.write = self._kept_pointer(_WriteFile(on_write))
            table.truncate = self._kept_pointer(_TruncateFile(on_truncate))
            table.sync = self._kept_pointer(_SyncFile(on_sync))
        return self._tables[address]

    def _on_delete(self, vfs: int, name: bytes, is_synced: int) -> int:
        original = ctypes.addressof(self.original.contents)

        def ask(gate: Gate, work: Callable[[], None]) -> None:
            gate.removed(name.decode(), work, is_durable=bool(is_synced))

        return self._through(ask, lambda: self._delete(original, name, 0))

    def _through(self, ask: Callable[[Gate, Callable[[], None]], None], work: Callable[[], int]) -> int:
        results: list[int] = []
        try:
            ask(_WAY.gate, lambda: results.append(work()))
        except OSError as error:
            return _FULL if error.errno == errno.ENOSPC else _IO_ERROR
        return results[0] if results else _OK


@functools.cache
def _other_library() -> _OtherLibrary:
    return _OtherLibrary(ctypes.CDLL(pysqlite3._sqlite3.__file__))

"""Every error becomes an errno; nothing else ever leaves a handler."""

import errno
import inspect
import logging

import pyfuse3
import pytest
import trio

from cache import errors as cache_errors
from drivefs.fs import errors as fs_errors
from drivefs.fuse.errors import looked_up, translated
from drivefs.fuse.operations import Operations
from drivefs.remote import errors as remote_errors


def subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(each for child in kind.__subclasses__() for each in subclasses(child))]


def errno_of(error: BaseException) -> int:
    @translated
    async def handler() -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(handler)
    return raised.value.errno


@pytest.mark.parametrize("kind", subclasses(fs_errors.FileSystemError))
def test_errors_of_the_file_system_carry_their_errno(kind: type[fs_errors.FileSystemError]) -> None:
    assert errno_of(kind("why")) == kind.errno


@pytest.mark.parametrize("kind", subclasses(cache_errors.CacheError) + subclasses(remote_errors.RemoteError))
def test_every_error_of_the_parts_below_is_expected(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "why")
    expected = errno.ENOSPC if kind in (cache_errors.DiskFull, cache_errors.OutOfIds) else errno.EIO
    assert errno_of(error) == expected
    assert all(record.levelno < logging.ERROR for record in caplog.records)


@pytest.mark.parametrize("error", [OSError(errno.ENOTDIR, "x"), KeyError("x"), AssertionError(), RecursionError()])
def test_what_nobody_expects_is_eio_and_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert errno_of(error) == errno.EIO
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_pyfuse3_raises_passes() -> None:
    assert errno_of(pyfuse3.FUSEError(errno.ENOSYS)) == errno.ENOSYS


def test_cancellation_passes() -> None:
    @translated
    async def handler() -> None:
        await trio.sleep_forever()

    async def main() -> bool:
        with trio.move_on_after(0) as scope:
            await handler()
        return scope.cancelled_caught

    assert trio.run(main)


def test_what_is_asked_of_an_inode_that_is_gone_makes_the_kernel_look_its_name_up_again() -> None:
    async def handler() -> None:
        raise fs_errors.NotFound

    with pytest.raises(pyfuse3.FUSEError) as told:
        trio.run(looked_up(handler))
    assert told.value.errno == errno.ESTALE


def test_every_operation_is_translated() -> None:
    own = {name: each for name, each in vars(Operations).items() if inspect.iscoroutinefunction(inspect.unwrap(each))}
    assert {name for name, each in own.items() if inspect.unwrap(each) is each} == {"forget"}
    assert len(own) > 25

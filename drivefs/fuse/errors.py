"""Turns whatever a file-system call raises into an errno for the kernel.

Owns the boundary: an exception that escapes a pyfuse3 handler would end the process. What nobody expects is EIO, and is
logged with its trace.
"""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from drivefs.fs import errors

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


Handler = Callable[Arguments, Coroutine[Any, Any, Result]]


def translated(handler: Handler[Arguments, Result]) -> Handler[Arguments, Result]:
    """A handler that raises nothing but `pyfuse3.FUSEError`."""

    @functools.wraps(handler)
    async def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(errno_of(error, handler.__name__)) from None

    return call


def looked_up(handler: Handler[Arguments, Result]) -> Handler[Arguments, Result]:
    """The same for what is asked of an inode that the kernel found by its name: one that is gone is ESTALE, not ENOENT.

    The name may lead to another inode by now (a file that is saved by renaming, on another device): after ESTALE the
    kernel looks the name up again, once, and only then tells the program what it found.
    """

    @functools.wraps(handler)
    async def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await handler(*args, **kwargs)
        except errors.NotFound:
            raise pyfuse3.FUSEError(errno.ESTALE) from None

    return translated(call)


def errno_of(error: Exception, call: str) -> int:
    """The errno for an error in `call`; says in the log what people should know of it."""
    code = errors.errno_of(error)
    if code is None:
        log.error("%s failed for a reason that nobody expected", call, exc_info=error)
        return errno.EIO
    if code == errno.EIO:
        log.warning("%s failed: %s", call, error)
    return code

"""Where the control socket of a drive is, and how its path is kept short enough.

Owns the name of the socket and the way around the kernel's limit of 107 bytes for a socket's path: the directory is
opened, and the socket addressed through the descriptor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "control.sock"


@contextmanager
def short_address(directory: Path) -> Iterator[str]:
    """Give a path for the socket in `directory` that fits a socket address; valid inside the `with` only.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)

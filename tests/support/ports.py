"""TCP ports of the loopback interface for the servers of tests, each given out once.

A port that the kernel picks is free only until somebody else picks it: a server of another test process, or a
connection, even one to where a server was a moment ago. These lie below those that the kernel gives to connections.

Owns a lease for each port, a name in the abstract namespace of Unix sockets, held until this process ends.
"""

import os
import socket

FIRST, COUNT = 10_000, 20_000

_leases: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that no other caller gets while this process lives."""
    for number in range(COUNT):
        port = FIRST + (os.getpid() * 101 + number) % COUNT
        lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lease.bind(f"\0drivefs-tests-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lease.close()
            continue
        _leases.append(lease)
        return port
    raise RuntimeError("no port is free")

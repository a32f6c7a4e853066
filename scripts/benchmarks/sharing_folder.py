"""Sharing a large folder: how long it takes, and how long others' commits to the drive wait meanwhile.

Owns the drive that is made for it. Another device of the same user commits small changes beside the folder, one after
the other, from before to after; the other user accepts, and lists the folder.
"""

import threading
import time
from pathlib import Path

from benchmarks import drives, processes
from benchmarks.direct import DirectDevice
from benchmarks.filling import Filler, Shape
from benchmarks.large_drive import Figures, Say
from drivefs.protocol import messages, routes
from drivefs.protocol.changes import Create
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind
from drivefs.protocol.sharing import AnswerRequest, ShareInfo, ShareRequest

OTHER = "other"
FILES_IN_DIRECTORY = 50
SETTLE_SECONDS = 1.0


class Committer(threading.Thread):
    """A device that makes one file after the other at the root of the drive, and times each commit."""

    def __init__(self, device: DirectDevice) -> None:
        super().__init__()
        self._device = device
        self._first = device.id_range()
        self.is_ending = threading.Event()
        self.taken: list[tuple[float, float]] = []
        """When each began, and the seconds."""

    def run(self) -> None:
        while not self.is_ending.is_set():
            number = len(self.taken)
            made = {"inode": InodeId(self._first + number), "parent": self._device.root, "name": b"small %d" % number}
            change = Create(n=self._device.next_n(), time_ns=1, kind=InodeKind.FILE, mode=0o644, **made)  # type: ignore[arg-type]
            began = time.perf_counter()
            self._device.commit([change])
            self.taken.append((began, time.perf_counter() - began))


def measure(base: Path, count: int, say: Say) -> Figures:
    """Share a folder of so many files."""
    server = drives.Server(base)
    server.start()
    try:
        add = (drives.BINARIES / "drivefs-server", "user", "add", OTHER, "--data", server.data, "--password-stdin")
        processes.run(*add, env=server.environment, text=drives.PASSWORD + "\n")
        say(f"making a folder of {count} files")
        owner = DirectDevice(server.port, "owner")
        Filler(owner, Shape(count, max(1, count // FILES_IN_DIRECTORY), 0), say).fill()
        return shared(server, owner, count)
    finally:
        server.stop()


def shared(server: drives.Server, owner: DirectDevice, count: int) -> Figures:
    """Share it while another device commits, and have it accepted."""
    folder = InodeId(_named(owner, b"tree"))
    committer = Committer(DirectDevice(server.port, "committer"))
    committer.start()
    try:
        time.sleep(SETTLE_SECONDS)
        began = time.perf_counter()
        request = ShareRequest(inode=folder, user=OTHER, role="editor")
        share = owner.call(routes.SHARE, request, ShareInfo).share
        seconds = time.perf_counter() - began
        time.sleep(SETTLE_SECONDS)
    finally:
        committer.is_ending.set()
        committer.join()
    member = DirectDevice(server.port, "member", OTHER)
    accepting = time.perf_counter()
    member.call(routes.ANSWER, AnswerRequest(share=share, accept=True), messages.Message)
    accepted = time.perf_counter() - accepting
    before = [taken for start, taken in committer.taken if start + taken < began]
    during = [taken for start, taken in committer.taken if start + taken >= began and start < began + seconds]
    return {
        f"sharing a folder of {count} files: s": seconds,
        "commits to the drive meanwhile": float(len(during)),
        "longest commit meanwhile: s": max(during, default=0.0),
        "longest commit before: s": max(before, default=0.0),
        "accepting it: s": accepted,
    }


def _named(device: DirectDevice, name: bytes) -> int:
    """What a name at the root of the drive leads to."""
    path = routes.LIST.format(workspace=device.workspace)
    request = messages.ListRequest(directory=device.root, as_of=device.head.seq)
    entries = device.call(path, request, messages.ListReply).entries
    return next(each.inode.inode for each in entries if each.name == name)

"""Commits to a drive until it is killed, and says each commit that was acknowledged: run as a process by a test."""

import sys
from pathlib import Path

import anyio

from tests.backend.service.drive import reopen_drive


async def commit_for_ever(path: Path) -> None:
    drive = await reopen_drive(path)
    device = await drive.device()
    number = 0
    while True:
        number += 1
        blocks = await drive.upload(device, b"content %d" % number)
        file = device.create(b"%d" % number)
        reply = await device.commit(file, device.store(file.inode, blocks, after=[file]))
        print(f"{reply.head.seq} {file.inode} {number}", flush=True)


if __name__ == "__main__":
    anyio.run(commit_for_ever, Path(sys.argv[1]), backend="trio")

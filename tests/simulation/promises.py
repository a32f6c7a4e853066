"""What of the past has to stay readable: what a snapshot shows, revisions that are kept, and what is in the trash.

Owns the account of what was promised, from what programs were told and from the commits; age and the collector take
all else meanwhile. Looked at when all is at rest.

I11 each file of each snapshot, each revision that is kept, and each file that was removed a shorter time ago than the
    trash keeps things has a content that the server has and that verifies; and a snapshot is shown as it was then
"""

from dataclasses import dataclass, field

from drivefs.fs.errors import FileSystemError
from drivefs.protocol.blocks import block_id
from drivefs.protocol.model import BlockRef, InodeKind, pack_blocks
from tests.simulation.device import Device
from tests.simulation.sequence import Sequence, Tree


@dataclass
class Promises:
    """Those of one run."""

    snapshots: dict[str, int] = field(default_factory=dict)
    """The moments that have a name, by their commits."""
    kept: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """The blocks of what was marked, by inode and number."""
    emptied_until: int = 0
    """The commit up to which what was removed may be gone from the trash."""
    rewound: list[tuple[int, int]] = field(default_factory=list)
    """From which commit on, and up to which one, a device went that took a directory back."""
    has_taken_back: bool = False
    """Whether a file was given an earlier content again: then who had seen what says little of conflicts."""

    def broken(self, sequence: Sequence, contents: dict[bytes, bytes], times: dict[int, int], since_ns: int) -> str:
        """What is gone that has to be there; `times` are those of the commits, the trash keeps things since `since_ns`.

        Empty: nothing.
        """
        for name, seq in self.snapshots.items():
            for inode, blocks in _files(sequence.trees[seq]).items():
                if blocks not in contents:
                    return f"snapshot {name} of commit {seq} needs what inode {inode} had then"
        for (inode, number), blocks in self.kept.items():
            if blocks not in contents:
                return f"revision {number} of inode {inode} was to be kept"
        for inode, seq in sequence.removed.items():
            blocks = sequence.trees[seq].inodes[inode].blocks
            if seq > self.emptied_until and times[seq] > since_ns and blocks and blocks not in contents:
                return f"inode {inode} was removed in commit {seq}, and is still in the trash"
        return ""

    def passed(self, sequence: Sequence, contents: set[bytes]) -> set[bytes]:
        """Those that came while a device took a directory back: it may have seen them before it removed them."""
        trees = [sequence.trees[seq] for first, last in self.rewound for seq in range(first, last + 1)]
        there = {inode.blocks for tree in trees for inode in tree.inodes.values()}
        return {content for content in contents if _packed(content) in there}

    async def not_shown(self, device: Device, sequence: Sequence, contents: dict[bytes, bytes]) -> str:
        """What a device does not show of the snapshots as it was then; empty: all is as it was."""
        for name, seq in self.snapshots.items():
            then = _paths(sequence.trees[seq], contents)
            try:
                now = await _shown(device, f".drivefs/at/{name}")
            except FileSystemError as error:
                return f"{device.name} cannot read snapshot {name} of commit {seq}: {type(error).__name__} {error}"
            for path in then.keys() | now.keys():
                if then.get(path, 0) != now.get(path, 0):
                    return f"{device.name} shows {path} in {name} as {now.get(path, 0)!r}, not {then.get(path, 0)!r}"
        return ""


def _packed(content: bytes) -> bytes:
    """The blocks of a content of one block; all that is written is that small."""
    return pack_blocks([BlockRef(block_id(content), len(content))])


def _files(tree: Tree) -> dict[int, bytes]:
    """The blocks of all files that have a name and a content."""
    named = set(tree.names.values())
    return {inode: tree.inodes[inode].blocks for inode in named if tree.inodes[inode].blocks}


def _paths(tree: Tree, contents: dict[bytes, bytes]) -> dict[str, bytes | None]:
    """All paths with the contents of files; None for what is no file."""
    found: dict[str, bytes | None] = {}
    waiting = [("", tree.root)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, inode in tree.listed(directory).items():
            path, sort = prefix + name.decode(errors="surrogateescape"), tree.inodes[inode]
            found[path] = contents.get(sort.blocks, b"") if sort.kind is InodeKind.FILE else None
            if sort.kind is InodeKind.DIRECTORY:
                waiting.append((f"{path}/", inode))
    return found


async def _shown(device: Device, top: str) -> dict[str, bytes | None]:
    """The same of what a device shows below a directory."""
    found: dict[str, bytes | None] = {}
    waiting = [("", (await device.calls.known(top)).inode)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, state in await device.calls.entries(directory):
            path = prefix + name.decode(errors="surrogateescape")
            found[path] = await device.calls.read(state.inode) if state.kind is InodeKind.FILE else None
            if state.kind is InodeKind.DIRECTORY:
                waiting.append((f"{path}/", state.inode))
    return found

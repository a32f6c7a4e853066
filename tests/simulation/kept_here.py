"""I14: what a rule keeps on a device is there, and nowhere else, for as long as a rule keeps it, and no longer.

Owns the rules as this sees them: those that the drive has at rest, in the words of pathspec, and the device's own
patterns. It looks at what a device shows that no commit made: each path has to be one that a rule keeps, or what lies
in such a directory. A directory of the drive that comes to have the name of something which is kept is not shown until
that goes, nor is what is kept in it: it is there, behind that name. And no file is made on the server under a name that
the device's own patterns keep, but for a conflict copy: what the drive had before it got such a name is a file of the
drive, and so is a copy of it. So is what is made anew, with an edit, of such a file that was removed elsewhere: it has
its last name, as it would have if it came back itself.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import pathspec

from cache.effects import subjects
from drivefs.fs.ignore_rules import NAME
from drivefs.protocol.changes import Create, Exchange, Link, Mutation, Rename, SetXattr, Unlink
from drivefs.protocol.conflicts import CONFLICT_XATTR
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind
from tests.simulation.calls import Tree as View
from tests.simulation.device import Device
from tests.simulation.sequence import Place, Tree

TEMPORARY = ("*~",)
"""The patterns of each device's own, which mean files; no rule takes them back."""
RULES = (b"*.log\n", b"*.log\n*.tmp\nz/\n", b"z/\n", b"/x/*\n!/x/a\n", b"")


def was_sent(mutations: Sequence[Mutation]) -> list[Create]:
    """What was made on the server under a device's own name, and has not lost that with it."""
    found = []
    for n, mutation in enumerate(mutations):
        own = isinstance(mutation, Create) and mutation.kind is not InodeKind.DIRECTORY
        if own and any(fnmatch(mutation.name.decode(), each) for each in TEMPORARY):
            later = [each for each in mutations[n + 1 :] if isinstance(each, Link | Rename | Exchange | Unlink)]
            marks = [each for each in mutations[n + 1 :] if isinstance(each, SetXattr) and each.name == CONFLICT_XATTR]
            if not any(mutation.inode in subjects(each) for each in [*later, *marks]):
                found.append(mutation)
    return found


def is_of_drive(inode: InodeId, came_of: Mapping[InodeId, InodeId], tree: Tree) -> bool:
    """Whether a new inode stands for one that the drive had before, by what came of what on devices."""
    left = dict(came_of)
    while inode in left:
        inode = left.pop(inode)
        if inode in tree.inodes:
            return True
    return False


def kept(device: Device, view: View) -> View:
    """What of all that a device shows is on that device only."""
    ignored = device.local.journal.ignored
    return {path: state for path, state in view.items() if ignored.has(state.inode)}


def of_drive(device: Device, view: View) -> View:
    """The rest."""
    here = kept(device, view)
    return {path: state for path, state in view.items() if path not in here}


def is_covered(place: Place, own: Mapping[Place, int], tree: Tree) -> bool:
    """Whether a name lies in a directory that cannot be seen, since a device keeps something (`own`) of its name."""
    ways = {inode: at for names in (tree.names, own) for at, inode in names.items()}
    directory = place[0]
    while directory in ways:
        above = ways[directory]
        if own.get(above, directory) != directory:
            return True
        directory = above[0]
    return False


async def kept_contents(device: Device) -> set[bytes]:
    """The contents of all files that a device keeps, those in covered directories too."""
    states = map(device.local.journal.overlay.inode, device.local.journal.ignored.all())
    files = [state.inode for state in states if state is not None and state.kind is InodeKind.FILE]
    return {await device.calls.read(inode) for inode in files}


async def unruled(device: Device, tree: Tree) -> str:
    """A path that a device keeps and no rule does, or a name in a directory that is gone; empty: there is neither."""
    view = await device.calls.tree()
    here = kept(device, view)
    shown = {state.inode for state in here.values()}
    journal = device.local.journal
    own: dict[Place, int] = {at: inode for inode in journal.ignored.all() for at in journal.overlay.names_of(inode)}
    for place, inode in own.items():
        if inode not in shown and not is_covered(place, own, tree):
            return f"{device.name} keeps {place}, where nobody sees it"
    rules = {}
    for path, state in view.items() if here else ():
        above, _, name = path.rpartition("/")
        if name == NAME.decode() and state.kind is InodeKind.FILE:
            lines = (await device.calls.read(state.inode)).decode(errors="surrogateescape").splitlines()
            rules[above] = pathspec.GitIgnoreSpec.from_lines(lines)
    for path, state in sorted(here.items()):
        if path.rpartition("/")[0] not in here and not _is_kept(path, state.kind is InodeKind.DIRECTORY, rules):
            return f"{device.name} keeps {path}, and no rule does"
    return ""


def _is_kept(path: str, is_directory: bool, rules: dict[str, pathspec.GitIgnoreSpec]) -> bool:
    above = path
    while above:
        above = above.rpartition("/")[0]
        if above in rules:
            below = path[len(above) + 1 if above else 0 :] + "/" * is_directory
            said = rules[above].check_file(below).include
            if said is not None:
                return said
    return not is_directory and any(fnmatch(path.rpartition("/")[2], each) for each in TEMPORARY)

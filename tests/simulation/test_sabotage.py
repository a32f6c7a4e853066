"""The simulation can fail: each safety step that is taken away here is missed within some seeds."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import msgspec
import pytest

from backend import durable
from backend.metadata import sqlite
from backend.service import batches, following, hanging, revisions, snapshots, trash, workspaces
from backend.service.commit import state, territory
from backend.service.shares import Shares
from backend.service.workspaces import Access
from cache import barrier, staging
from cache.block_index import BlockIndex
from cache.journal import Journal
from drivefs.fs import conflicts, contents
from drivefs.fs.content import Basis
from drivefs.fs.extents import Layer
from drivefs.fs.ignoring import Ignoring
from drivefs.fs.reconsidering import Reconsidering
from drivefs.fs.revisions import Which
from drivefs.protocol.changes import Base, SetAttributes, Store, Unlink
from drivefs.protocol.ids import MAX_ID, RevisionNumber, Seq
from drivefs.protocol.model import InodeState
from drivefs.sync import resolver
from drivefs.sync.follower import Follower
from drivefs.sync.giving_up import GivingUp
from drivefs.sync.salvage import Salvage
from tests.simulation.profiles import PROFILES, Profile
from tests.simulation.voyage import sail

MOST_SEEDS = 60
POWER = Profile(power_seconds=3.0, pause_seconds=0.6, operations=30)
PAST = Profile(tidies_seconds=2.0, forgets_seconds=4, backs_seconds=4.0, pause_seconds=6.0)
TRASH = replace(PAST, forgets_seconds=40)
SHARES = Profile(clients=4, users=2, shares_seconds=0.7, cuts_seconds=4.0)
RULES = Profile(has_rules=True)
QUOTAS = Profile(quotas_seconds=1.0, operations=30)
RESTORES = Profile(restores_seconds=4.0)
SERVER_POWER = Profile(server_power_seconds=4.0, moods_seconds=5.0)


@dataclass(frozen=True)
class Sabotage:
    """`target.name` does something else; `profile` is where that is seen."""

    what: str
    target: Any
    name: str
    instead: Any
    profile: Profile
    likely: int = 1
    """The seed that is tried first: it found it the last time."""


def _nothing(*_args: Any, **_options: Any) -> None:
    return None


async def _never(*_args: Any) -> None:
    """Does nothing."""


async def _found_nothing(*_args: Any) -> list[Any]:
    """Looks for nothing."""
    return []


def _forgetful(judge: Any) -> Any:
    """A server that does not know which mutations it has answered."""
    return lambda judged, mutations, known: judge(judged, mutations, {})


def _oldest(index: BlockIndex, *_: Any) -> list[int]:
    """Victims, whatever people want to have here."""
    return [unit for (unit,) in index._database.rows("SELECT unit FROM units ORDER BY unit LIMIT 3")]


def _older(basis_of: Any) -> Any:
    """Takes what a program was shown for the revision before that one."""

    def basis(state: InodeState) -> Basis:
        return basis_of(state)._replace(base=Base(revision=RevisionNumber(max(0, state.revision - 1))))

    return basis


def _overwriting(store: Any) -> Any:
    """A device that puts its edit over one of another device, when that was first."""

    def stored(mutation: Store, refusal: Any, local: Any, remote: Any) -> Any:
        theirs = remote.inode(mutation.inode)
        if theirs is None or theirs.revision <= (refusal.base or 0):
            return store(mutation, refusal, local, remote)
        return [resolver.Make(msgspec.structs.replace(mutation, base=Base(revision=theirs.revision)))]

    return stored


def _forgotten(kind: type, names: str = "") -> Any:
    """A journal in which some mutations of a kind never come, though programs see what they do."""
    append = Journal.append

    def appended(journal: Journal, mutation: Any, *state: Any) -> None:
        if not (isinstance(mutation, kind) and getattr(mutation, names or "n", None) is not None) or mutation.n % 3:
            append(journal, mutation, *state)

    return appended


def _writable(territory_of: Any) -> Any:
    """A server that lets whoever sees a share change it."""
    return lambda row: replace(territory_of(row), may_write=True)


def _kept_on(shares: Shares, connection: Any, share: Access, user: Any, **_by: Any) -> Any:
    """The end of a membership that takes the name away, and nothing else."""
    home = workspaces.own_drive(connection, user, lock=True)
    hanging.unhang(connection, shares._ground, home, hanging.Target(share.account, share.workspace, share.root))
    return home.workspace


def _hasty(take_in: Any) -> Any:
    """A drive that takes in the last commit of a share, and leaves out those before it."""
    return lambda connection, ground, home, share, taken: take_in(connection, ground, home, share, taken[-1:])


def _whole(empty: Any) -> Any:
    """A trash that is emptied of all that is in it, whatever was asked for."""
    return lambda can, connection, caller, workspace, until: empty(can, connection, caller, workspace, Seq(MAX_ID))


def _uncut(truncate: Any) -> Any:
    """A file of which what was cut off shows again when it grows."""

    def cut(layer: Layer, size: int) -> None:
        floor = layer.floor
        truncate(layer, size)
        layer.floor = floor if size else layer.floor

    return cut


def _without_names(apply: Any) -> Any:
    """A follower that loses a name now and then."""

    def applied(follower: Follower, page: Any) -> None:
        page.dentries[:] = [dentry for dentry in page.dentries if dentry.seq % 5]
        apply(follower, page)

    return applied


SABOTAGES = [
    Sabotage("the server compares no base", state.State, "is_at", lambda *_: True, PROFILES["quiet"], 6),
    Sabotage("the server forgets answers", batches, "judge", _forgetful(batches.judge), PROFILES["network"], 10),
    Sabotage("the server's database syncs nothing", sqlite, "PRAGMAS", None, SERVER_POWER, 4),
    Sabotage("the server's store syncs no names", durable, "sync_path", _nothing, SERVER_POWER),
    Sabotage("the log is not synced", barrier, "sync_path", _nothing, POWER),
    Sabotage("staging is not synced", staging.PendingSync, "sync", _nothing, POWER, 48),
    Sabotage("what is pinned is evicted", BlockIndex, "choose_victims", _oldest, PROFILES["cache"], 7),
    Sabotage("changes stand on old bases", contents, "basis_of", _older(contents.basis_of), PROFILES["quiet"]),
    Sabotage("an edit is put over another", resolver, "_store", _overwriting(resolver._store), PROFILES["network"], 4),
    Sabotage("bases are looked for by name", conflicts, "Which", lambda *of, **_: Which(*of), PROFILES["network"], 12),
    Sabotage("what snapshots show is let go", snapshots, "shown", lambda *_: [], PAST, 4),
    Sabotage("marks on revisions are lost", revisions.Revisions, "_keep", _nothing, PAST, 4),
    Sabotage("the trash ends at once", trash.Trash, "_expired_until", lambda *_: MAX_ID, PAST, 19),
    Sabotage("all of the trash is emptied", trash.Trash, "_empty", _whole(trash.Trash._empty), TRASH, 14),
    Sabotage("removals are forgotten", Journal, "append", _forgotten(Unlink), PROFILES["turns"], 2),
    Sabotage("times are forgotten", Journal, "append", _forgotten(SetAttributes, "mtime_ns"), PROFILES["turns"], 3),
    Sabotage("viewers may write", territory, "_ground", _writable(territory._ground), SHARES, 26),
    Sabotage("who has left is still served", Shares, "end", _kept_on, SHARES),
    Sabotage("members may not ask for blocks", batches, "admit_blocks", _nothing, SHARES),
    Sabotage("commits of a share are left out", following, "_take_in", _hasty(following._take_in), SHARES),
    Sabotage("what is refused is kept nowhere", GivingUp, "_content", _nothing, SHARES, 4),
    Sabotage("what is too large is kept nowhere", GivingUp, "_content", _nothing, QUOTAS),
    Sabotage("what a server has lost is not looked for", Salvage, "run", _found_nothing, RESTORES),
    Sabotage("nothing is kept on a device", Ignoring, "keeps", lambda *_, **__: False, RULES),
    Sabotage("what no rule keeps any more stays", Reconsidering, "_release", _never, RULES),
    Sabotage("what was cut off shows again", Layer, "truncate", _uncut(Layer.truncate), PROFILES["sizes"]),
    Sabotage("names of a page are lost", Follower, "apply", _without_names(Follower.apply), PROFILES["quiet"]),
]


@contextmanager
def _done(sabotage: Sabotage) -> Iterator[None]:
    with ExitStack() as patched:
        instead = sabotage.instead
        if sabotage.name == "PRAGMAS":
            instead = tuple(each.replace("FULL", "OFF") for each in sqlite.PRAGMAS)
        patched.enter_context(mock.patch.object(sabotage.target, sabotage.name, instead))
        yield


@pytest.fixture(autouse=True)
def _no_log_of_faults() -> None:
    logging.getLogger().setLevel(logging.CRITICAL)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.what)
def test_what_is_taken_away_is_missed(sabotage: Sabotage) -> None:
    with _done(sabotage):
        seeds = [sabotage.likely, *range(1, MOST_SEEDS + 1)]
        assert any(sail(seed, sabotage.profile).failure for seed in seeds)

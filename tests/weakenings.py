"""The safety steps of drivefs, each with what the code would be without it and the tests that must fail then.

Owns the table, and the program that tries it: for each row a private copy of the tree, the step taken away, its tests
run. A row that no test notices is a survivor: the step is not protected by a test. Nothing in the tree itself changes.

Run it as `scripts/gate [NAME…]`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("drivefs", "cache", "backend", "tests", "scripts", "pyproject.toml", "README.md")
SECONDS = 600


class Weakening(NamedTuple):
    """A step: where it stands, without it, and who notices."""

    name: str
    path: str
    step: str
    without: str
    tests: str


WEAKENINGS = (
    # -- syncs on a device
    Weakening(
        "staged bytes are synced",
        "cache/barrier.py",
        "        pending.sync()\n",
        "",
        "tests/cache/test_barrier.py",
    ),
    Weakening(
        "the journal is synced",
        "cache/barrier.py",
        "        sync_path(self._database.wal_path)\n",
        "",
        "tests/cache/test_barrier.py",
    ),
    Weakening(
        "names of staging files are synced",
        "cache/staging.py",
        "        if self.has_new_names:\n            sync_path(self.directory)\n",
        "",
        "tests/cache/test_barrier.py",
    ),
    Weakening(
        "what a process staged that died is synced",
        "cache/workspace.py",
        "        if last_boot == boot_id():\n            self._sync_staging(suspect)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "retired files go only after the sync that makes it durable",
        "cache/barrier.py",
        "        pending.sync()\n        sync_path(self._database.wal_path)\n        return pending.remove_retired()\n",
        "        removed_bytes = pending.remove_retired()\n        pending.sync()\n"
        "        sync_path(self._database.wal_path)\n        return removed_bytes\n",
        "tests/cache/test_barrier.py tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "the names of new directories are synced",
        "cache/durable.py",
        "        sync_path(lacking.parent)\n",
        "",
        "tests/simulation/test_disk.py",
    ),
    Weakening(
        "what is moved to lost+found is durable there",
        "cache/lost.py",
        "        sync_path(self.directory)\n        sync_path(source.parent)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "what is written to lost+found is synced",
        "cache/lost.py",
        "            os.fsync(descriptor)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "credentials are synced before they take their name",
        "drivefs/config.py",
        "        os.fsync(file.fileno())\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "the name of new credentials is synced",
        "drivefs/config.py",
        "    sync_path(path.parent)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "the replica is synced before the journal forgets",
        "cache/replica.py",
        "            await self._offload(sync_path, database.wal_path)\n",
        "            await self._offload(lambda: None)\n",
        "tests/cache/test_replica.py tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a mark as sent is durable before the mutation is sent",
        "drivefs/sync/commits.py",
        "        await self._journal.log_barrier()\n",
        "",
        "tests/sync/test_commits.py tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a nonce is durable before it is offered",
        "drivefs/sync/session.py",
        "        journal.set_meta(ASKED, asked)\n        await local.barrier()\n",
        "        journal.set_meta(ASKED, asked)\n",
        "tests/sync/test_session.py tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a failed sync poisons the journal",
        "cache/barrier.py",
        "            raise self._database.poison(error) from error\n",
        "            raise Poisoned(str(error)) from error\n",
        "tests/cache/test_barrier.py",
    ),
    Weakening(
        "what is moved to lost+found is synced before",
        "cache/lost.py",
        "        sync_path(source)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "the log of a damaged journal is gone before another journal has its name",
        "cache/salvage.py",
        "    sync_path(state_dir)\n    os.replace(salvaged, path)\n",
        "    os.replace(salvaged, path)\n",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "the journal forgets what the replica has durably",
        "drivefs/sync/follower.py",
        "replica.synced_seq(self._workspace)",
        "replica.cursor(self._workspace).seq",
        "tests/sync/test_follower.py",
    ),
    Weakening(
        "a finished copy of a content is synced",
        "drivefs/sync/draft_files.py",
        "    os.fsync(descriptor)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    # -- compares and gates on a device
    Weakening(
        "staged bytes are verified before they are sent",
        "cache/staging.py",
        "        if digest(data) != content:\n",
        "        if False:\n",
        "tests/cache",
    ),
    Weakening(
        "rot in the log is looked for",
        "cache/workspace.py",
        "        rescued = rescue_log(path, lost.directory)\n",
        "        rescued: list[Finding] = []\n",
        "tests/cache/test_recovery.py",
    ),
    Weakening(
        "a power cut is told from a kill",
        "cache/workspace.py",
        "        is_thorough = is_suspect or last_boot not in (None, boot_id())\n",
        "        is_thorough = is_suspect\n",
        "tests/cache/test_recovery.py tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "what is on its way is not cut for records that lack bytes",
        "cache/recovery.py",
        "        if first_bad.id <= draft.frozen and self._stand_on_store(draft, place):\n",
        "        if False:\n",
        "tests/simulation/test_small_worlds.py::test_what_one_device_did_arrives_whatever_crashes[stage]",
    ),
    Weakening(
        "one process has the state",
        "cache/workspace.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "tests/cache/test_workspace.py",
    ),
    Weakening(
        "nothing of a newer state is touched",
        "cache/workspace.py",
        "        refuse_newer(path, JOURNAL_VERSION)\n",
        "",
        "tests/cache/test_recovery.py",
    ),
    Weakening(
        "nothing new is accepted when the disk is full",
        "cache/reserve.py",
        "        if spare < 0 or not self._is_held:\n",
        "        if False:\n",
        "tests/cache/test_barrier.py",
    ),
    Weakening(
        "a cached block is verified",
        "cache/block_files.py",
        "    return checksum(whole) == wanted.checksum\n",
        "    return True\n",
        "tests/cache/test_blocks.py",
    ),
    Weakening(
        "a block that is being read is not evicted",
        "cache/blocks.py",
        "choose_victims(wanted_bytes, self.limit_bytes, self._pins)",
        "choose_victims(wanted_bytes, self.limit_bytes, {})",
        "tests/cache/test_blocks.py",
    ),
    Weakening(
        "a block is what its id says",
        "drivefs/protocol/blocks.py",
        "    if block_id(plaintext) != expected:\n",
        "    if False:\n",
        "tests/protocol tests/backend/api/test_block_transfer.py",
    ),
    # -- the server
    Weakening(
        "an object is synced",
        "backend/blockstore/local.py",
        "            _write_all(descriptor, whole)\n            os.fsync(descriptor)\n",
        "            _write_all(descriptor, whole)\n",
        "tests/simulation/test_safety_steps.py tests/backend/blockstore",
    ),
    Weakening(
        "an object written past the page cache is synced",
        "backend/blockstore/local.py",
        "            os.ftruncate(descriptor, length)\n            os.fsync(descriptor)\n",
        "            os.ftruncate(descriptor, length)\n",
        "tests/simulation/test_safety_steps.py tests/backend/blockstore",
    ),
    Weakening(
        "the name of an object is synced",
        "backend/blockstore/local.py",
        "            _sync_directory(directory)\n",
        "            pass\n",
        "tests/simulation/test_disk.py",
    ),
    Weakening(
        "a directory of objects is synced into its parent",
        "backend/blockstore/local.py",
        "            _sync_directory(place.parent)\n",
        "            pass\n",
        "tests/simulation/test_disk.py",
    ),
    Weakening(
        "what is put aside in the store is durable there",
        "backend/blockstore/local.py",
        "            _sync_directory(target.parent)\n            _sync_directory(source.parent)\n",
        "",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a backup is synced",
        "backend/service/backups.py",
        "        os.fsync(descriptor)\n",
        "        pass\n",
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a device's own token is good for passes only",
        "backend/service/accounts.py",
        "        if self._ground.limits.pass_seconds:\n",
        "        if False:\n",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "a pass is the server's own",
        "backend/service/passes.py",
        "not hmac.compare_digest(whole[_SAID.size :], _seal(key, whole[: _SAID.size]))",
        "False",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "a pass runs out",
        "backend/service/passes.py",
        " or expires_ns <= now_ns:",
        ":",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "a commit is on the disk when it is acknowledged",
        "backend/metadata/sqlite.py",
        '"PRAGMA synchronous=FULL"',
        '"PRAGMA synchronous=NORMAL"',
        "tests/simulation/test_safety_steps.py",
    ),
    Weakening(
        "a commit names only blocks that are here and pinned",
        "backend/service/commit/contents.py",
        "not (known.is_pinned or block in in_base)",
        "False",
        "tests/backend/service/test_commit_contents.py tests/backend/service/test_ops.py",
    ),
    Weakening(
        "a device that has sent a block may name it",
        "backend/service/blocks.py",
        "is_proven=True",
        "is_proven=False",
        "tests/backend/api/test_shared_blocks.py",
    ),
    Weakening(
        "an upload to a full account is refused before it comes",
        "backend/service/blocks.py",
        "        if room <= 0:\n",
        "        if False:\n",
        "tests/backend/api/test_block_transfer.py",
    ),
    Weakening(
        "a store is compared with its base",
        "backend/service/commit/inodes.py",
        "    if not state.is_at(row, mutation.base):\n",
        "    if False:\n",
        "tests/backend/service/test_commit_contents.py",
    ),
    Weakening(
        "a removal is compared with its base",
        "backend/service/commit/naming.py",
        "    return row.kind != FILE or row.nlink > 1 or state.is_at(row, base)\n",
        "    return True\n",
        "tests/backend/service/test_commit_names.py",
    ),
    Weakening(
        "no directory is moved below itself",
        "backend/service/commit/naming.py",
        "    if row.kind == DIRECTORY and state.tree.is_within(new_parent, row.inode):\n",
        "    if False:\n",
        "tests/backend/service/test_commit_names.py",
    ),
    Weakening(
        "an op that was answered is not applied again",
        "backend/service/batches.py",
        "loader.results(wants.collect(request.mutations).ops)",
        "{}",
        "tests/backend/service/test_ops.py",
    ),
    Weakening(
        "an op waits for its predecessors",
        "backend/service/commit/batch.py",
        "            state.require_settled(op)\n",
        "            pass\n",
        "tests/backend/service/test_ops.py",
    ),
    Weakening(
        "a device commits under its epoch",
        "backend/service/commits.py",
        "        sessions.require_epoch(connection, caller, request.epoch, request.nonce)\n",
        "",
        "tests/backend/service/test_sessions.py tests/backend/service/test_ops.py",
    ),
    Weakening(
        "a device commits in its last session",
        "backend/service/sessions.py",
        ' or nonce not in (b"", present.nonce):',
        ":",
        "tests/backend/service/test_ops.py tests/sync/test_rolled_back.py",
    ),
    Weakening(
        "a rolled-back disk is found out",
        "backend/service/sessions.py",
        "    return bool(request.epoch == known.epoch and request.last_nonce == known.nonce)\n",
        "    return bool(request.epoch == known.epoch)\n",
        "tests/backend/service/test_sessions.py",
    ),
    Weakening(
        "who may only read changes nothing",
        "backend/service/commit/batch.py",
        "        if not state.author.may_write:\n",
        "        if False:\n",
        "tests/backend/service/test_ops.py",
    ),
    # -- what is let go of
    Weakening(
        "a pinned block is not collected",
        "backend/service/garbage.py",
        ", b.block.not_in(pinned))",
        ")",
        "tests/backend/api/test_garbage.py",
    ),
    Weakening(
        "what shares an object with a block that is collected is looked at",
        "backend/service/garbage.py",
        "        if all(may_go(block, generation) for block, generation in those):\n",
        "        if any(may_go(block, generation) for block, generation in those):\n",
        "tests/backend/api/test_garbage.py",
    ),
    Weakening(
        "blocks are forgotten only if they have not come back",
        "backend/service/garbage.py",
        '    blocks.c.generation == bindparam("n"),\n    blocks.c.state == BlockState.DELETING,\n',
        "",
        "tests/backend/api/test_garbage.py",
    ),
    Weakening(
        "nothing is deleted during a backup",
        "backend/service/garbage.py",
        "        async with self.deleting:\n",
        "        if True:\n",
        "tests/backend/api/test_garbage.py",
    ),
    Weakening(
        "a page of the feed leaves out no commit",
        "backend/service/changes.py",
        "        is_whole = _are_contiguous(rows, max(cursor.seq + 1, access.first_seq))\n",
        "        is_whole = bool(rows)\n",
        "tests/backend/service/test_changes.py",
    ),
    Weakening(
        "a page that does not begin at the cursor is not applied",
        "drivefs/sync/follower.py",
        "        if cursor is not None and page.since != cursor.seq:\n",
        "        if False:\n",
        "tests/sync/test_gaps.py",
    ),
    Weakening(
        "no request is read before it is known what happened during a standstill",
        "drivefs/fuse/polling.py",
        "            await self.gate.end()\n",
        "            break\n",
        "tests/fuse/test_polling.py",
    ),
    Weakening(
        "a device that was put back to an earlier moment of its mount is known",
        "backend/service/sessions.py",
        " or _heard(connection, caller, epoch) > request.sent:",
        ":",
        "tests/sync/test_rolled_back.py",
    ),
    Weakening(
        "contents are as before when an answer could not be noted",
        "drivefs/sync/commits.py",
        "            put_back()\n",
        "",
        "tests/sync/test_full_disk.py",
    ),
)


def weakened(place: Path, row: Weakening) -> None:
    """Copy the tree to a directory, without the step."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    path = place / row.path
    text = path.read_text()
    assert text.count(row.step) == 1, f"{row.path} has the step {row.name!r} {text.count(row.step)} times"
    path.write_text(text.replace(row.step, row.without))


def is_noticed(row: Weakening) -> bool:
    """Whether its tests fail without the step."""
    with tempfile.TemporaryDirectory(prefix="drivefs-gate-") as place:
        weakened(Path(place), row)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *row.tests.split()]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode not in (0, 1):
            raise RuntimeError(
                f"the tests of {row.name!r} could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done.returncode == 1


def main() -> int:
    """Try the rows that are named, or all; 1 if any step is missed by no test."""
    parser = argparse.ArgumentParser(prog="scripts/gate", description="Take one safety step away at a time.")
    parser.add_argument("names", nargs="*", help="only steps whose names contain one of these words")
    parser.add_argument("--list", action="store_true", help="only say which steps there are")
    arguments = parser.parse_args()
    rows = [row for row in WEAKENINGS if not arguments.names or any(name in row.name for name in arguments.names)]
    survivors = []
    for number, row in enumerate(rows, 1):
        if arguments.list:
            print(f"{row.name}: {row.path}; {row.tests}")
            continue
        began = time.monotonic()
        found = is_noticed(row)
        survivors += [] if found else [row]
        word = "noticed " if found else "SURVIVED"
        print(f"{number:3}/{len(rows)} {word} {time.monotonic() - began:5.1f} s  {row.name}", flush=True)
    for row in survivors:
        print(f"no test of {row.tests} fails without this: {row.name} ({row.path})")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())

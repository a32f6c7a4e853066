"""The programs that people run in a directory, on the drive: archivers, git, rsync, sqlite3, editors, fio.

Owns whole-program checks; single calls are held against ext4 elsewhere.
"""

import fcntl
import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.oracle import RENAME_EXCHANGE, Pair, rename2, snapshot, write_file

COMMAND_SECONDS = 120


def run(*command: object, cwd: Path | None = None, check: bool = True) -> str:
    """Run a program; what it prints is shown when it fails."""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_tree(root: Path, files: int = 150) -> Path:
    """A tree as a project has it: sources, links, an executable, one larger file."""
    chance = random.Random(7)
    for number in range(files):
        path = root / f"package{number % 6}/module{number % 11}/file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"line {line} of {number}: {chance.random()}\n" for line in range(chance.randrange(120))]
        path.write_text("".join(lines))
        os.utime(path, ns=(10**18, 1_500_000_000_123_456_789 + number))
    write_file(root / "run", b"#!/bin/sh\necho ran\n", mode=0o755)
    write_file(root / "image.bin", chance.randbytes(2_000_000))
    (root / "latest").symlink_to("package0/module0")
    os.utime(root / "latest", ns=(10**18, 10**18), follow_symlinks=False)
    os.link(root / "run", root / "package1/hard link")
    os.setxattr(root / "image.bin", "user.origin", b"camera")
    return root


def test_tar_gives_back_what_it_took(both: Pair) -> None:
    """An archive made on the drive and unpacked on it is the same tree."""
    tree = source_tree(both.oracle / "tree")
    run("tar", "--xattrs", "-cf", both.drive / "archive.tar", "-C", tree, ".")
    (both.drive / "unpacked").mkdir()
    run("tar", "--xattrs", "-xpf", both.drive / "archive.tar", "-C", both.drive / "unpacked")
    assert snapshot(both.drive / "unpacked") == snapshot(tree)
    run("tar", "-df", both.drive / "archive.tar", "-C", both.drive / "unpacked")


def test_git_lives_on_the_drive(both: Pair) -> None:
    """A repository's whole life: commits, branches, merge, gc, fsck, clone, worktree status."""
    tree = source_tree(both.drive / "project", files=80)
    run("git", "init", "-q", "-b", "main", cwd=tree)
    run("git", "add", "-A", cwd=tree)
    run("git", "commit", "-q", "-m", "first", cwd=tree)
    assert run("git", "status", "--porcelain", cwd=tree) == ""
    run("git", "checkout", "-q", "-b", "topic", cwd=tree)
    for number in range(6):
        write_file(tree / f"topic{number}.txt", b"topic %d\n" % number)
        run("git", "add", "-A", cwd=tree)
        run("git", "commit", "-q", "-m", f"topic {number}", cwd=tree)
    run("git", "checkout", "-q", "main", cwd=tree)
    write_file(tree / "package0/module0/file0.txt", b"changed\n")
    run("git", "commit", "-qam", "on main", cwd=tree)
    run("git", "merge", "-q", "--no-edit", "topic", cwd=tree)
    run("git", "gc", "--aggressive", "--prune=now", "-q", cwd=tree)
    run("git", "fsck", "--full", "--strict", cwd=tree)
    run("git", "clone", "-q", tree, both.drive / "clone")
    run("git", "fsck", "--full", cwd=both.drive / "clone")
    assert run("git", "status", "--porcelain", cwd=both.drive / "clone") == ""
    assert int(run("git", "rev-list", "--count", "HEAD", cwd=both.drive / "clone")) == 9


def test_rsync_finds_nothing_left_to_do(both: Pair) -> None:
    """rsync -aHAX copies in; a second run with --checksum changes nothing, in either direction."""
    tree = source_tree(both.oracle / "tree")
    copy = ["rsync", "-aHAX", "--checksum", "--itemize-changes"]
    assert run(*copy, f"{tree}/", f"{both.drive}/copy/") != ""
    assert run(*copy, f"{tree}/", f"{both.drive}/copy/") == ""
    assert snapshot(both.drive / "copy", times=True) == snapshot(tree, times=True)
    write_file(tree / "image.bin", b"smaller now")
    (tree / "latest").unlink()
    shutil.rmtree(tree / "package2")
    assert run(*copy, "--delete", f"{tree}/", f"{both.drive}/copy/") != ""
    assert run(*copy, "--delete", f"{tree}/", f"{both.drive}/copy/") == ""
    assert run(*copy, f"{both.drive}/copy/", f"{both.oracle}/back/") != ""
    assert run(*copy, f"{both.drive}/copy/", f"{both.oracle}/back/") == ""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite_keeps_its_integrity_in_every_journal_mode(both: Pair, mode: str) -> None:
    """Transactions, rollbacks, vacuum; integrity_check is ok and the content is right."""
    database = both.drive / "data.db"
    statements = [
        f"PRAGMA journal_mode={mode};",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);",
        *[f"INSERT INTO t (body) VALUES (randomblob({100 + number * 13}));" for number in range(60)],
        "BEGIN; DELETE FROM t WHERE id % 2; ROLLBACK;",
        "BEGIN; DELETE FROM t WHERE id % 3 = 0; COMMIT;",
        "VACUUM;",
        "INSERT INTO t (body) SELECT zeroblob(50000) FROM t LIMIT 20;",
    ]
    run("sqlite3", "-bail", database, "\n".join(statements))
    found = run("sqlite3", database, "PRAGMA integrity_check; SELECT count(*), sum(length(body)) > 1000000 FROM t;")
    assert found == "ok\n60|1\n"


def test_sqlite_connections_see_each_other_through_wal(both: Pair) -> None:
    """[local-locks] [mmap-write]"""
    path = both.drive / "shared.db"
    with sqlite3.connect(path, timeout=30) as first:
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("CREATE TABLE t (writer INTEGER, n INTEGER)")
    first.close()
    children = []
    for writer in range(3):
        child = os.fork()
        if child == 0:
            connection = sqlite3.connect(path, timeout=60)
            for number in range(25):
                with connection:
                    connection.execute("INSERT INTO t VALUES (?, ?)", (writer, number))
            connection.close()
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(DISTINCT writer * 100 + n) FROM t").fetchone() == (75,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def save_by_rename(path: Path, content: bytes) -> None:
    """As vim with backupcopy=no and most programs: write beside it, sync, rename over it."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    shutil.copystat(path, beside)
    os.rename(beside, path)


def save_by_rename_aside(path: Path, content: bytes) -> None:
    """As emacs and office programs: the old file becomes the backup, a new one takes its name."""
    aside = path.with_name(path.name + "~")
    os.rename(path, aside)
    path.write_bytes(content)
    os.chmod(path, aside.stat().st_mode)
    os.unlink(aside)


def save_in_place(path: Path, content: bytes) -> None:
    """As nano: truncate and write."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)
        os.fsync(file.fileno())


def save_by_exchange(path: Path, content: bytes) -> None:
    """As careful programs on Linux: write beside it, swap the two names, drop the old one."""
    beside = write_file(path.with_name("new"), content)
    rename2(beside, path, RENAME_EXCHANGE)
    os.unlink(beside)


def save_by_link(path: Path, content: bytes) -> None:
    """As old tools: keep a hard link as the backup, replace the name."""
    backup = path.with_name(path.name + ".bak")
    backup.unlink(missing_ok=True)
    os.link(path, backup)
    beside = write_file(path.with_name("new"), content)
    os.rename(beside, path)


SAVES = [save_by_rename, save_by_rename_aside, save_in_place, save_by_exchange, save_by_link]


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_every_way_to_save_leaves_the_new_content(both: Pair, save: Callable[[Path, bytes], None]) -> None:
    """[rename-over-file] [rename-exchange] [open-truncate]"""

    def work(root: Path) -> list[object]:
        path = write_file(root / "document", b"version 0", mode=0o640)
        seen: list[object] = []
        for version in range(1, 6):
            save(path, b"version %d, " % version * version * 1000)
            seen.append((len(path.read_bytes()), path.read_bytes()[:12], path.stat().st_mode & 0o777))
        return [*seen, sorted(os.listdir(root))]

    both(work)
    both.assert_same_tree()


@pytest.mark.parametrize("engine", ["psync", "mmap", "sync"])
@pytest.mark.parametrize("pattern", ["write", "randwrite", "randrw"])
def test_fio_verifies_what_it_wrote(both: Pair, engine: str, pattern: str) -> None:
    """[write-read] [mmap-write]"""
    printed = run(
        "fio", "--name=verify", f"--filename={both.drive}/fio", "--size=6m", "--bs=4k-64k", f"--rw={pattern}",
        f"--ioengine={engine}", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fallocate=none",
        "--randseed=9", "--end_fsync=1", "--verify_state_save=0", cwd=both.oracle,
    )  # fmt: skip
    assert re.search(r"err= *0", printed), printed


def test_find_grep_diff_and_cp_agree_with_ext4(both: Pair) -> None:
    """[stat-same] [readdir-once]"""

    def work(root: Path) -> list[str]:
        source_tree(root / "tree", files=60)
        run("cp", "-a", root / "tree", root / "copy")
        found = [
            run("diff", "-r", "tree", "copy", cwd=root),
            run("find", ".", "!", "-type", "d", "-printf", "%P %y %m %s %n\n", cwd=root),
            run("grep", "-rc", "line 7 ", ".", cwd=root),
        ]
        return ["\n".join(sorted(lines.splitlines())) for lines in found]

    both(work)
    both.assert_same_tree()


def test_locks_exclude_other_processes(both: Pair) -> None:
    """[local-locks]"""

    def work(root: Path) -> list[int]:
        path = write_file(root / "lock")
        results = []
        for take in (fcntl.flock, fcntl.lockf):
            with open(path, "r+b") as held:
                take(held, fcntl.LOCK_EX)
                child = os.fork()
                if child == 0:
                    with open(path, "r+b") as other:
                        try:
                            take(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        except BlockingIOError:
                            os._exit(7)
                    os._exit(0)
                results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return results

    assert both(work) == [7, 7]

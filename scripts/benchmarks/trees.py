"""A source tree and the tools that people run on one: tar, find, grep, cp, rm, git. Child processes, as in a shell."""

from pathlib import Path

from benchmarks import processes, source_tree
from benchmarks.workloads import Figures, Round, Stopwatch, Work, timed

GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}


def tar_of(round_: Round) -> Path:
    """The round's tree, made once for all targets."""
    path = round_.scratch / f"tree-{round_.number}.tar"
    if not path.exists():
        source_tree.make_tar(path, round_.random("tree"), round_.settings.tree_file_count)
    return path


def tree(work: Work) -> Figures:
    """Unpacks the tree, looks through it, copies it and removes the copy."""
    tar = tar_of(work.round)
    watch = Stopwatch()
    processes.run("tar", "-xf", tar, "-C", work.place)
    figures = {"untar": watch.seconds}
    if work.target.wait_synced():
        figures["untar_synced"] = watch.seconds
    there, copy = work.place / "tree", work.place / "copy"
    figures["find"] = timed(lambda: processes.run("find", there, "-printf", "%s %T@ %p\\n"))
    figures["grep"] = timed(lambda: processes.run("grep", "-r", "-l", source_tree.NEEDLE, there))
    figures["copy"] = timed(lambda: processes.run("cp", "-r", there, copy))
    work.target.wait_synced()
    figures["remove"] = timed(lambda: processes.run("rm", "-rf", copy))
    return figures


def git(work: Work) -> Figures:
    """Puts the tree under version control."""
    processes.run("tar", "-xf", tar_of(work.round), "-C", work.place)
    work.target.wait_synced()

    def run(*words: str) -> float:
        command = ("git", "-C", work.place / "tree", "-c", "gc.auto=0", "-c", "safe.directory=*", *words)
        return timed(lambda: processes.run(*command, env=GIT_ENVIRONMENT))

    run("init", "-q")
    add = run("add", "--all")
    commit = run("commit", "-q", "-m", "all of it")
    return {
        "git_add": add,
        "git_commit": commit,
        "git_add_commit": add + commit,
        "git_status": run("status", "--short"),
    }

"""How fast a mount is there again, and what it answers about itself; last in a round."""

from benchmarks.workloads import Figures, Work


def mounting(work: Work) -> Figures:
    """Asks for the state, looks at the memory, and mounts again."""
    found = {"status": work.target.status(), "memory": None, "mount": None}
    if used := work.target.memory_bytes():
        found["memory"] = used / 2**20
    found["mount"] = work.target.remount()
    return {key: value for key, value in found.items() if value is not None}

"""What a device keeps is damaged, in many ways, after a mount that was killed: nothing is wrong without a word.

Owns one state made by a real mount, of which each test damages copies. In this process, many: the state opens, and what
was accepted is there or its loss is told, or it is refused with nothing overwritten; and repair makes it usable. By
real mounts, a few. `--damage-seeds` chooses how many.
"""

import json
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from cache.check import check
from cache.errors import CacheError, NewerState
from cache.findings import Finding
from cache.repair import Repaired, repair
from cache.workspace import LocalState
from drivefs.cli.main import main
from drivefs.protocol.ids import InodeId
from drivefs.sync.export import LIST_NAME, Exporter
from tests.mount.conftest import opened
from tests.support import damage
from tests.support.mounts import Device, Watchdog, Workbench, wait_until

LIMIT = 2**40
UNTOUCHED = ("journal.db", "staging/")
SHARED_MEMORY = "journal.db-shm"
"""What a refusal leaves byte for byte as it was; of the journal's log too, since it belongs to it."""


@dataclass
class Original:
    """The state as the kill left it, and what had been accepted by then and was not sent."""

    device: Device
    home: Path
    contents: dict[str, bytes]
    root: InodeId


@dataclass
class Copy:
    """A copy of it."""

    original: Original
    home: Path
    chance: random.Random
    did: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What people were told so far."""

    @property
    def state(self) -> Path:
        return self.home / "state/drivefs/default"

    @property
    def cache(self) -> Path:
        return self.home / "cache/drivefs/default"

    def files(self) -> list[Path]:
        """All that can be damaged, the journal more often than the rest."""
        found = [path for place in (self.state, self.cache) for path in place.rglob("*") if path.is_file()]
        found = sorted(path for path in found if path.name not in ("reserve", "lock") and "log" not in path.suffix)
        return found + [path for path in found if path.name.startswith("journal.db")] * 4

    def break_something(self) -> None:
        for _ in range(self.chance.choice([1, 1, 1, 2, 3])):
            files = self.files()
            if files:
                self.did.append(damage.damage(self.chance, self.chance.choice(files)))

    def precious(self) -> dict[str, bytes]:
        names = {str(path.relative_to(self.state)): path for path in self.state.rglob("*") if path.is_file()}
        wanted = [name for name in names if name.startswith(UNTOUCHED) and name != SHARED_MEMORY]
        return {name: names[name].read_bytes() for name in wanted}

    def open(self) -> tuple[list[Finding], dict[str, bytes], dict[str, Any]]:
        """Open it: what recovery says, what there is that exists nowhere else, and what of it is said to be missing."""
        target = self.home / f"export{len(list(self.home.iterdir()))}"
        target.mkdir()

        async def quiet(_count: int, _size: int) -> None:
            await trio.lowlevel.checkpoint()

        async def run() -> list[Finding]:
            offload: Any = trio.to_thread.run_sync
            with LocalState(self.state, self.cache, offload=offload, cache_limit_bytes=LIMIT) as local:
                await Exporter(local, self.original.root, target, self.state / "nothing").run(quiet)
                return local.report

        report = trio.run(run)
        found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        listed = json.loads(found.pop(LIST_NAME))
        return report, found, listed

    def mend(self) -> Repaired:
        async def quiet(_done: int, _total: int) -> None:
            await trio.lowlevel.checkpoint()

        async def run() -> Repaired:
            return await repair(self.state, self.cache, offload=trio.to_thread.run_sync, progress=quiet)

        return trio.run(run)

    def assert_nothing_is_silently_wrong(self) -> None:
        report, found, listed = self.open()
        self.said += [each.what for each in report]
        self.said += [json.dumps(each) for each in listed["files"] if each.get("missing") or each.get("problem")]
        # Where the replica is gone, so is the way to a file that the server has: its content is exported all the same.
        kept = set(found.values())
        wrong = [name for name, data in self.original.contents.items() if found.get(name) != data and data not in kept]
        assert not wrong or self.said, (self.did, wrong)


@pytest.fixture(scope="module")
def original(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Original]:
    for workbench in opened(pytestconfig, watchdog, server_home):
        yield make_original(workbench)


def make_original(workbench: Workbench) -> Original:
    """Some files are synced, then the server goes; others are made, changed, renamed, removed; then kill -9."""
    chance = random.Random(1)
    server = workbench.server()
    device = workbench.device(server)
    drive = device.mount()
    for number in range(10):
        (drive / f"sent {number}").write_bytes(chance.randbytes(1000))
    (drive / "sent long").write_bytes(chance.randbytes(600_000))
    device.sync()
    server.stop()
    contents = {}
    (drive / "directory").mkdir()
    for number in range(25):
        name = f"{'directory/' * (number % 2)}new {number}"
        contents[name] = chance.randbytes(chance.choice([0, 10, 3000, 9000]))
        (drive / name).write_bytes(contents[name])
    contents["long"] = chance.randbytes(300_000)
    with (drive / "long").open("wb") as file:
        file.write(contents["long"])
        os.fsync(file.fileno())
    contents["renamed"] = contents.pop("new 0")
    (drive / "new 0").rename(drive / "renamed")
    contents["sent 1"] = b"changed" * 100
    (drive / "sent 1").write_bytes(contents["sent 1"])
    (drive / "sent 2").unlink()
    device.kill()
    device.clear()
    root = json.loads((device.home / "state/drivefs/default/credentials.json").read_bytes())["root"]
    return Original(device, device.home, contents, InodeId(root))


def copied(original: Original, target: Path, seed: int) -> Copy:
    for name in ("state", "cache", "config"):
        shutil.copytree(original.home / name, target / name, ignore=shutil.ignore_patterns("reserve"))
    copy = Copy(original, target, random.Random(seed))
    (copy.state / "reserve").touch(0o600)
    return copy


def seeds(config: pytest.Config) -> range:
    first, _, last = str(config.getoption("--damage-seeds")).partition("-")
    return range(int(first), int(last) + 1) if last else range(1, int(first) + 1)


def test_without_damage_everything_is_there(original: Original, tmp_path: Path) -> None:
    report, found, _ = copied(original, tmp_path, 0).open()
    assert found == original.contents
    assert not report


def test_damage_is_told_or_refused_and_can_be_mended(
    original: Original, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """[damaged-state] Every acknowledged byte is there, or people are told; a refusal overwrites nothing."""
    outcomes: Counter[str] = Counter()
    failures = []
    for seed in seeds(pytestconfig):
        copy = copied(original, tmp_path / str(seed), seed)
        copy.break_something()
        try:
            # Every third is mended without a mount before.
            outcome = attempt(copy) if seed % 3 else "mended"
            if outcome != "newer":
                mend_and_look(copy)
            outcomes[outcome] += 1
            shutil.rmtree(copy.home)
        except Exception:
            failures.append(f"--damage-seeds {seed}-{seed}: {copy.did}: {traceback.format_exc(limit=-4)}")
    assert not failures, "\n".join(failures)
    assert outcomes["opened"] or len(seeds(pytestconfig)) < 10
    assert outcomes["refused"] or len(seeds(pytestconfig)) < 10
    print(outcomes)


def attempt(copy: Copy) -> str:
    """Open it; gives what came of it."""
    before = copy.precious()
    try:
        copy.assert_nothing_is_silently_wrong()
    except CacheError as error:
        raise_if_changed(copy, before)
        return "newer" if isinstance(error, NewerState) else "refused"
    return "opened"


def raise_if_changed(copy: Copy, before: dict[str, bytes]) -> None:
    changed = [name for name, data in copy.precious().items() if before.get(name) != data]
    if changed:
        raise AssertionError(f"it was refused, and {changed} changed")


def mend_and_look(copy: Copy) -> None:
    """Mend it; then it is sound, and opens."""
    try:
        done = copy.mend()
    except NewerState:
        return
    copy.said += [each.what for each in done.found]
    assert not done.left, done.left
    assert not check(copy.state, copy.cache)
    copy.assert_nothing_is_silently_wrong()


def test_settings_that_make_no_sense_are_refused_in_words(
    original: Original,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """[damaged-settings] config.toml, credentials and the record of a mount: a sentence, and nothing is overwritten."""
    copy = copied(original, tmp_path, 0)
    runtime = tmp_path / "runtime/drivefs/some"
    runtime.mkdir(parents=True)
    record = {"profile": "default", "mountpoint": "/nowhere", "state": str(copy.state), "pid": 1}
    (runtime / "mount.json").write_text(json.dumps(record))
    for variable, name in (("CONFIG", "config"), ("STATE", "state"), ("CACHE", "cache"), ("RUNTIME", "runtime")):
        monkeypatch.setenv(f"XDG_{variable}_{'DIR' if variable == 'RUNTIME' else 'HOME'}", str(tmp_path / name))
    monkeypatch.delenv("DRIVEFS_DEBUG", raising=False)
    targets = [tmp_path / "config/drivefs/config.toml", copy.state / "credentials.json", runtime / "mount.json"]
    originals = {path: path.read_bytes() for path in targets}
    journal = copy.precious()
    for seed in seeds(pytestconfig):
        chance = random.Random(seed)
        path = chance.choice(targets)
        if chance.random() < 0.5:
            path.write_text(damage.damage_text(chance, originals[path].decode()))
        else:
            damage.damage(chance, path)
        broken = path.read_bytes() if path.exists() else None
        for words in (["status"], ["check"], ["cache", "show"], ["mount", "/nowhere/at/all"], ["export", "/proc/no"]):
            code = main(words)
            shown = capsys.readouterr()
            assert "did not expect" not in shown.err, (seed, words, shown.err, broken)
            assert code == 0 or shown.err or words == ["check"], (seed, words, broken)
        assert (path.read_bytes() if path.exists() else None) == broken, seed
        path.write_bytes(originals[path])
        assert copy.precious().keys() >= journal.keys()


@pytest.mark.parametrize("seed", range(1, 4))
def test_real_mounts_of_damaged_states_work_or_say_why_not(
    original: Original, tmp_path: Path, watchdog: Watchdog, seed: int
) -> None:
    """[damaged-state] [check-repair] The same by the commands: mount, check, check --repair, mount."""
    device = Device(tmp_path / "device", original.device.server, "ada", watchdog)
    for name in ("state", "cache", "config"):
        shutil.rmtree(device.home / name)
    copy = copied(original, device.home, 1000 + seed)
    path = copy.state / "journal.db"
    whole = path.read_bytes()
    path.write_bytes([damage.zero_page, damage.noise_page, damage.truncate][seed - 1](copy.chance, whole))
    broken = path.read_bytes()
    try:
        if mounts(device):
            device.umount("--now")
        else:
            assert "check --repair" in device.log.read_text()
            assert "Traceback" not in device.log.read_text()
            assert path.read_bytes() == broken
        found = device.command("check", "--json")
        mended = device.command("check", "--repair", "--json")
        assert found.returncode in (0, 7), found
        assert mended.returncode == {0: 0, 7: 8}[found.returncode], mended
        assert json.loads(mended.stdout)["outcome"] == {0: "sound", 8: "mended"}[mended.returncode]
        assert device.command("check").returncode == 0
        drive = device.mount()
        kept = b"".join(each.read_bytes() for each in (copy.state / "lost+found").rglob("*") if each.is_file())
        for name, data in original.contents.items():
            is_there = (drive / name).exists() and (drive / name).read_bytes() == data
            assert is_there or data in kept or broken in kept, name
        device.umount("--now")
    finally:
        device.clear()


def mounts(device: Device) -> bool:
    """Whether it can be mounted."""
    device.start_mount()
    try:
        wait_until("it mounts, or says why not", device.answers)
    except RuntimeError:
        device.ended()
        return False
    return True

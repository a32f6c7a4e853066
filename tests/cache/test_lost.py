"""What is put into `lost+found` is there after a power cut."""

from pathlib import Path

import pytest

from cache import lost
from cache.lost import LostAndFound


def test_a_link_has_its_name_when_that_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, bool]] = []
    place = tmp_path / "lost+found" / "name"
    monkeypatch.setattr(lost, "sync_path", lambda path: synced.append((path, place.is_symlink())))
    for target in (b"one", b"one", b"another"):
        synced.clear()
        assert LostAndFound(place.parent).keep_link("name", target) == place
        assert synced == [(place.parent, True)]
        assert place.readlink() == Path(target.decode())

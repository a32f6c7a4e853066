"""What conflict copies are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol.names import MAX_NAME_BYTES, is_valid_name
from drivefs.sync.renaming import conflict_name


def test_conflict_copy_keeps_the_extension_and_tells_device_and_date() -> None:
    name = conflict_name(b"thesis.tex", device="laptop", date="2026-11-21", taken=0)
    assert name == b"thesis (conflicted copy, laptop, 2026-11-21).tex"
    assert conflict_name(b"a", device="d", date="t", taken=1) == b"a (conflicted copy, d, t 2)"


def test_hidden_file_is_not_all_extension() -> None:
    assert conflict_name(b".bashrc", device="d", date="t", taken=0) == b".bashrc (conflicted copy, d, t)"


def test_device_of_any_name_numbers_its_copies() -> None:
    """Who looks for a free name would look for ever otherwise."""
    for device in ("d" * 128, "ж" * 128, "語" * 128):
        names = {conflict_name(b"note.txt", device=device, date="2026-11-21", taken=taken) for taken in (0, 1, 99)}
        assert len(names) == 3
        assert all(name.decode().endswith(").txt") for name in names)


def test_label_is_one_line() -> None:
    assert conflict_name(b"a", device="x\n\x1b/", date="t", taken=0) == b"a (conflicted copy, x---, t)"


@pytest.mark.parametrize("letter", ["ä", "語", "🦉", "x🦉"])
def test_long_name_is_cut_between_letters(letter: str) -> None:
    letters = letter * (251 // len(letter.encode()))
    for device in ("d", "dd", "ddd", "dddd"):
        derived = conflict_name(f"{letters}.txt".encode(), device=device, date="2026-11-21", taken=0)
        assert letters.startswith(derived.decode().partition(" (conflicted")[0])
        assert len(derived) > MAX_NAME_BYTES - 4


@given(st.binary(min_size=1, max_size=255).filter(is_valid_name), st.text(max_size=128), st.integers(0, 10**6))
def test_any_name_gives_a_valid_name_that_differs(name: bytes, device: str, taken: int) -> None:
    derived = conflict_name(name, device=device, date="2026-11-21", taken=taken)
    assert is_valid_name(derived)
    assert len(derived) <= MAX_NAME_BYTES
    assert derived != name

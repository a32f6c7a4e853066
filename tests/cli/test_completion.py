"""Completion scripts: made from the parser, accepted by the shells that are here, and completing what they should."""

import shutil
import subprocess

import pytest

from drivefs.cli import completion
from drivefs.cli.command import build_parser
from drivefs.cli.main import COMMANDS, load

TABLE = completion.completions(build_parser(load(COMMANDS)))


def bash_completes(*words: str) -> list[str]:
    script = (
        completion.bash(TABLE)
        + f"""
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
[ "${{COMP_WORDS[-1]}}" != _ ] || COMP_WORDS[-1]=
_drivefs
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    )
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands() -> None:
    assert bash_completes("drivefs", "st") == ["status"]
    assert {"login", "umount", "file-status"} <= set(bash_completes("drivefs", "_"))


def test_bash_completes_options_of_the_command_only() -> None:
    assert bash_completes("drivefs", "umount", "--") == ["--help", "--timeout", "--now", "--profile"]
    assert bash_completes("drivefs", "cache", "c") == ["clear"]


def test_bash_completes_directories_for_mountpoints(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("places")
    (place / "directory").mkdir()
    (place / "file").touch()
    assert bash_completes("drivefs", "mount", f"{place}/") == [f"{place}/directory"]
    assert len(bash_completes("drivefs", "file-status", f"{place}/")) == 2


@pytest.mark.parametrize("shell", [name for name in completion.GENERATORS if shutil.which(name)])
def test_shells_accept_their_scripts(shell: str) -> None:
    ended = subprocess.run([shell, "-n"], input=completion.GENERATORS[shell](TABLE), text=True, check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("shell", sorted(completion.GENERATORS))
def test_every_command_and_option_is_in_every_script(shell: str) -> None:
    script = completion.GENERATORS[shell](TABLE)
    for each in TABLE:
        assert each.command in script
        for word, _ in each.words:
            assert word.removeprefix("--") in script


def test_hidden_options_stay_hidden() -> None:
    assert not any("ready-pipe" in completion.GENERATORS[shell](TABLE) for shell in completion.GENERATORS)


def test_zsh_completes_at_the_first_word_when_it_loads_the_script_itself() -> None:
    shown = completion.zsh(TABLE)
    assert "= _drivefs ]; then" in shown
    assert shown.index('_drivefs "$@"') < shown.index("compdef _drivefs drivefs")


def test_fish_completes_paths_behind_an_action_only() -> None:
    shown = completion.fish(TABLE).splitlines()
    assert [line for line in shown if line.endswith(" -F") and " file-status'" in line]
    (cache,) = [line for line in shown if "directories" in line and "_from cache" in line]
    assert "-gt 2" in cache

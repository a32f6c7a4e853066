"""`drivefs completion`: makes the shell complete commands, options and paths, from the parser itself.

Owns the generators for bash, zsh and fish. They are small because all they need is a table: for each command its words
(options and sub-commands), and whether its arguments are directories, files or nothing.
"""

import argparse
import shlex
from dataclasses import dataclass

from drivefs.cli.command import Command
from drivefs.cli.exit_codes import ExitCode

DIRECTORIES = {"MOUNTPOINT", "DIRECTORY"}
FILES = {"PATH"}


@dataclass(frozen=True, slots=True)
class Completion:
    """What may follow one command: `words` with their explanations, and the kind of paths it takes.

    Where it `has_actions`, paths follow only after one of them.
    """

    command: str
    summary: str
    words: tuple[tuple[str, str], ...]
    takes_directories: bool
    takes_files: bool
    has_actions: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=sorted(GENERATORS), help="the shell to write for")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    print(GENERATORS[arguments.shell](completions(arguments.parser)), end="")
    return ExitCode.OK


def completions(parser: argparse.ArgumentParser) -> list[Completion]:
    """Read from the parser what may follow each command."""
    found = []
    for chooser in _choosers(parser):
        summaries = {choice.dest: choice.help or "" for choice in chooser._get_subactions()}
        for name, command in chooser.choices.items():
            found.append(_completion(name, summaries.get(name, ""), command))
    return found


def _choosers(parser: argparse.ArgumentParser) -> list["argparse._SubParsersAction[argparse.ArgumentParser]"]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _completion(name: str, summary: str, parser: argparse.ArgumentParser) -> Completion:
    words: dict[str, str] = {}
    paths: set[str] = set()
    _collect(parser, words, paths)
    return Completion(
        name, summary, tuple(words.items()), bool(paths & DIRECTORIES), bool(paths & FILES), bool(_choosers(parser))
    )


def _collect(parser: argparse.ArgumentParser, words: dict[str, str], paths: set[str]) -> None:
    """Gather what a parser and those of its sub-commands take: words with their explanations, and kinds of paths."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        words.update((option, action.help or "") for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            words.update((choice.dest, choice.help or "") for choice in action._get_subactions())
            for below in action.choices.values():
                _collect(below, words, paths)
        elif action.choices is not None:
            words.update((str(choice), "") for choice in action.choices)
        elif isinstance(action.metavar, str):
            paths.add(action.metavar)


def bash(commands: list[Completion]) -> str:
    """A completion script for bash."""
    cases = []
    for each in commands:
        words = shlex.quote(" ".join(word for word, _ in each.words))
        paths = "-f" if each.takes_files else "-d" if each.takes_directories else ""
        condition = '; [ "$COMP_CWORD" -gt 2 ] || paths=""' if each.has_actions and paths else ""
        cases.append(f"        {each.command}) words={words} paths={paths}{condition} ;;")
    names = " ".join(each.command for each in commands)
    return f"""\
# bash completion of drivefs: source it, or put it into ~/.local/share/bash-completion/completions/drivefs
_drivefs() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words="" paths=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{names} --help --version" -- "$current")
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"; [ -z "$paths" ] || compgen $paths -- "$current")
}}
complete -o filenames -F _drivefs drivefs
"""


def zsh(commands: list[Completion]) -> str:
    """A completion script for zsh."""
    names = "\n".join(f"        {_described(each.command, each.summary)}" for each in commands)
    cases = []
    for each in commands:
        words = " ".join(_described(word, summary) for word, summary in each.words)
        paths = "_files" if each.takes_files else "_files -/" if each.takes_directories else ":"
        paths = f"(( CURRENT == 3 )) || {paths}" if each.has_actions else paths
        cases.append(f"        {each.command}) words_of=({words}); _describe option words_of; {paths} ;;")
    return f"""\
#compdef drivefs
# zsh completion of drivefs: put it into a directory of $fpath, as _drivefs
_drivefs() {{
    local -a commands words_of
    commands=(
{names}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    case "${{words[2]}}" in
{chr(10).join(cases)}
    esac
}}
if [ "${{funcstack[1]}}" = _drivefs ]; then
    # Loaded from $fpath by the first completion, which is to be answered.
    _drivefs "$@"
else
    compdef _drivefs drivefs
fi
"""


def fish(commands: list[Completion]) -> str:
    """A completion script for fish."""
    shown = [
        "# fish completion of drivefs: put it into ~/.config/fish/completions/drivefs.fish",
        "complete -c drivefs -f",
    ]
    for each in commands:
        shown.append(
            f"complete -c drivefs -n __fish_use_subcommand -a {each.command} -d {shlex.quote(each.summary)}",
        )
        inside = f"complete -c drivefs -n {shlex.quote('__fish_seen_subcommand_from ' + each.command)}"
        for word, summary in each.words:
            what = f"-l {word.removeprefix('--')}" if word.startswith("--") else f"-a {word}"
            shown.append(f"{inside} {what} -d {shlex.quote(summary)}")
        paths = "-F" if each.takes_files else "-a '(__fish_complete_directories)'" if each.takes_directories else ""
        if paths and each.has_actions:
            behind = f"__fish_seen_subcommand_from {each.command}; and test (count (commandline -opc)) -gt 2"
            inside = f"complete -c drivefs -n {shlex.quote(behind)}"
        if paths:
            shown.append(f"{inside} {paths}")
    return "\n".join(shown) + "\n"


def _described(word: str, summary: str) -> str:
    return shlex.quote(word.replace(":", "\\:") + ":" + summary)


GENERATORS = {"bash": bash, "fish": fish, "zsh": zsh}

COMMAND = Command(
    name="completion",
    summary="print a completion script for a shell",
    description="Print a script that makes the shell complete drivefs's commands, options and paths.",
    examples="  source <(drivefs completion bash)\n"
    "  drivefs completion zsh > ~/.zfunc/_drivefs\n"
    "  drivefs completion fish > ~/.config/fish/completions/drivefs.fish",
    add_arguments=add_arguments,
    run=run,
)

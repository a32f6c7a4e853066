"""What a command is made of, and the command-line parser of all of them.

Owns the look of `--help`. A command's module imports what it needs only when it runs, since every command pays for
what all modules import.
"""

import argparse
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drivefs import __version__, config
from drivefs.cli.exit_codes import TABLE
from drivefs.protocol.names import is_text

DESCRIPTION = """\
A cloud drive that is a real directory. Log a device in once, mount, and work in the directory with any tool, with or
without a network: what you write is kept on this device at once and travels to the server in the background."""

EXAMPLES = """\
  drivefs login https://drive.example.org --user ann --device laptop
  drivefs mount ~/Drive
  drivefs status
  drivefs umount ~/Drive"""

MOST_WORD_BYTES = 255


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `examples` are lines as typed; `run` gives the exit code or raises `CommandError`.

    `usual` is the action that is meant where a command that has actions is given none.
    """

    name: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    usual: str = ""


def with_action(parser: argparse.ArgumentParser, commands: Sequence[Command], words: Sequence[str]) -> list[str]:
    """The words of a command line, with the usual action put in where none is named.

    A path that is called like an action is named with what leads to it: `./restore`.
    """
    usual = next((command.usual for command in commands if words and words[0] == command.name), "")
    if not usual or len(words) < 2 or words[1] in ("-h", "--help"):
        return list(words)
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    actions = next(
        action for action in chosen.choices[words[0]]._actions if isinstance(action, argparse._SubParsersAction)
    )
    return list(words) if words[1] in actions.choices else [words[0], usual, *words[1:]]


def build_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """Make the parser; parsing sets `run` to the chosen command's and `parser` to the whole."""
    parser = argparse.ArgumentParser(
        prog="drivefs",
        description=DESCRIPTION,
        epilog=_epilog(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"drivefs {__version__}")
    chosen = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        each = chosen.add_parser(
            command.name,
            help=command.summary,
            description=textwrap.fill(command.description, 100),
            epilog=_epilog(command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(each)
        each.set_defaults(run=command.run, parser=parser)
    return parser


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add `--profile`, as all commands have it."""
    parser.add_argument(
        "--profile",
        type=profile,
        metavar="P",
        help="the drive's profile (default: $DRIVEFS_PROFILE, else the only one there is, else 'default')",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, as all commands that report have it."""
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else")


def add_actions(
    parser: argparse.ArgumentParser, actions: Iterable[tuple[str, Callable[[argparse.Namespace], int], str]], drive: str
) -> None:
    """Add what a command about one drive does, by name: each may be told the MOUNTPOINT, of which `drive` is the help.

    `run_action` then runs the one that was chosen.
    """
    chosen = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, action, summary in actions:
        each = chosen.add_parser(name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False)
        each.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help=drive)
        add_profile(each)
        add_json(each)
        each.set_defaults(action=action)


def run_action(arguments: argparse.Namespace) -> int:
    """Run the action of a command that was chosen."""
    code: int = arguments.action(arguments)
    return code


def seconds(text: str) -> float:
    """Read a time limit for argparse.

    Raises:
        argparse.ArgumentTypeError: it is no positive number.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def profile(text: str) -> str:
    """Read the name of a profile for argparse.

    Raises:
        argparse.ArgumentTypeError: no profile can be called so.
    """
    try:
        return config.check_profile_name(text)
    except config.ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def word(text: str) -> str:
    """Read the name of somebody or something on the server for argparse.

    Raises:
        argparse.ArgumentTypeError: nothing there can be called so.
    """
    if not is_text(text) or not 0 < len(text.encode()) <= MOST_WORD_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is no name: it has to have 1 to {MOST_WORD_BYTES} bytes of UTF-8")
    return text


def id_of(text: str) -> int:
    """The id that a text is; 0: it is none."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return number if number < 2**63 else 0


def _epilog(examples: str) -> str:
    return f"examples:\n{examples}\n\n{TABLE}"

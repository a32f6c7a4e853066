"""From figures to what people read: medians, ratios, verdicts; as a table and as JSON. Pure but for printing.

Invariant: nothing is left out. What failed, what is missing and what falls short is said.
"""

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.rounds import Results
from benchmarks.rows import ROWS, Row
from benchmarks.settings import OWN_TARGETS, Settings

WIDTH = 220  # where no terminal says otherwise
CEILING = "trivial"
SUBJECT = "drivefs"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one goal. `met` is None where it was not measured."""

    row: str
    goal: str
    reached: str
    met: bool | None


def medians(results: Results) -> dict[str, dict[str, float]]:
    """Row → target → median over the rounds, in the order of ROWS."""
    return {
        key: {target: statistics.median(values) for target, values in results.values[key].items()}
        for key in ROWS
        if key in results.values
    }


def speed_ratio(row: Row, value: float, reference: float) -> float:
    """How fast `value` is, `reference` being 1; above 1 is better, whichever way the row counts."""
    ahead, behind = (value, reference) if row.higher_is_better else (reference, value)
    return ahead / behind if behind else float("inf")


def ratios(middle: dict[str, dict[str, float]], reference: str) -> dict[str, dict[str, float]]:
    return {
        key: {target: speed_ratio(ROWS[key], value, values[reference]) for target, value in values.items()}
        for key, values in middle.items()
        if reference in values
    }


def goal_verdicts(middle: dict[str, dict[str, float]], settings: Settings) -> list[Verdict]:
    """The goals that rows carry: a ratio to the ceiling, or a value not to be passed."""
    found = []
    for key, row in ROWS.items():
        values = middle.get(key, {})
        if SUBJECT not in values:
            continue
        if row.goal_ratio is not None and CEILING in values:
            ratio = speed_ratio(row, values[SUBJECT], values[CEILING])
            goal = f"≥ {row.goal_ratio} x {CEILING}"
            found.append(Verdict(row.label, goal, f"{ratio:.2f} x", ratio >= row.goal_ratio))
        if row.goal_most is not None:
            met = values[SUBJECT] <= row.goal_most if settings.is_full_size else None
            found.append(
                Verdict(row.label, f"≤ {row.goal_most:g} {row.unit}", f"{number(values[SUBJECT])} {row.unit}", met)
            )
    return found


def peer_verdicts(middle: dict[str, dict[str, float]]) -> list[Verdict]:
    """Ahead of each peer on each row on which the ceiling itself is."""
    found = []
    for key, values in middle.items():
        peers = {target: value for target, value in values.items() if target not in OWN_TARGETS}
        if SUBJECT not in values or not peers:
            continue
        row = ROWS[key]
        best = max(peers, key=lambda target: speed_ratio(row, peers[target], values[SUBJECT]))
        reached = f"{speed_ratio(row, values[SUBJECT], peers[best]):.2f} x {best}"
        if CEILING in values and speed_ratio(row, values[CEILING], peers[best]) < 1:
            goal = f"none: {best} is ahead of {CEILING} too"
            found.append(Verdict(row.label, goal, reached, None))
        else:
            ahead = speed_ratio(row, values[SUBJECT], peers[best]) >= 1
            found.append(Verdict(row.label, f"≥ 1 x {best}, the best peer", reached, ahead))
    return found


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figures_table(middle: dict[str, dict[str, float]], settings: Settings) -> Table:
    relative = ratios(middle, CEILING)
    table = Table(title=f"Medians of {settings.rounds} (in brackets: speed, {CEILING} = 1)")
    table.add_column("what", no_wrap=True)
    for target in settings.targets:
        table.add_column(target.replace("-", "\n"), justify="right")
    for key, values in middle.items():
        cells = []
        for target in settings.targets:
            cell = number(values[target]) if target in values else "–"
            if target in relative.get(key, {}) and target != CEILING:
                cell += f" ({relative[key][target]:.2f})"
            cells.append(cell)
        table.add_row(f"{ROWS[key].label} [dim]{ROWS[key].unit}[/]", *cells)
    return table


def verdict_table(title: str, verdicts: list[Verdict]) -> Table:
    words = {True: "met", False: "[bold red]missed[/]", None: "not judged"}
    table = Table("row", "goal", "reached", "", title=title)
    for verdict in verdicts:
        table.add_row(verdict.row, verdict.goal, verdict.reached, words[verdict.met])
    return table


def print_all(console: Console, results: Results, settings: Settings) -> None:
    middle = medians(results)
    console.print(figures_table(middle, settings))
    for title, verdicts in (
        ("What drivefs must reach", goal_verdicts(middle, settings)),
        ("drivefs and its peers", peer_verdicts(middle)),
    ):
        if verdicts:
            console.print(verdict_table(title, verdicts))
    for target, reason in results.failures:
        console.print("[bold red]not measured[/]", f"{target}:", escape(reason), highlight=False)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "root": os.geteuid() == 0,
    }


def as_json(results: Results, settings: Settings) -> str:
    """One object with every single value, the medians, ratios and verdicts."""
    middle = medians(results)
    document = {
        "machine": machine(),
        "settings": asdict(settings) | {"directory": str(settings.directory)},
        "rows": {key: asdict(ROWS[key]) | {"values": results.values[key], "medians": middle[key]} for key in middle},
        "speed_to_trivial": ratios(middle, CEILING),
        "goals": [asdict(verdict) for verdict in goal_verdicts(middle, settings)],
        "peers": [asdict(verdict) for verdict in peer_verdicts(middle)],
        "failures": results.failures,
    }
    return json.dumps(document, indent=2) + "\n"


def publish(results: Results, settings: Settings) -> None:
    """Prints the tables, and the JSON where it was asked for; only one of them goes to standard output."""
    console = Console(stderr=settings.json == "-", width=None if sys.stdout.isatty() else WIDTH)
    print_all(console, results, settings)
    if settings.json == "-":
        sys.stdout.write(as_json(results, settings))
    elif settings.json:
        Path(settings.json).write_text(as_json(results, settings))
        console.print(f"All figures: {settings.json}")

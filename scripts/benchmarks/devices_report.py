"""What `scripts/bench devices` tells: quantiles, verdicts; as a table and as JSON.

Owns the rows of that subject: names, units, goals. Invariant: nothing is left out; what failed or falls short is said.
"""

import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.report import WIDTH, Verdict, machine, number, verdict_table

Samples = dict[str, list[float]]
"""Row → what was measured, one value or many in each round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: the median of all samples of all rounds, and their 99th percentile where there are many.

    Goals: `most` and `least` bound the median, `most_p99` the 99th percentile.
    """

    key: str
    label: str
    unit: str = "s"
    has_p99: bool = False
    most: float | None = None
    most_p99: float | None = None
    least: float | None = None


def visible(key: str, label: str) -> Row:
    return Row(key=key, label=label, has_p99=True)


def slowed(key: str, label: str) -> Row:
    return Row(key=key, label=f"{label}, while changes arrive (speed, idle = 1)", unit="x", least=0.5)


CHANGES = {
    "edit": "edit in place",
    "create": "new file",
    "save": "save by rename",
    "remove": "delete",
    "move": "rename of a directory",
}
ROWS = {
    row.key: row
    for row in (
        Row(key="idle", label="close until visible elsewhere, idle", has_p99=True, most=0.1, most_p99=1.0),
        Row(key="busy", label="close until visible elsewhere, under an untar", has_p99=True, most=0.1, most_p99=1.0),
        *(
            visible(f"{state}_{key}", f"{state}: {label}")
            for state in ("idle", "busy")
            for key, label in CHANGES.items()
        ),
        Row(key="untar_busy", label="untar meanwhile"),
        Row(key="feed_rate", label="changes of another device, committed", unit="1/s", least=950),
        Row(key="feed_lag", label="last of them until visible", most=1.0),
        *(slowed(f"own_{call}", call) for call in ("stat", "list", "create", "read")),
        Row(
            key="reconnect", label="back after 10,000 changes here and 10,000 elsewhere, until all is synced", most=60.0
        ),
        Row(key="reconnect_shown", label="the same, until the others' changes show"),
        *(
            visible(f"reconnect_{state}_{call}", f"the same device, {state}: {label}")
            for call, label in (("stat", "lookup"), ("read", "open and read"), ("write", "new file of 1 KiB"))
            for state in ("idle", "busy")
        ),
        Row(key="meet_untar", label="two devices untar one tree into one place"),
        Row(key="meet_equal", label="the same, until both show one tree", most=60.0),
        Row(key="meet_copies", label="the same: conflict copies", unit="files", most=0),
        Row(key="meet_wrong", label="the same: entries that are not the archive's", unit="files", most=0),
    )
}


@dataclass(slots=True)
class Results:
    """All samples, and what could not be measured: (workload, reason)."""

    samples: Samples = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, samples: Samples) -> None:
        for key, values in samples.items():
            self.samples.setdefault(key, []).extend(values)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def verdicts(samples: Samples) -> list[Verdict]:
    """What became of the goals of the rows that were measured."""
    found = []
    for key, row in ROWS.items():
        if not (values := samples.get(key)):
            continue
        middle, late = statistics.median(values), percentile(values, 0.99)
        for sign, goal, reached, name in (
            ("≤", row.most, middle, ""),
            ("≤", row.most_p99, late, "p99 "),
            ("≥", row.least, middle, ""),
        ):
            if goal is not None:
                is_met = reached <= goal if sign == "≤" else reached >= goal
                told = f"{number(reached)} {row.unit}"
                found.append(Verdict(row.label, f"{name}{sign} {goal:g} {row.unit}", told, is_met))
    return found


def figures_table(samples: Samples, round_count: int) -> Table:
    table = Table(title=f"Several devices: medians over {round_count} rounds")
    table.add_column("what", no_wrap=True)
    for heading in ("median", "p99", "worst", "samples"):
        table.add_column(heading, justify="right")
    for key, row in ROWS.items():
        if values := samples.get(key):
            late = number(percentile(values, 0.99)) if row.has_p99 else "–"
            worst = min(values) if row.least is not None else max(values)
            cells = (number(statistics.median(values)), late, number(worst), str(len(values)))
            table.add_row(f"{row.label} [dim]{row.unit}[/]", *cells)
    return table


def as_json(results: Results, round_count: int) -> str:
    """One object with every single value, the quantiles and verdicts."""
    rows = {
        key: asdict(row) | {"values": values, "median": statistics.median(values), "p99": percentile(values, 0.99)}
        for key, row in ROWS.items()
        if (values := results.samples.get(key))
    }
    goals = [asdict(verdict) for verdict in verdicts(results.samples)]
    document = {
        "machine": machine(),
        "rounds": round_count,
        "rows": rows,
        "goals": goals,
        "failures": results.failures,
    }
    return json.dumps(document, indent=2) + "\n"


def publish(results: Results, round_count: int, destination: str | None) -> None:
    """Prints the tables, and the JSON where it was asked for; only one of them goes to standard output."""
    console = Console(stderr=destination == "-", width=None if sys.stdout.isatty() else WIDTH)
    console.print(figures_table(results.samples, round_count))
    console.print(verdict_table("What several devices must reach", verdicts(results.samples)))
    for workload, reason in results.failures:
        console.print("[bold red]not measured[/]", f"{workload}:", escape(reason), highlight=False)
    if destination == "-":
        sys.stdout.write(as_json(results, round_count))
    elif destination:
        Path(destination).write_text(as_json(results, round_count))
        console.print(f"All figures: {destination}")

"""The matrix of docs/resume.md: commits of every ZeRO stage and number of ranks, gone on from under every other.

    python -m bench.elastic

float32, batch 24 in micro-batches of 2, accumulation as the number of ranks asks for. A cell is the largest relative
difference of two steps' losses from those of the run that was not stopped;
"unequal" stands where parameters, moments or
average were not equal to the last bit after loading. Prints a table in Markdown and writes bench/results/elastic.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.engine.elastic import READERS, STAGES, WRITERS, matrix

RESULTS = Path(__file__).parent / "results" / "elastic.json"


def short(name: str) -> str:
    """`1-2-fp32` as `ZeRO-1 x 2`."""
    stage, world, _ = name.split("-")
    return f"ZeRO-{stage} x {world}"


def cell(outcome: dict[str, Any]) -> str:
    if outcome["missing"] or outcome["unequal"]:
        return "unequal"
    return f"{outcome['loss']:.0e}" if outcome["loss"] else "0"


def table(outcomes: list[dict[str, Any]]) -> str:
    """Rows are what was written, columns what reads it."""
    cells = {(each["from"], each["to"]): cell(each) for each in outcomes}
    rows = sorted({a for a, _ in cells})
    columns = sorted({b for _, b in cells})
    lines = [
        "| from \\ to | " + " | ".join(map(short, columns)) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [
        f"| {short(row)} | " + " | ".join(cells[row, column] for column in columns) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcomes = matrix(folder, "fp32", list(STAGES), WRITERS, READERS)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(outcomes, indent=1) + "\n")
    print(table(outcomes))


if __name__ == "__main__":
    main()

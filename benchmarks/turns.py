"""Contenders take turns, each in a process of its own, so that they meet the machine under the same conditions.

A worker is the benchmark's own file, called again with `--worker CASE`, where the case is the contender's settings as
JSON. Its last line of output is its figures, as JSON.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

Case = Mapping[str, Any]
Figures = dict[str, Any]


def take_turns(script: str, cases: Mapping[str, Case], rounds: int) -> dict[str, Figures]:
    """The median of each contender's figures over the rounds, and `rounds`, its seconds per step in each.

    {"failed": why} for a contender that failed.
    """
    answers: dict[str, list[Figures]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            if not any("failed" in answer for answer in answers[name]):
                answers[name].append(_ask(script, case))
    return {name: _median(rows) for name, rows in answers.items()}


def _ask(script: str, case: Case) -> Figures:
    command = [sys.executable, script, "--worker", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return {"failed": f"status {done.returncode}: {lines[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _median(rows: list[Figures]) -> Figures:
    """The median of numbers. Anything else is the same in every round, or None in one."""
    for row in rows:
        if "failed" in row:
            return row
    figures = {
        name: statistics.median(row[name] for row in rows) if _all_numbers(rows, name) else rows[0][name]
        for name in rows[0]
    }
    if "seconds_per_step" in figures:
        figures["rounds"] = [row["seconds_per_step"] for row in rows]
    return figures


def _all_numbers(rows: list[Figures], name: str) -> bool:
    return all(isinstance(row[name], int | float) for row in rows)

"""Draw the chart of the README, ``docs/images/figures.png``, from the tables of ``docs/concepts/figures.md``.

python benchmarks/charts.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
OURS, OTHERS = "tab:blue", "0.7"


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the first table of each section: the cells of a row by its first cell."""
    found: dict[str, dict[str, list[str]]] = {}
    for title, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
        if rows:
            found[title] = {row[0].strip(): [cell.strip() for cell in row] for row in rows}
    return found


def number(cell: str) -> float:
    """Return the first number of a cell."""
    match = re.search(r"\d+(?:\.\d+)?", cell)
    if match is None:
        raise ValueError(f"{cell!r} has no number")
    return float(match[0])


def trained(text: str) -> dict[str, float]:
    """Return the speed of trainings over a bare loop, by the time of a step, from the sentence that has it."""
    match = re.search(r"([\d.]+) with the smallest network.*?([\d.]+) at 3 ms, ([\d.]+) to [\d.]+ at 15 ms", text, re.S)
    if match is None:
        raise ValueError("the section on training has no sentence with its figures")
    return {"0.35 ms a step": float(match[1]), "3 ms": float(match[2]), "15 ms": float(match[3])}


def bars(axes: Any, groups: dict[str, tuple[float, float]], title: str, ours: str, others: str) -> None:
    """Draw two bars for each group: ours, and those of the others."""
    places = range(len(groups))
    axes.bar([place - 0.2 for place in places], [pair[0] for pair in groups.values()], 0.4, color=OURS, label=ours)
    axes.bar([place + 0.2 for place in places], [pair[1] for pair in groups.values()], 0.4, color=OTHERS, label=others)
    axes.set_xticks(list(places), list(groups))
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the three areas side by side."""
    found = tables((ROOT / "docs" / "concepts" / "figures.md").read_text())
    step, stored = found["Stepping"], found["Storing and reading"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    rows = {
        "no-op": "no-op, 4 numbers",
        "CartPole": "CartPole",
        "HalfCheetah": "HalfCheetah",
        "1 ms": "1 ms of computing",
    }
    bars(
        left,
        {name: (number(step[row][1]), 1.0) for name, row in rows.items()},
        "steps/s of 64 environments,\nAsyncVectorEnv = 1",
        "physgym",
        "AsyncVectorEnv",
    )
    left.set_yscale("log")
    reading = stored["shuffled batches, `gather`"]
    peers = [float(cell) for cell in reading[4].split(", ")]
    bars(
        middle,
        {size: (number(reading[place + 1]), peers[place]) for place, size in enumerate(("small", "medium", "large"))},
        "shuffled samples/s from disk,\narrays in memory = 1",
        "physgym",
        "best of h5py, zarr, sqlite, Minari",
    )
    values = trained((ROOT / "docs" / "concepts" / "figures.md").read_text())
    right.bar(range(len(values)), list(values.values()), 0.4, color=OURS)
    right.axhline(1, color=OTHERS)
    right.set_xticks(range(len(values)), list(values))
    right.set_title("training steps/s,\nbare PyTorch loop = 1", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "figures.png", dpi=90)


if __name__ == "__main__":
    main()

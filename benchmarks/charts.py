"""Draw the README's charts, ``docs/images/figures.png``, from the tables of ``docs/concepts/figures.md``.

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
SIZES = ("small", "medium", "large")


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
    match = re.search(
        r"([\d.]+) with the smallest network \(([\d.]+ ms) a step\), ([\d.]+) at ([\d.]+ ms),"
        r" (?:and )?([\d.]+) to\s[\d.]+ at ([\d.]+ ms)",
        text,
    )
    if match is None:
        raise ValueError("the section on training has no sentence with its figures")
    return {match[at + 1]: float(match[at]) for at in (1, 3, 5)}


def best(cells: list[str]) -> list[float]:
    """Return the best of the others for small, medium and large samples."""
    return [max(numbers) for numbers in zip(*([float(one) for one in cell.split(", ")] for cell in cells), strict=True)]


def dress(axes: Any, names: list[str], title: str) -> None:
    """Give a panel its title and the names of its bars."""
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.axhline(1, color="0.5", linewidth=0.8, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)


def pairs(axes: Any, groups: dict[str, tuple[float, float]], title: str, others: str) -> None:
    """Draw two bars for each group: ours, and those of the others."""
    places = range(len(groups))
    axes.bar([place - 0.2 for place in places], [pair[0] for pair in groups.values()], 0.4, color=OURS, label="physgym")
    axes.bar([place + 0.2 for place in places], [pair[1] for pair in groups.values()], 0.4, color=OTHERS, label=others)
    dress(axes, list(groups), title)
    axes.legend(fontsize=8, frameon=False)


def ours(axes: Any, values: dict[str, float], title: str) -> None:
    """Draw our bars alone, beside what they are divided by."""
    axes.bar(range(len(values)), list(values.values()), 0.5, color=OURS)
    dress(axes, list(values), title)


def main() -> None:
    """Draw a panel for each area."""
    text = (ROOT / "docs" / "concepts" / "figures.md").read_text()
    found = tables(text)
    step, made, stored = found["Stepping"], found["Generating"], found["Storing and reading"]
    del made["simulation"]
    figure, ((stepping, generating), (training, storing)) = plt.subplots(2, 2, figsize=(10, 6.2), layout="constrained")
    rows = {
        "no-op": "no-op, 4 numbers",
        "CartPole": "CartPole",
        "HalfCheetah": "HalfCheetah",
        "1 ms": "1 ms of computing",
    }
    speeds = {name: (number(step[row][1]), 1.0) for name, row in rows.items()}
    pairs(stepping, speeds, "stepping 64 environments:\nsteps/s over AsyncVectorEnv's", "AsyncVectorEnv")
    stepping.set_yscale("log")
    generated = {name.replace(", ", ",\n").replace(" of ", "\nof "): number(row[1]) for name, row in made.items()}
    ours(generating, generated, "generating by two workers:\nsamples/s over twice a bare loop's")
    loaded = {
        f"load\n{size}": number(stored["shuffled batches, `Loader`"][place + 1]) for place, size in enumerate(SIZES)
    }
    trained_at = {f"train,\n{name}": value for name, value in trained(text).items()}
    ours(training, trained_at | loaded, "training over a bare PyTorch loop;\nloading over arrays in memory")
    groups = {}
    for verb, row in (("write", "append 32 at a time"), ("read", "shuffled batches, `gather`")):
        peers = best(stored[row][4:6])
        groups |= {f"{verb}\n{size}": (number(stored[row][at + 1]), peers[at]) for at, size in enumerate(SIZES)}
    title = "storing: write over the disk's speed,\nread over arrays in memory"
    pairs(storing, groups, title, "best of h5py, zarr, sqlite, Minari, HF datasets, lmdb")
    storing.set(yscale="log", ylim=(0.01, 20))
    figure.savefig(ROOT / "docs" / "images" / "figures.png", dpi=90)


if __name__ == "__main__":
    main()

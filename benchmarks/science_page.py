"""Tables of docs/science.md, made from the stored figures: write them into the page, between their marks.

A mark is a comment, ``<!-- figures of burgers, small -->``; all up to ``<!-- end of figures -->`` is replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from science import PROBLEMS
from yardsticks.case import Budget
from yardsticks.results import FOLDER, Results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "science.md"
MARKED = re.compile(r"(<!-- figures of (\w+), (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

ANSWERS = {"relative_l2": "relative L2 error", "median": "median", "worst": "worst"}
FIGURES = {  # what has a column, and its heading
    "burgers": ANSWERS,
    "darcy": ANSWERS,
    "beam": {**ANSWERS, "mean_error": "mean nodal error, mm"},
    "navier_stokes": {"one_step": "one step", "whole": "trajectory", "last": "last step"},
    "pdebench": {"one_step": "one step", "rollout": "rollout", "last": "last step"},
    "apebench": {"one_step": "one step", "geometric": "geometric mean", "last": "last step"},
}
PUBLISHED = {  # problem, begin of the case, network: what is published; the page says where
    ("burgers", "viscosity 0.1", "FNO"): "0.0139",
    ("darcy", "", "FNO"): "0.0108",
    ("navier_stokes", "", "FNO"): "0.0128 (2-D), 0.0086 (3-D)",
    ("navier_stokes", "", "UNet"): "0.0245",
    ("pdebench", "advection", "FNO"): "0.0077",
    ("pdebench", "Burgers", "FNO"): "0.029",
    ("pdebench", "diffusion-reaction", "FNO"): "0.0014",
    ("apebench", "advection", "FNO, width 8"): "one step 0.002, last step 0.155",
    ("apebench", "Burgers", "FNO"): "0.07",
    ("apebench", "Burgers", "UNet"): "0.06",
}


def tables(page: str, folder: Path = FOLDER) -> str:
    """Return a page with its tables made anew."""
    return MARKED.sub(lambda found: found[1] + table(Results(folder, found[2], found[3])) + found[4], page)


def table(results: Results) -> str:
    """Return the table of a problem at a budget, and what made its figures."""
    if not results.rows:
        return "Not run.\n"
    headings = FIGURES[results.problem]
    counted = [*headings.values(), "published", "parameters", "epochs", "seeds", "training, s of CPU"]
    lines = [f"| case | network | {' | '.join(counted)} |", "|---" * (2 + len(counted)) + "|"]
    for case in PROBLEMS[results.problem](cast(Budget, results.budget)):
        for network in (*case.baselines, *case.networks):
            rows = [row for row in results.rows if (row["case"], row["network"]) == (case.name, network)]
            if rows:
                cells = [case.name, network if rows[0]["seed"] is None else f"`{network}`"]
                cells += [spread([row[name] for row in rows]) for name in headings]
                cells += [published(results.problem, case.name, network), *took(rows)]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *records(results)]) + "\n"


def published(problem: str, case: str, network: str) -> str:
    """Return what is published of a network; empty where nothing is."""
    found = [
        text
        for (of, begin, name), text in PUBLISHED.items()
        if (of, name) == (problem, network) and case.startswith(begin)
    ]
    return found[0] if found else ""


def took(rows: list[Mapping[str, Any]]) -> list[str]:
    """Return parameters, epochs, seeds and seconds; all empty for what was not trained."""
    if rows[0]["seed"] is None:
        return [""] * 4
    seconds = sum(row["cpu_seconds"] for row in rows) / len(rows)
    return [f"{rows[0]['parameters']:,}", str(rows[0]["epochs"]), str(len(rows)), f"{seconds:.0f}"]


def spread(values: list[float]) -> str:
    """Return the mean and, where they differ, the lowest and the highest."""
    lowest, mean, highest = (number(value) for value in (min(values), sum(values) / len(values), max(values)))
    return mean if lowest == highest else f"{mean} ({lowest} to {highest})"


def number(value: float) -> str:
    """Return three digits of a figure, or that it has left all bounds."""
    return "over 100" if value > 100 else f"{value:#.3g}" if value >= 1e-3 else f"{value:.2g}"


def records(results: Results) -> list[str]:
    """Return a line that says what made the figures."""
    used = [results.records[index] for index in sorted({row["record"] for row in results.rows})]
    samples = sorted({(row["samples"], row["test_samples"]) for row in results.rows}, reverse=True)
    counts = "; ".join(f"{train:,} training and {test:,} test samples" for train, test in samples)
    commits = ", ".join(dict.fromkeys(record["commit"][:8] + " changed" * record["changed"] for record in used))
    versions = "; ".join(
        dict.fromkeys(", ".join(f"{name} {version}" for name, version in record["versions"].items()) for record in used)
    )
    threads = ", ".join(dict.fromkeys(f"{record['threads']} of {record['cores']} cores" for record in used))
    return [f"*{counts}. Commit {commits}; {versions}; {threads}.*"]


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the figures")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    settings = parser.parse_args(argv)
    settings.page.write_text(tables(settings.page.read_text(), settings.results))


if __name__ == "__main__":
    main()

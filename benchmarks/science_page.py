"""Tables of docs/science.md and docs/howto/online.md, made from the stored figures: write them between their marks.

A mark is a comment, ``<!-- figures of burgers, small -->``; all up to ``<!-- end of figures -->`` is replaced. Two more
are ``<!-- figures of all problems -->`` and ``<!-- figures of the costs -->``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from science import PROBLEMS
from yardsticks.case import Budget, Case
from yardsticks.published import COMPARISONS, NO_FIGURE, Comparison, figures_of
from yardsticks.results import FOLDER, Results, Row

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = (DOCS / "science.md", DOCS / "howto" / "online.md")
MARKED = re.compile(r"(<!-- figures (.+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

ANSWERS = {"relative_l2": "relative L2 error", "median": "median", "worst": "worst"}
FIGURES = {  # what has a column, and its heading
    "burgers": ANSWERS,
    "darcy": ANSWERS,
    "beam": {**ANSWERS, "mean_error": "mean nodal error, mm"},
    "navier_stokes": {"one_step": "one step", "whole": "trajectory", "last": "last step"},
    "pdebench": {"one_step": "one step", "rollout": "rollout", "last": "last step"},
    "apebench": {"one_step": "one step", "geometric": "geometric mean", "last": "last step"},
    "online": {
        "error": "mean squared error",
        "steps": "gradient steps",
        "simulations": "simulations",
        "waiting %": "training waited, %",
        "repeats": "repeats, mean",
        "most": "repeats, most",
    },
}
NUMBERS = {"steps", "simulations", "waiting %", "repeats", "most"}  # figures that are no errors
SEEDS = 3  # of a whole budget
NOT_RUN = "[not run](#what-was-not-run)"
SECONDS_OF_A_SAMPLE = {"UNet": 0.0114}  # of the network of the beam, in 12 batches on an idle core: none is stored


def number(value: float) -> str:
    """Return three digits of an error, or that it has left all bounds."""
    return "over 100" if value > 100 else f"{value:#.3g}" if value >= 1e-3 else f"{value:.2g}"


def amount(value: float) -> str:
    """Return two digits of a number, or all that stand before its point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def tables(page: str, folder: Path = FOLDER) -> str:
    """Return a page with its tables made anew."""
    return MARKED.sub(lambda found: found[1] + "\n".join(made(found[2], folder)) + "\n" + found[3], page)


def made(mark: str, folder: Path) -> list[str]:
    """Return the lines that a mark stands for."""
    if mark == "of all problems":
        return overview(folder)
    if mark == "of the costs":
        return costs(folder)
    problem, _, budget = mark.removeprefix("of ").partition(", ")
    if problem not in FIGURES or budget not in get_args(Budget):
        raise ValueError(f"there are no figures {mark!r}; a mark is 'figures of PROBLEM, BUDGET'")
    results = Results(folder, problem, budget)
    if not results.rows:
        return ["Not run."]
    return side_by_side(results) if problem == "online" else table(results)


def headed(*headings: str) -> list[str]:
    """Return the first two lines of a table."""
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]


def overview(folder: Path) -> list[str]:
    """Return the table of what is published, and of our figures."""
    lines = headed("problem", "published", "ours, small budget", "ours, full budget", "what differs")
    for row in COMPARISONS:
        ours = [of_comparison(row, Results(folder, row.problem, budget)) for budget in ("small", "full")]
        published = f"{row.published} ({row.source})" if row.published else "none"
        title = ", ".join(part for part in (row.title, f"`{row.network}`") if part)
        cells = [f"[`{row.problem}`](#{row.section}): {title}", published, *ours, differs(row)]
        lines.append(f"| {' | '.join(cells)} |")
    at_equal_time = [row for row in Results(folder, "online", "small").rows if row["case"] == "equal time"]
    for training in ("reservoir", "offline, 40"):
        found = [row["error"] for row in at_equal_time if row["network"] == training]
        ours = [f"{spread(found)}, {seeds(len(found))}" if found else NOT_RUN, "none"]
        cells = [f"[`online`](#online-against-offline): {training}", "none", *ours, NO_FIGURE]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def of_comparison(comparison: Comparison, results: Results) -> str:
    """Return our figure, with its spread and the number of seeds."""
    rows = [
        row for row in results.rows if row["case"].startswith(comparison.case) and row["network"] == comparison.network
    ]
    if not rows:
        return NOT_RUN
    return f"{spread([row[comparison.figure] for row in rows])}, {seeds(len(rows))}"


def differs(comparison: Comparison) -> str:
    """Return what differs from the published set-up."""
    cases = PROBLEMS[comparison.problem]("small")
    case = next(case for case in cases if case.name.startswith(comparison.case))
    samples, side = case.samples, int(points(case) ** 0.5)
    train = f"{samples.train // (samples.length or 1):,}"
    always, small = comparison.differs
    return f"{always}; {small.format(epochs=case.training.epochs, points=side, train=train)}"


def seeds(count: int) -> str:
    """Return how many seeds there are."""
    return "1 seed" if count == 1 else f"{count} seeds"


def points(case: Case) -> int:
    """Return the number of points of a grid whose name says how many there are on a side; 1 for others."""
    found = re.search(r"(\d+) points a side", case.name)
    return int(found[1]) ** 2 if found else 1


def costs(folder: Path) -> list[str]:
    """Return the table of the costs of both budgets, and of how much of them was run."""
    lines = headed("command", "core hours", "the longest training", "trainings that were run", "not run")
    for problem, make in PROBLEMS.items():
        cases = {budget: make(cast(Budget, budget)) for budget in ("small", "full")}
        stored = {budget: Results(folder, problem, budget).rows for budget in cases}
        for budget, other in (("small", "full"), ("full", "small")):
            needed = {
                (own.name, network): training_seconds(network, own, stored[budget], similar, stored[other])
                for own, similar in zip(cases[budget], cases[other], strict=True)
                for network in own.networks
            }
            run = [(row["case"], row["network"]) for row in stored[budget]]
            missing: dict[str, int] = {}
            for key in needed:
                missing[key[1]] = missing.get(key[1], 0) + max(0, SEEDS - run.count(key))
            counts = [f"`{network}` {count}" for network, count in missing.items() if count]
            _, longest = max(needed, key=lambda key: needed[key])
            cells = [
                f"`python benchmarks/science.py {problem} --budget {budget}`",
                amount(SEEDS * sum(needed.values()) / 3600),
                f"`{longest}`, {duration(max(needed.values()))}",
                f"{SEEDS * len(needed) - sum(missing.values())} of {SEEDS * len(needed)}",
                ", ".join(counts),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def training_seconds(network: str, case: Case, rows: list[Row], similar: Case, of_similar: list[Row]) -> float:
    """Return the CPU seconds of a training: measured ones, else those of the other budget times the ratio of the work.

    The work is the number of epochs, samples and points.
    """
    for one, found in ((case, rows), (similar, of_similar)):
        seconds = [row["cpu_seconds"] for row in found if (row["case"], row["network"]) == (one.name, network)]
        if seconds:
            return float(sum(seconds) / len(seconds) * work(case) / work(one))
    if network not in SECONDS_OF_A_SAMPLE:
        raise ValueError(f"no training of {network!r} of {case.name!r} is stored, so its cost cannot be reckoned")
    return SECONDS_OF_A_SAMPLE[network] * work(case)


def work(case: Case) -> int:
    """Return what the time of a training is proportional to."""
    return case.training.epochs * case.samples.train * points(case)


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{amount(seconds / size)} {unit}"
    return f"{seconds:.0f} seconds"


def side_by_side(results: Results) -> list[str]:
    """Return the table of trainings that have no networks or epochs of their own, in the order in which they ran."""
    headings = FIGURES[results.problem]
    lines = headed("case", "training", *headings.values(), "seeds")
    for case, name in dict.fromkeys((row["case"], row["network"]) for row in results.rows):
        rows = [row for row in results.rows if (row["case"], row["network"]) == (case, name)]
        cells = [
            spread([row[key] for row in rows], amount if key in NUMBERS else number) if key in rows[0] else ""
            for key in headings
        ]
        lines.append(f"| {' | '.join([case, name, *cells, str(len(rows))])} |")
    return [*lines, "", machine(results)]


def table(results: Results) -> list[str]:
    """Return the table of a problem at a budget, and what made its figures."""
    headings = FIGURES[results.problem]
    counted = [*headings.values(), "published", "parameters", "epochs", "seeds", "training, s of CPU"]
    lines = headed("case", "network", *counted)
    for case in PROBLEMS[results.problem](cast(Budget, results.budget)):
        for network in (*case.baselines, *case.networks):
            rows = [row for row in results.rows if (row["case"], row["network"]) == (case.name, network)]
            if rows:
                cells = [case.name, network if rows[0]["seed"] is None else f"`{network}`"]
                cells += [spread([row[name] for row in rows]) for name in headings]
                cells += [published(results.problem, case.name, network), *took(rows)]
                lines.append(f"| {' | '.join(cells)} |")
    counts = sorted({(row["samples"], row["test_samples"]) for row in results.rows}, reverse=True)
    said = "; ".join(f"{train:,} training and {test:,} test samples" for train, test in counts)
    return [*lines, "", machine(results, f"{said}. ")]


def published(problem: str, case: str, network: str) -> str:
    """Return what is published of a network; empty where nothing is."""
    found = figures_of(problem, case, network)
    named = len(found) > 1
    return ", ".join(f"{FIGURES[problem][one.figure]} {one.published}" if named else one.published for one in found)


def took(rows: list[Mapping[str, Any]]) -> list[str]:
    """Return parameters, epochs, seeds and seconds; all empty for what was not trained."""
    if rows[0]["seed"] is None:
        return [""] * 4
    seconds = sum(row["cpu_seconds"] for row in rows) / len(rows)
    return [f"{rows[0]['parameters']:,}", str(rows[0]["epochs"]), str(len(rows)), f"{seconds:.0f}"]


def spread(values: list[float], written: Callable[[float], str] = number) -> str:
    """Return the mean and, where they differ, the lowest and the highest."""
    lowest, mean, highest = (written(value) for value in (min(values), sum(values) / len(values), max(values)))
    return mean if lowest == highest else f"{mean} ({lowest} to {highest})"


def machine(results: Results, counts: str = "") -> str:
    """Return a line that says what made the figures."""
    used = [results.records[index] for index in sorted({row["record"] for row in results.rows})]
    commits = ", ".join(dict.fromkeys(record["commit"][:8] + " changed" * record["changed"] for record in used))
    versions = "; ".join(
        dict.fromkeys(", ".join(f"{name} {version}" for name, version in record["versions"].items()) for record in used)
    )
    threads = ", ".join(dict.fromkeys(f"{record['threads']} of {record['cores']} cores" for record in used))
    return f"*{counts}Commit {commits}; {versions}; {threads}.*"


def main(argv: list[str] | None = None) -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the figures")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, help="docs/science.md docs/howto/online.md")
    settings = parser.parse_args(argv)
    for page in settings.pages:
        page.write_text(tables(page.read_text(), settings.results))


if __name__ == "__main__":
    main()

"""The page of the yardsticks: its tables are those of the stored figures, and so is what its sentences say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "science.md"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def stored(problem, budget):
    """Return the stored rows of a problem at a budget."""
    from yardsticks.results import FOLDER, Results

    return Results(FOLDER, problem, budget).rows


def error(problem, budget, case, network, figure):
    """Return the mean of a stored figure over the seeds."""
    found = [
        row[figure] for row in stored(problem, budget) if row["case"].startswith(case) and row["network"] == network
    ]
    assert found, (problem, budget, case, network)
    return mean(found)


def prose():
    """Return the text of the page in one line, without its generated tables."""
    from science_page import MARKED

    return " ".join(MARKED.sub("", PAGE.read_text()).split())


def test_the_tables_of_the_pages_are_those_of_the_stored_figures():
    from science_page import MARKED, PAGES, tables
    from yardsticks.results import FOLDER

    marks = set()
    for path in PAGES:
        page = path.read_text()
        assert tables(page) == page, "python benchmarks/science_page.py makes them"
        marks |= {found[2].removeprefix("of ").replace(", ", "-") for found in MARKED.finditer(page)}
    assert marks >= {path.stem for path in FOLDER.glob("*.json") if not path.stem.endswith("-quick")}


def test_a_table_has_the_mean_of_the_seeds_with_its_spread_and_what_is_published(tmp_path):
    from science_page import tables
    from yardsticks.results import Results

    page = "<!-- figures of burgers, small -->\nold\n<!-- end of figures -->\n"
    assert tables(page, tmp_path) == page.replace("old", "Not run.")
    results = Results(tmp_path, "burgers", "small")
    results.begin("the command")
    alone = {"case": "viscosity 0.1", "samples": 1000, "test_samples": 200}
    took = {"parameters": 1234, "epochs": 30, "cpu_seconds": 59.6}
    for seed, error in enumerate((0.01, 0.0201, 0.03)):
        figures = {"relative_l2": error, "median": 5e-5, "worst": 500.0}
        results.put({**alone, "network": "FNO", "seed": seed, **figures, **took})
    results.put({**alone, "network": "linear map", "seed": None, "relative_l2": 0.1, "median": 1.0, "worst": 2.0})
    lines = tables(page, tmp_path).splitlines()
    assert lines[3] == "| viscosity 0.1 | linear map | 0.100 | 1.00 | 2.00 |  |  |  |  |  |"
    assert lines[4] == (
        "| viscosity 0.1 | `FNO` | 0.0200 (0.0100 to 0.0300) | 5e-05 | over 100 | 0.0139 | 1,234 | 30 | 3 | 60 |"
    )
    assert lines[6].startswith("*1,000 training and 200 test samples. Commit ")
    assert tables("\n".join(lines), tmp_path) == "\n".join(lines)


def comparison_lines(folder):
    from science_page import overview

    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in overview(folder)[2:]]


def test_the_first_table_has_what_is_published_and_ours_with_the_number_of_seeds(tmp_path):
    from yardsticks.results import Results

    for budget, errors in (("small", (0.01, 0.03)), ("full", (0.005,))):
        results = Results(tmp_path, "burgers", budget)
        results.begin("the command")
        for seed, found in enumerate(errors):
            results.put({"case": "viscosity 0.1", "network": "FNO", "seed": seed, "relative_l2": found})
            results.put({"case": "viscosity 0.01", "network": "FNO", "seed": seed, "relative_l2": 1.0})
    lines = comparison_lines(tmp_path)
    assert lines[0] == [
        "[`burgers`](#burgers-equation): viscosity 0.1, `FNO`",
        "0.0139 ([Li](https://arxiv.org/abs/2010.08895), 5.1)",
        "0.0200 (0.0100 to 0.0300), 2 seeds",
        "0.00500, 1 seed",
        "solver, schedule, normalization; 30 epochs of 500",
    ]
    assert {line[2] for line in lines[1:]} == {"[not run](#what-was-not-run)"}


def test_the_first_table_names_every_problem_and_its_networks():
    from science import PROBLEMS
    from yardsticks.published import COMPARISONS

    assert {row.problem for row in COMPARISONS} == set(PROBLEMS)
    for row in COMPARISONS:
        for budget in ("small", "full"):
            cases = [case for case in PROBLEMS[row.problem](budget) if case.name.startswith(row.case)]
            assert len(cases) == 1, row
            assert row.network in cases[0].networks, row
        assert bool(row.published) is bool(row.source)


def test_costs_are_measured_or_reckoned_from_the_other_budget(tmp_path):
    from science_page import costs
    from yardsticks.results import Results

    results = Results(tmp_path, "darcy", "small")
    results.begin("the command")
    for network, seconds in (("FNO", 72.0), ("UNet", 36.0), ("MLP", 12.0)):
        for seed in (0, 1):
            row = {"case": "43 points a side", "network": network, "seed": seed, "relative_l2": 0.1}
            results.put({**row, "cpu_seconds": seconds + 2 * seed - 1})
    with pytest.raises(ValueError, match=r"no training of 'FNO' of 'viscosity .*' is stored, so its cost cannot be"):
        costs(tmp_path)
    for problem in ("burgers", "navier_stokes", "pdebench", "apebench", "beam"):
        every(problem, tmp_path)
    lines = [line for line in costs(tmp_path) if "darcy" in line]
    assert lines[0].endswith("small` | 0.1 | `FNO`, 72 seconds | 6 of 9 | `FNO` 1, `UNet` 1, `MLP` 1 |")
    more = 50 * (85 / 43) ** 2
    assert f"| {0.1 * more:.0f} | `FNO`, {72 * more / 3600:.2g} hours | 0 of 9 | `FNO` 3, `UNet` 3, " in lines[1]


def every(problem, folder):
    """Store a training of a second for each network of the small budget."""
    from science import PROBLEMS
    from yardsticks.results import Results

    results = Results(folder, problem, "small")
    results.begin("the command")
    for case in PROBLEMS[problem]("small"):
        for network in case.networks:
            results.put({"case": case.name, "network": network, "seed": 0, "cpu_seconds": 1.0})


def test_a_mark_that_is_unknown_is_named(tmp_path):
    from science_page import tables

    with pytest.raises(ValueError, match="no figures 'of heat, small'; a mark is 'figures of PROBLEM, BUDGET'"):
        tables("<!-- figures of heat, small -->\n<!-- end of figures -->\n", tmp_path)


# --- what the sentences say

SETTINGS = {"0.1", "0.01", "0.001", "0.00001", "0.0003", "1.5"}  # viscosities, learning rates, coefficients


def test_figures_in_sentences_are_published_or_settings():
    from yardsticks.published import COMPARISONS, FURTHER

    text = re.sub(r"\]\([^)]*\)|`[^`]*`|sections? \d\.\d", " ", prose())
    said = set(re.findall(r"(?<![\d.,])\d+\.\d+", text))
    assert said - SETTINGS <= {row.published for row in COMPARISONS} | set(FURTHER)
    assert set(FURTHER) <= said
    assert said >= SETTINGS


def test_settings_in_sentences_are_those_of_the_budgets():
    from science import PROBLEMS

    small, full = ({name: make(budget)[0] for name, make in PROBLEMS.items()} for budget in ("small", "full"))

    def runs(case):
        return case.samples.train // case.samples.length, case.samples.test // case.samples.length

    burgers, darcy, flow, waves, emulator, beam = small.values()
    size = burgers.samples.arguments["size"]
    train, test = (f"{count:,}" for count in (burgers.samples.train, burgers.samples.test))
    said = [
        f"{train} training and {test} test samples of `physgym/Burgers-v0` at {size} points",
        f"{burgers.training.epochs} epochs in place of {full['burgers'].training.epochs}; one cycle",
        f"The full budget, the {full['burgers'].training.epochs} epochs of the paper",
        f"solved with {darcy.samples.arguments['size']} points a side, {darcy.samples.train:,} training and "
        f"{darcy.samples.test} test samples",
        f"**{darcy.name.replace('a side', 'per side')}**, every tenth of the {darcy.samples.arguments['size']}",
        f"{darcy.training.epochs} epochs in place of {full['darcy'].training.epochs}; a strip",
        "**{} training and {} test trajectories** in place of {:,} and {}".format(
            *runs(flow), *runs(full["navier_stokes"])
        ),
        f"**{flow.name.replace('a side', 'per side')}**, every second of the {flow.samples.arguments['size']}",
        f"{flow.training.epochs} epochs in place of 500. The rows of *10 states*",
        f"It has {full['navier_stokes'].training.epochs} epochs in place of 500 for Navier-Stokes",
        "**{} training and {} test trajectories** in place of {:,} and {:,}".format(
            *runs(waves), *runs(full["pdebench"])
        ),
        f"{waves.training.epochs} epochs in place of {full['pdebench'].training.epochs}; - one state",
        f"there are {emulator.samples.arguments['size']} points, {runs(emulator)[0]} training trajectories of "
        f"{emulator.samples.length} steps",
        f"{emulator.training.epochs} epochs in place of the {full['apebench'].training.epochs} that make 10,000 steps",
        f"{beam.samples.train:,} training samples in place of {full['beam'].samples.train:,}, and "
        f"{beam.training.epochs} epochs in place of {full['beam'].training.epochs}",
    ]
    assert [phrase for phrase in said if phrase not in prose()] == []
    whole = full["apebench"]
    assert whole.training.epochs * whole.samples.train / whole.training.batch_size == 10_000


def test_the_small_budgets_take_minutes():
    from science_page import costs
    from yardsticks.results import FOLDER

    assert "The small budget takes minutes of one core, but for the `UNet` of the beam" in prose()
    cells = [line.split(" | ") for line in costs(FOLDER) if "small`" in line]
    assert all(float(hours) < 0.5 or "beam" in command for command, hours, *_ in cells)


def test_comparisons_in_sentences_hold_for_the_stored_figures():
    text = prose()
    burgers = ("burgers", "full", "viscosity 0.1")
    assert error("burgers", "small", "viscosity 0.1", "mean of the initial field", "relative_l2") < 0.05
    assert "error of the `FNO` is below that of the paper and above that of the authors' later code" in text
    assert 0.0025 < error(*burgers, "FNO", "relative_l2") < 0.0139
    assert "the mean of the `MLP` is lower, and its median higher" in text
    assert error(*burgers, "MLP", "relative_l2") < error(*burgers, "FNO", "relative_l2")
    assert error(*burgers, "MLP", "median") > error(*burgers, "FNO", "median")
    assert "was run at viscosity 0.1 only" in text
    assert {row["case"] for row in stored("burgers", "full")} == {"viscosity 0.1"}
    for problem in ("pdebench", "apebench"):
        assert error(problem, "small", "advection", "linear map", "last") < 1e-6
    assert "our errors, which are about two thirds as large" in text
    for figure, published in (("one_step", 0.002), ("last", 0.155)):
        assert 0.55 < error("apebench", "full", "advection", "FNO, width 8", figure) / published < 0.75
    parameters = {row["parameters"] for row in stored("apebench", "full") if row["network"] == "FNO, width 8"}
    assert parameters == {7729}
    assert "the network has 7,729 parameters here" in text
    assert "and for Burgers' equation with one seed" in text
    assert {row["seed"] for row in stored("apebench", "full") if row["case"] == "Burgers"} == {None, 0}
    assert "ours are at least twice as large as the published ones" in text
    for name, published in (("FNO", 0.07), ("UNet", 0.06)):
        assert error("apebench", "full", "Burgers", name, "geometric") > 2 * published
    waves = [error("apebench", "small", "Kuramoto", name, "geometric") for name in ("FNO", "UNet", "MLP")]
    assert min(waves) > 0.9
    assert waves[2] > 100
    assert "All networks are below the linear map" in text
    beam = [row for row in stored("beam", "small") if row["seed"] is not None]
    assert max(row["relative_l2"] for row in beam) < error("beam", "small", "ours", "linear map", "relative_l2")
    assert error("beam", "small", "ours", "rest", "relative_l2") == pytest.approx(1)
    assert "takes about 20 minutes" in text
    minutes = sum(3 * error("beam", "small", "", name, "cpu_seconds") for name in ("MLP", "FC", "FC, lr 0.0003")) / 60
    assert 15 < minutes < 25


def test_every_row_says_which_commit_and_command_made_it():
    from yardsticks.results import FOLDER

    for path in FOLDER.glob("*.json"):
        said = json.loads(path.read_text())
        for row in said["rows"]:
            record = said["records"][row["record"]]
            assert re.fullmatch("[0-9a-f]{40}", record["commit"]), path.name
            assert record["command"].startswith("python benchmarks/"), path.name
            assert record["changed"] is False, path.name


def by_seed(network, figure):
    """Return a figure of the trainings at equal time by seed."""
    found = {
        row["seed"]: row[figure]
        for row in stored("online", "small")
        if (row["case"], row["network"]) == ("equal time", network)
    }
    assert set(found) == {0, 1, 2}
    return found


def test_comparisons_of_online_training_hold_for_the_stored_figures():
    guide = " ".join((ROOT / "docs" / "howto" / "online.md").read_text().split())
    reservoir, fifo = by_seed("reservoir", "error"), by_seed("fifo", "error")
    ratios = [fifo[seed] / reservoir[seed] for seed in reservoir]
    assert f"{min(ratios):.0f} to {max(ratios):.0f} times at equal time" in guide
    assert "simulators never paused" in guide
    assert {value for name in ("fifo", "firo", "reservoir") for value in by_seed(name, "paused s").values()} == {0.0}
    assert max(by_seed("reservoir", "waiting %").values()) < 5
    assert "with 40 simulations is within the spread of the reservoir's seeds" in guide
    assert min(reservoir.values()) < mean(by_seed("offline, 40", "error").values()) < max(reservoir.values())
    assert "With 160 simulations, which take half of the time, its mean is twice that of the reservoir" in guide
    assert 1.7 < mean(by_seed("offline, 160", "error").values()) / mean(reservoir.values()) < 2.3
    assert (
        0.4 < 1 - mean(by_seed("offline, 160", "steps").values()) / mean(by_seed("reservoir", "steps").values()) < 0.6
    )
    figures = " ".join((ROOT / "docs" / "concepts" / "figures.md").read_text().split())
    assert "a hundredth to a five-hundredth of that of first-in-first-out" in figures
    assert min(ratios) > 80
    assert max(ratios) < 600


def test_the_page_of_figures_has_those_of_burgers_equation():
    from science_page import spread

    rows = [row for row in stored("burgers", "small") if (row["case"], row["network"]) == ("viscosity 0.1", "FNO")]
    errors = spread([row["relative_l2"] for row in rows], "{:.4f}".format)
    seconds = mean(row["cpu_seconds"] for row in rows)
    figures = " ".join((ROOT / "docs" / "concepts" / "figures.md").read_text().split())
    assert f"a relative L2 error of {errors}, in three trainings of {seconds:.0f} s on one core" in figures


def test_the_network_with_the_lowest_error_is_the_one_that_the_page_names():
    from science import PROBLEMS

    said = "`FNO` has the lowest error of the three networks in all problems on grids but one: for the "
    assert f"{said}Kuramoto-Sivashinsky equation the `UNet` has." in prose()
    measures = {"burgers": "relative_l2", "darcy": "relative_l2", "navier_stokes": "whole"}
    measures |= {"pdebench": "rollout", "apebench": "geometric"}
    lowest, faster = {}, []
    for problem, figure in measures.items():
        for case in PROBLEMS[problem]("small"):
            names = ("FNO", "UNet", "MLP")
            lowest[case.name] = min(names, key=lambda name: error(problem, "small", case.name, name, figure))
            seconds = [error(problem, "small", case.name, name, "cpu_seconds") for name in names]
            assert min(seconds) == seconds[2], case.name
            faster.append(seconds[2] / min(seconds[:2]))
    assert lowest.pop("Kuramoto-Sivashinsky") == "UNet"
    assert set(lowest.values()) == {"FNO"}
    assert "mostly in a tenth of the time" in prose()
    assert sorted(faster)[len(faster) // 2] < 0.15

"""Yardsticks of the science: errors of trained networks on problems whose figures are published, and what they cost.

burgers: Burgers' equation of the paper on the Fourier neural operator (Li et al., ICLR 2021, arXiv:2010.08895).
darcy: Darcy flow of the same paper, solved with 421 points a side.
navier_stokes: Navier-Stokes in two dimensions at viscosity 0.001 of the same paper, step by step.
pdebench: advection, Burgers and diffusion-reaction in one dimension (Takamoto et al., NeurIPS 2022, arXiv:2210.07182).
apebench: advection, Burgers and Kuramoto-Sivashinsky over 100 steps (Koehler et al., NeurIPS 2024, arXiv:2411.00180).
beam: the cantilever of 25 x 5 x 5 nodes, with our networks and with that of DeepPhysX.

Every network of a problem has the same samples, epochs and schedule of the learning rate; seeds are those of weights
and order. Figures are of the weights of the last epoch, on test samples. They are stored as soon as they are measured,
with a record of what made them; `benchmarks/science_page.py` makes the tables of docs/science.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, get_args

from yardsticks import evolutions, maps
from yardsticks.case import Budget, Case
from yardsticks.results import FOLDER, Results
from yardsticks.training import trained

PROBLEMS = {
    "burgers": maps.burgers,
    "darcy": maps.darcy,
    "navier_stokes": evolutions.navier_stokes,
    "pdebench": evolutions.pdebench,
    "apebench": evolutions.apebench,
    "beam": maps.beam,
}


def run(case: Case, settings: argparse.Namespace, folder: Path, results: Results) -> None:
    """Measure what a case has, or what was asked for of it."""
    train, test = case.samples.make(folder, settings.workers)
    shown = case.shown(train)
    alone = {"case": case.name, "samples": len(shown), "test_samples": len(test)}
    chosen = set(settings.networks or (*case.baselines, *case.networks))
    for name, make in case.baselines.items():
        if name in chosen:
            keep({**alone, "network": name, "seed": None, **case.measure(make(shown), test)}, results)
    for name in case.networks:
        for seed in settings.seeds if name in chosen else ():
            predict, took = trained(case, case.networks[name], shown, seed)
            keep({**alone, "network": name, "seed": seed, **case.measure(predict, test), **took}, results)


def keep(row: dict[str, Any], results: Results) -> None:
    """Store a row and print it."""
    results.put(row)
    figures = ", ".join(
        f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float) and name != "seconds"
    )
    print(f"{results.problem}, {row['case']}: {row['network']}, seed {row['seed']}: {figures}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="+", choices=PROBLEMS, help=f"one or several of {', '.join(PROBLEMS)}")
    parser.add_argument(
        "--budget", choices=get_args(Budget), default="small", help="%(default)s; quick shows that it works"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and order; 0 1 2")
    parser.add_argument("--networks", nargs="+", default=[], help="only these, baselines among them")
    parser.add_argument("--cases", nargs="+", default=[], help="only those whose name begins so")
    parser.add_argument(
        "--workers", type=int, default=0, help="that simulate; 0 for this process, whose CPU time counts"
    )
    parser.add_argument("--samples", type=Path, help="keep the samples in this folder, and take those that are there")
    parser.add_argument(
        "--results", type=Path, default=FOLDER, help="folder of the figures; benchmarks/science_results"
    )
    settings = parser.parse_args(argv)
    if wrong := [seed for seed in settings.seeds if seed < 0]:
        parser.error(f"a seed is a number from 0 on, not {wrong[0]}")
    cases = {problem: chosen_cases(problem, settings, parser) for problem in settings.problem}
    for problem, chosen in cases.items():
        results = Results(settings.results, problem, settings.budget)
        results.begin(command(problem, settings))
        with tempfile.TemporaryDirectory() as temporary:
            for case in chosen:
                run(case, settings, settings.samples or Path(temporary), results)


def chosen_cases(problem: str, settings: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Case]:
    """Return the cases of a problem that were asked for; an error ends the program where a name is unknown."""
    cases = PROBLEMS[problem](settings.budget)
    chosen = [case for case in cases if not settings.cases or case.name.startswith(tuple(settings.cases))]
    if not chosen:
        parser.error(f"{problem} has no such case; it has {', '.join(case.name for case in cases)}")
    known = {name for case in chosen for name in (*case.networks, *case.baselines)}
    if missing := [name for name in settings.networks if name not in known]:
        parser.error(f"{problem} has no network {missing[0]!r} there; it has {', '.join(sorted(known))}")
    return chosen


def command(problem: str, settings: argparse.Namespace) -> str:
    """Return the command that measures the same again."""
    words = ["python benchmarks/science.py", problem, "--budget", settings.budget, "--seeds", *map(str, settings.seeds)]
    for option in ("networks", "cases"):
        if given := getattr(settings, option):
            words += [f"--{option}", *(f'"{word}"' if " " in word else word for word in given)]
    return " ".join(words)


if __name__ == "__main__":
    main()

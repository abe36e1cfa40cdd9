"""What others published, where it was read, and what differs here: the first table of docs/science.md."""

from __future__ import annotations

from dataclasses import dataclass

LI = "[Li](https://arxiv.org/abs/2010.08895), 5.{}"
STUDY = "https://github.com/pdebench-fno-audit/artifact/blob/main/standalone/evaluate_predictions.py"
TAKAMOTO = f"[Takamoto](https://arxiv.org/abs/2210.07182), table {{}}, [by this]({STUDY})"
WORKFLOW = "[Koehler](https://github.com/Ceyron/apebench/blob/main/docs/typical_workflow.md), median"
BARS = "[Koehler](https://tum-pbs.github.io/apebench-paper/), bars"

# what differs at both budgets; and at the small one, of which names in braces are filled in
BURGERS = ("solver, schedule, normalization", "{epochs} epochs of 500")
DARCY = ("solver, schedule", "{epochs} epochs of 500, {points} points of 85")
FLOW = (
    "solver, schedule, loss",
    "{epochs} epochs of 500, {train} trajectories of 1,000, {points} points of 64",
)
WAVES = ("solver, schedule, fields, input", "{epochs} epochs of 500, {train} trajectories of 9,000")
EMULATOR = ("solver, schedule, layers", "{epochs} epochs of 80")
NO_FIGURE = "nothing to compare with"
BEAM = (NO_FIGURE, "{epochs} epochs of 60, {train} samples of 20,000")

# what the text of the page has of others besides; their places are in the text
FURTHER = ("0.0025", "0.0041", "0.0109", "0.0098", "0.0076", "0.0086", "0.0093", "0.042")


@dataclass(frozen=True)
class Comparison:
    """A row of the first table.

    Attributes:
        problem: Name of the problem in `benchmarks/science.py`.
        title: What the row is of, after the name of the problem; empty for what has one case.
        section: Anchor of the section that explains it.
        case: Begin of the name of the case.
        network: Name of the network.
        figure: Key of the figure in the stored rows.
        published: The figure; empty if there is none.
        source: Where it was read.
        differs: What differs from the published set-up at both budgets, and at the small one.
    """

    problem: str
    title: str
    section: str
    case: str
    network: str
    figure: str
    published: str
    source: str
    differs: tuple[str, str]


FLOW_SECTION = ("navier_stokes", "ten states", "navier-stokes-in-two-dimensions", "10 states")
COMPARISONS = [
    Comparison(
        *("burgers", "viscosity 0.1", "burgers-equation", "viscosity 0.1", "FNO", "relative_l2"),
        *("0.0139", LI.format(1), BURGERS),
    ),
    Comparison(
        *("darcy", "", "darcy-flow", "", "FNO", "relative_l2", "0.0108", LI.format(2), DARCY),
    ),
    Comparison(*FLOW_SECTION, "FNO", "whole", "0.0128", LI.format(3), FLOW),
    Comparison(*FLOW_SECTION, "UNet", "whole", "0.0245", LI.format(3), FLOW),
    Comparison(
        *("pdebench", "advection", "pdebench-in-one-dimension", "advection", "FNO", "rollout"),
        *("0.0077", TAKAMOTO.format(6), WAVES),
    ),
    Comparison(
        *("pdebench", "Burgers", "pdebench-in-one-dimension", "Burgers", "FNO", "rollout"),
        *("0.029", TAKAMOTO.format(7), WAVES),
    ),
    Comparison(
        *("pdebench", "diffusion-reaction", "pdebench-in-one-dimension", "diffusion", "FNO", "rollout"),
        *("0.0014", TAKAMOTO.format(9), WAVES),
    ),
    Comparison(
        *("apebench", "advection, step 1", "apebench", "advection", "FNO, width 8", "one_step"),
        *("0.002", WORKFLOW, EMULATOR),
    ),
    Comparison(
        *("apebench", "advection, step 100", "apebench", "advection", "FNO, width 8", "last"),
        *("0.155", WORKFLOW, EMULATOR),
    ),
    Comparison("apebench", "Burgers", "apebench", "Burgers", "FNO", "geometric", "0.07", BARS, EMULATOR),
    Comparison("apebench", "Burgers", "apebench", "Burgers", "UNet", "geometric", "0.06", BARS, EMULATOR),
    Comparison("beam", "", "the-beam", "DeepPhysX", "FC", "relative_l2", "", "", BEAM),
    Comparison("beam", "", "the-beam", "ours", "MLP", "relative_l2", "", "", BEAM),
]


def figures_of(problem: str, case: str, network: str) -> list[Comparison]:
    """Return what is published of a network of a case."""
    return [
        row
        for row in COMPARISONS
        if (row.problem, row.network) == (problem, network) and case.startswith(row.case) and row.published
    ]

"""A beam in CalculiX.

Values go into a template, displacements come out of a text file. The samples train a network. Needs the program ccx
(Debian: calculix-ccx). The example writes the folder calculix_data, which ``physgym view`` plays.
"""

from pathlib import Path

import gymnasium

import physgym
from physgym.adapters.command import CommandSimulation
from physgym.nn import MLP
from physgym.training import Trainer

CASE = Path(__file__).with_name("calculix_beam")  # job.inp.j2, and the mesh of 13 x 4 x 4 nodes
DISPLACEMENT = {"read": "table", "file": "job.dat", "after": "displacements", "columns": [1, 2, 3]}


class CalculixBeam(CommandSimulation):
    """A beam of 100 x 15 x 15 mm, clamped at one end, with a force across at the other."""

    def __init__(self, **options):
        super().__init__(
            command=["ccx", "-i", "job"],
            case=CASE,
            parameters={"young_modulus": {"low": 1000, "high": 3000, "unit": "MPa"}},
            actions={"force": {"low": -60, "high": 60, "shape": [2], "unit": "N"}},
            outputs={"displacement": {**DISPLACEMENT, "shape": [208, 3], "unit": "mm"}},
            reject="increment size smaller than minimum|too many cutbacks",
            **options,
        )


gymnasium.register("example/CalculixBeam-v0", CalculixBeam)

if __name__ == "__main__":
    data = physgym.generate("example/CalculixBeam-v0", "calculix_data", samples=100, max_steps=5, num_workers=2)
    Trainer(MLP.from_spec(data.spec, hidden=(64,)), data, epochs=200).fit()

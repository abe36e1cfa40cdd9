"""A cavity with a moving lid in OpenFOAM.

Speed of the lid and viscosity go into the templates of a case, the velocity on the middle line comes out of a file. The
samples train a network. Needs blockMesh and icoFoam (Debian: openfoam).
"""

import os
from pathlib import Path

import gymnasium

import physgym
from physgym.adapters.command import CommandSimulation
from physgym.nn import MLP
from physgym.training import Trainer

CASE = Path(__file__).with_name("openfoam_cavity")
LINE = {"read": "table", "file": "postProcessing/line/0.5/middle_U.xy", "columns": [1, 2]}  # from the bottom to the lid


class Cavity(CommandSimulation):
    """A cavity of 0.1 x 0.1 m, 0.5 s after its lid has begun to move."""

    def __init__(self, **options):
        super().__init__(
            command=["sh", "-c", "blockMesh && icoFoam"],
            case=CASE,
            variables={"WM_PROJECT_DIR": os.environ.get("WM_PROJECT_DIR", "/usr/share/openfoam")},
            parameters={
                "lid_speed": {"low": 0.5, "high": 1.5, "unit": "m/s"},
                "viscosity": {"low": 0.01, "high": 0.03, "unit": "m^2/s"},
            },
            outputs={"velocity": {**LINE, "shape": [32, 2], "unit": "m/s"}},
            **options,
        )


gymnasium.register("example/Cavity-v0", Cavity)

if __name__ == "__main__":
    data = physgym.generate("example/Cavity-v0", "data/cavity", samples=50, num_workers=2)
    Trainer(MLP.from_spec(data.spec, hidden=(32,)), data, epochs=200, session="sessions/openfoam_cavity").fit()

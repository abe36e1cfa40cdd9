"""DeepPhysX's beam in SOFA.

The beam of docs/howto/sofa.md. Needs SOFA with SofaCaribou::

    physgym generate sofa_beam:Beam --out data/beam --max-steps 5
"""

import numpy as np
from gymnasium import spaces
from sofa_beam_scene import COUNT, HIGH, LOW, createScene

from physgym.adapters.sofa import SofaSimulation

FIELD = spaces.Box(-np.inf, np.inf, (COUNT, 3), np.float64)


class Beam(SofaSimulation):
    plugins = ("SofaCaribou", "Sofa.Component")
    action_space = spaces.Discrete(1)  # the load of an episode is drawn; there is nothing to decide
    observation_data, observation_space = "fem.GridMO.position", FIELD
    sample_space = spaces.Dict(forces=FIELD, displacement=FIELD)
    sample_roles = {"forces": "input", "displacement": "target"}
    written_data = ("fem.GridMO.position", "fem.CFF.forces")
    converged_data = "fem.ODESolver.converged"
    mesh_data = {"beam": ("fem.GridMO.position", "fem.QuadTopo.quads")}
    timed = False  # a static solver
    create_scene = staticmethod(createScene)

    def begin(self, options):
        super().begin(options)
        rest, surface = self.value("fem.GridMO.rest_position"), np.unique(self.value("fem.QuadTopo.quads"))
        self.write("fem.GridMO.position", rest)
        low = self.np_random.uniform(LOW - 5, HIGH - 10)  # a box that reaches beyond the beam has parts of its surface
        inside = ((rest >= low) & (rest <= self.np_random.uniform(low + 10, HIGH + 5))).all(axis=1)
        direction = self.np_random.uniform(-1, 1, 3)
        self.load = np.zeros_like(rest)
        self.load[np.intersect1d(np.flatnonzero(inside), surface)] = 20 * direction / np.linalg.norm(direction)

    def apply(self, action):
        self.write("fem.CFF.forces", self.value("fem.CFF.forces") + self.load)  # a step adds a fifth

    def sample(self):
        displacement = self.value("fem.GridMO.position") - self.value("fem.GridMO.rest_position")
        return {"forces": self.value("fem.CFF.forces"), "displacement": displacement}

"""DeepPhysX's beam in SOFA, as docs/sofa.md ports it line by line; needs SOFA with SofaPython3 and SofaCaribou."""

import numpy as np
from gymnasium import spaces

import physgym
from physgym.adapters.sofa import SofaSimulation

LOW, HIGH, NODES = [0.0, 0.0, 0.0], [100.0, 15.0, 15.0], (25, 5, 5)
COUNT = int(np.prod(NODES))
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

    def create_scene(self, root):
        root.addObject("DefaultAnimationLoop")
        fem = root.addChild("fem")
        fem.addObject("StaticODESolver", name="ODESolver", newton_iterations=50)
        fem.addObject("ConjugateGradientSolver", preconditioning_method="Diagonal", maximum_number_of_iterations=2000)
        fem.addObject("RegularGridTopology", name="GridTopo", min=LOW, max=HIGH, nx=NODES[0], ny=NODES[1], nz=NODES[2])
        fem.addObject("MechanicalObject", name="GridMO", src="@GridTopo")
        fem.addObject("HexahedronSetTopologyContainer", name="HexaTopo", src="@GridTopo")
        fem.addObject("NeoHookeanMaterial", name="NH", young_modulus=10000, poisson_ratio=0.45)
        fem.addObject("HyperelasticForcefield", template="Hexahedron", material="@NH", topology="@HexaTopo")
        fem.addObject("QuadSetTopologyContainer", name="QuadTopo", src="@HexaTopo")
        fem.addObject("Hexa2QuadTopologicalMapping", input="@HexaTopo", output="@QuadTopo")
        fem.addObject("BoxROI", name="FixedBox", box=[0.0, 0.0, 0.0, 0.0, 15.0, 15.0])
        fem.addObject("FixedConstraint", indices="@FixedBox.indices")
        fem.addObject("ConstantForceField", name="CFF", forces=[[0.0] * 3] * COUNT, indices=list(range(COUNT)))

    def begin(self, options):
        super().begin(options)
        rest, surface = self.value("fem.GridMO.rest_position"), np.unique(self.value("fem.QuadTopo.quads"))
        self.write("fem.GridMO.position", rest)
        low = self.np_random.uniform(LOW, np.array(HIGH) - 10)
        high = self.np_random.uniform(low + 10, HIGH)
        inside = ((rest >= low) & (rest <= high)).all(axis=1)
        self.loaded = np.intersect1d(np.flatnonzero(inside), surface)
        direction = self.np_random.uniform(-1, 1, 3)
        self.load, self.steps = 20 * direction / np.linalg.norm(direction), 0

    def apply(self, action):
        self.steps += 1
        forces = np.zeros((COUNT, 3))
        forces[self.loaded] = self.steps * self.load
        self.write("fem.CFF.forces", forces)

    def outcome(self):
        reward, diverged = super().outcome()
        return reward, diverged or self.steps == 5

    def sample(self):
        displacement = self.value("fem.GridMO.position") - self.value("fem.GridMO.rest_position")
        return {"forces": self.value("fem.CFF.forces"), "displacement": displacement}


if __name__ == "__main__":
    print(physgym.generate(Beam, "data/sofa_beam", samples=1000, num_envs=4))

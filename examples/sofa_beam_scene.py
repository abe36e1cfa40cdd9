"""The scene of DeepPhysX's beam; needs SOFA with SofaCaribou. runSofa shows it, examples/sofa_beam.py makes samples."""

import numpy as np

LOW, HIGH, NODES = np.zeros(3), np.array([100.0, 15.0, 15.0]), (25, 5, 5)
COUNT = 25 * 5 * 5


def createScene(root):
    root.addObject("DefaultAnimationLoop")
    fem = root.addChild("fem")
    fem.addObject("StaticODESolver", name="ODESolver", newton_iterations=50)
    fem.addObject("ConjugateGradientSolver", preconditioning_method="Diagonal", maximum_number_of_iterations=2000)
    box = {"min": LOW.tolist(), "max": HIGH.tolist(), "nx": NODES[0], "ny": NODES[1], "nz": NODES[2]}
    fem.addObject("RegularGridTopology", name="GridTopo", **box)
    fem.addObject("MechanicalObject", name="GridMO", src="@GridTopo")
    fem.addObject("HexahedronSetTopologyContainer", name="HexaTopo", src="@GridTopo")
    fem.addObject("NeoHookeanMaterial", name="NH", young_modulus=10000, poisson_ratio=0.45)
    fem.addObject("HyperelasticForcefield", template="Hexahedron", material="@NH", topology="@HexaTopo")
    fem.addObject("QuadSetTopologyContainer", name="QuadTopo", src="@HexaTopo")
    fem.addObject("Hexa2QuadTopologicalMapping", input="@HexaTopo", output="@QuadTopo")
    fem.addObject("BoxROI", name="FixedBox", box=[0.0, 0.0, 0.0, 0.0, 15.0, 15.0])
    fem.addObject("FixedConstraint", indices="@FixedBox.indices")
    fem.addObject("ConstantForceField", name="CFF", forces=[[0.0] * 3] * COUNT, indices=list(range(COUNT)))

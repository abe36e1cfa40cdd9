"""Samples of an FMU.

All inputs, and all parameters that have bounds, are drawn within these. All outputs are stored::

    python examples/fmu.py model.fmu [OUT] [SAMPLES]
"""

import sys

import physgym
from physgym.adapters.fmu import FmuSimulation


def main(path, out="data/fmu", samples=1000):
    """Draw inputs within their bounds, and all parameters that have some."""
    env = FmuSimulation(path)
    print("\n".join(env.about.lines()))
    drawn = [
        variable.name
        for variable in env.about.of_causality("parameter")
        if None not in (variable.low, variable.high) and variable.variability in ("fixed", "tunable")
    ]
    env.close()
    arguments = {"path": str(path), "parameters": drawn}
    dataset = physgym.generate("physgym/Fmu-v0", out, env_kwargs=arguments, samples=samples, max_steps=20, num_envs=2)
    for field in dataset.spec.values():
        print(f"{field.name}: {field.role}, {field.shape} {field.dtype} [{field.unit}]")
    return dataset


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:3], *map(int, sys.argv[3:4]))

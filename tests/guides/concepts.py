"""How the code of the pages of docs/concepts is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import BEAM, IMPORTS, Guide

GUIDES = {
    "concepts/architecture": Guide(
        sketches={
            0: "a sampler that would stay in the table",
            1: "two ways to end a method that the reader writes",
            2: "tests of a format that the reader writes",
            3: "rows of a table",
            4: "tests of a transport that the reader writes",
        }
    ),
    "concepts/index": Guide(
        IMPORTS + BEAM + "network = MLP.from_spec(dataset.spec, hidden=(4,))\n"
        "trainer = Trainer(network, dataset, epochs=1, progress=False)\ntrainer.fit()\n",
        {"runner.run(100,": "runner.run(2,", 'path="data/beam"': 'path="data/stream"'},
    ),
    "concepts/data": Guide(
        IMPORTS + "from physgym.sample import Field, SampleSpec\n"
        "spec = SampleSpec([Field('x', (2,), np.dtype('f4'), 'input')])\n"
        "samples, sample = {'x': np.ones((3, 2), np.float32)}, {'x': np.ones(2, np.float32)}\n"
        "episodes, steps, seeds = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5, 5, 6], np.uint64)\n",
        {"samples=10_000": "samples=104, max_steps=20"},
    ),
    "concepts/sessions": Guide(),
    "concepts/vector": Guide(
        IMPORTS + "class Gain(gymnasium.Env):\n"
        "    action_space = observation_space = spaces.Box(-1, 1, (1,), np.float32)\n\n"
        "    def __init__(self, gain=1.0):\n        self.gain = gain\n\n"
        "def make(**kwargs):\n    return Gain(**kwargs)\n",
        {"num_envs=64": "num_envs=2", "range(100)": "range(2)"},
    ),
}

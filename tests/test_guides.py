"""The code of the guides in docs/ runs as it stands there, or, where it is a sketch, names what there is."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import pytest
import torch

import physgym
from physgym.nn import MLP
from physgym.training import Trainer
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

DOCS = Path(__file__).resolve().parents[1] / "docs"
ELSEWHERE = {  # guides whose code another test runs
    "networks": "tests/nn/test_physics.py",
    "training": "tests/training/test_training_examples.py",
}


WITH_PEERS = {  # modules that need a package
    "physgym.adapters.tianshou": "tianshou",
    "physgym.adapters.sb3": "stable_baselines3",
}


@dataclass(frozen=True)
class Guide:
    """How the code of a guide is run.

    Attributes:
        before: Code that makes what the guide takes for granted.
        smaller: Texts, and those that replace them so that it takes seconds.
        sketches: Numbers of the blocks that do not run, and why.
        files: Numbers of the blocks that the reader puts into files, with the names of these.
        optional: Whether each block is by itself, and is left out where a package is missing.
        prepared: Whether it takes for granted that there are datasets and sessions of the beam and the spring.
    """

    before: str = ""
    smaller: dict[str, str] = field(default_factory=dict)
    sketches: dict[int, str] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    optional: bool = False
    prepared: bool = True


IMPORTS = """
import gymnasium, h5py, numpy as np, physgym, torch
from gymnasium import spaces
from physgym import RecordTransition, SampleDataset, generate
from physgym.data import SampleStream, SampleWriter
from physgym.nn import MLP
from physgym.runner import Runner, SurrogateEnv
from physgym.samplers import Breed
from physgym.training import Checkpoints, Trainer, load_checkpoint
from torch.utils.data import DataLoader
"""
BEAM = "dataset = physgym.SampleDataset('data/beam')\n"
METHODS = "methods of a class that the reader writes"
GUIDES = {
    "architecture": Guide(
        sketches={
            0: "a sampler that would stay in the table",
            1: "two ways to end a method that the reader writes",
            2: "tests of a format that the reader writes",
            3: "rows of a table",
            4: "tests of a transport that the reader writes",
        }
    ),
    "command": Guide(sketches={2: "needs OpenFOAM"}, prepared=False),
    "concepts": Guide(
        IMPORTS + BEAM + "network = MLP.from_spec(dataset.spec, hidden=(4,))\n"
        "trainer = Trainer(network, dataset, epochs=1, progress=False)\ntrainer.fit()\n",
        {"runner.run(100,": "runner.run(2,", 'path="data/beam"': 'path="data/stream"'},
    ),
    "batched": Guide(
        IMPORTS + "from physgym.batched.simulation import BatchedSimulation\n",
        smaller={
            "samples=100_000, num_envs=256": "samples=40, num_envs=3",
            "epochs=10, batches_per_epoch=100": "epochs=1, batches_per_epoch=2",
            'num_envs=64, env_kwargs={"size": 32': 'num_envs=4, env_kwargs={"size": 8',
        },
        sketches={1: "a test that the reader writes"},
        prepared=False,
    ),
    "config": Guide(),
    "data": Guide(
        IMPORTS + "from physgym.sample import Field, SampleSpec\n"
        "spec = SampleSpec([Field('x', (2,), np.dtype('f4'), 'input')])\n"
        "samples, sample = {'x': np.ones((3, 2), np.float32)}, {'x': np.ones(2, np.float32)}\n"
        "episodes, steps, seeds = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5, 5, 6], np.uint64)\n",
        {"samples=10_000": "samples=104, max_steps=20"},
    ),
    "fmu": Guide(
        "from pathlib import Path\nfrom tests.support.fmus import make_fmu\nmake_fmu(Path('springs.fmu'), 2)\n",
        {"samples=200": "samples=8"},
        prepared=False,
    ),
    "format": Guide(),
    "generation": Guide(
        IMPORTS + "env = gymnasium.make('physgym/Spring-v0').unwrapped\n",
        {"10_000": "50", "3000": "30", "6400": "640", "LatinHypercube(64)": "LatinHypercube(8)"},
        {7: METHODS, 8: "attributes of several datasets"},
        prepared=False,
    ),
    "hyperparameters": Guide(
        f"import shutil\nshutil.copytree({str(DOCS.parent / 'examples')!r}, 'examples')\n",
        {"trials=3": "trials=2", "epochs=2": "epochs=1"},
        prepared=False,
    ),
    "agents": Guide(smaller={"episodes=20, max_steps=1000": "episodes=2, max_steps=30"}, prepared=False),
    "driving": Guide(sketches={2: "needs the simulator of DonkeyCar"}, prepared=False),
    "interop": Guide(
        smaller={"20_000)\n": "1_024)\n", "n_step=1000": "n_step=80", "samples=1000": "samples=200"},
        sketches={4: "ray starts a cluster", 5: "takes a script of CleanRL"},
        optional=True,
        prepared=False,
    ),
    "loading": Guide(IMPORTS + BEAM, {"range(10)": "range(2)", "< 10": "< 3"}),
    "machines": Guide(sketches={1: "Ray starts a cluster"}, prepared=False),
    "mpi": Guide(sketches={1: "runs in the ranks"}, prepared=False),
    "online": Guide(
        IMPORTS + "test = physgym.generate('physgym/Heat-v0', 'data/test', samples=20, seed=7, progress=False)\n",
        {
            "capacity=6000, minimum=1000": "capacity=60, minimum=20",
            "epochs=20, batches_per_epoch=500": "epochs=1, batches_per_epoch=3",
        },
        {2: "arguments are left out"},
    ),
    "paraview": Guide(prepared=False),
    "running": Guide(
        IMPORTS,
        {
            "2000": "30",
            "10_000": "3",
            "samples=20_000": "samples=50",
            "steps=200": "steps=5",
            "episodes=20": "episodes=2",
            "frames=50": "frames=2",
        },
        {
            6: METHODS,
            7: "arguments are left out",
            9: "arguments are left out",
            13: "takes a file of ONNX; tests/nn/test_export.py runs such files",
        },
    ),
    "scene": Guide(prepared=False),
    "sessions": Guide(),
    "simulators": Guide(prepared=False),
    "sofa": Guide(sketches={0: "needs SOFA"}, prepared=False),
    "protocol": Guide(sketches={0: "tests of a worker that the reader writes"}),
    "simulation": Guide(
        IMPORTS,
        sketches={
            0: "a class with values left out",
            1: "attributes of a class that the reader writes",
            2: METHODS,
            3: METHODS,
            4: "of the environment of the block before it",
            5: "a class with values left out",
            7: METHODS,
            8: METHODS,
            10: "of the environment of the block before it",
            11: "an attribute of a class that the reader writes",
        },
        prepared=False,
    ),
    "storage": Guide(sketches={0: "takes a bucket; tests/storage runs the same on a server of this machine"}),
    "time_series": Guide(
        smaller={
            '{"training": 60, "validation": 10, "test": 20}': '{"training": 4, "validation": 1, "test": 2}',
            "optimizer, 40": "optimizer, 4",
            "epochs=40": "epochs=4",
            "{0: 1, 10: 2, 20: 4, 30: 8}": "{0: 1, 1: 2, 2: 4, 3: 8}",
        },
        files={0: "pendulum.py"},
        prepared=False,
    ),
    "view": Guide(),
    "watching": Guide(prepared=False),
    "umbridge": Guide(
        "from tests.support.umbridge_models import FakeServer\n"
        "server = FakeServer()\n"
        "server.answers |= {'/InputSizes': {'inputSizes': [1]}, '/OutputSizes': {'outputSizes': [1]}}\n"
        "server.__enter__()\n",
        {'"http://127.0.0.1:4242"': "server.url"},
        {2: "takes a server of a session; tests/adapters/test_umbridge.py asks one by this package"},
        prepared=False,
    ),
    "vector": Guide(
        IMPORTS + "class Gain(gymnasium.Env):\n"
        "    action_space = observation_space = spaces.Box(-1, 1, (1,), np.float32)\n\n"
        "    def __init__(self, gain=1.0):\n        self.gain = gain\n\n"
        "def make(**kwargs):\n    return Gain(**kwargs)\n",
        {"num_envs=64": "num_envs=2", "range(100)": "range(2)"},
    ),
}


def blocks(page):
    """Return the blocks of Python of a guide: line, code."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    return [(text[: match.start()].count("\n") + 1, match[1]) for match in found]


def test_every_guide_with_code_is_run_somewhere():
    assert {path.stem for path in DOCS.glob("*.md") if blocks(path.stem)} == {*GUIDES, *ELSEWHERE}
    for page in ELSEWHERE:
        assert f'"{page}.md"' in (DOCS.parent / ELSEWHERE[page]).read_text()


@pytest.mark.parametrize("page", sorted({*GUIDES, *ELSEWHERE}))
def test_names_that_a_guide_imports_exist(page):
    for line, code in blocks(page):
        for node in imports(code):
            for alias in node.names:
                where = f"docs/{page}.md:{line}: {ast.unparse(node)}"
                name = alias.name if isinstance(node, ast.Import) else node.module
                if name in WITH_PEERS and importlib.util.find_spec(WITH_PEERS[name]) is None:
                    continue
                module = importlib.import_module(name)
                inner = hasattr(module, "__path__") and importlib.util.find_spec(f"{name}.{alias.name}")
                assert isinstance(node, ast.Import) or hasattr(module, alias.name) or inner, where
    sketches = GUIDES[page].sketches if page in GUIDES else {}
    assert set(sketches) <= set(range(len(blocks(page))))


def imports(code):
    """Yield the imports of physgym in a block, whose other lines need not be whole."""
    for match in re.finditer(r"^\s*((?:from physgym[.\w]*|import physgym[.\w]*)\b.*)$", code, re.M):
        with contextlib.suppress(SyntaxError):
            yield from (
                node for node in ast.parse(match[1].strip()).body if isinstance(node, ast.Import | ast.ImportFrom)
            )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with a dataset of beams, and sessions of networks for the beam and the spring."""
    folder = tmp_path_factory.mktemp("guides")
    for name, samples in (("Beam", 104), ("Spring", 50)):
        small = name.lower()
        data = physgym.generate(
            f"physgym/{name}-v0", folder / "data" / small, samples=samples, max_steps=20, progress=False
        )
        physgym.generate(
            f"physgym/{name}-v0", folder / "data" / small, samples=3, max_steps=20, mode="validation", progress=False
        )
        network = MLP.from_spec(data.spec, hidden=(4,))
        session = folder / "sessions" / small
        Trainer(network, data, epochs=1, batch_size=16, session=session, progress=False).fit()
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in a folder; what a guide registers or sets is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    threads, registered, sync = torch.get_num_threads(), set(gymnasium.registry), gymnasium.vector.SyncVectorEnv
    loaded = set(sys.modules)
    yield tmp_path
    gymnasium.vector.SyncVectorEnv = sync
    torch.set_num_threads(threads)
    for name in set(gymnasium.registry) - registered:
        del gymnasium.registry[name]
    for name in set(sys.modules) - loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(page for page in GUIDES if len(GUIDES[page].sketches) < len(blocks(page))))
@pytest.mark.filterwarnings("ignore:the code of the simulation is unknown")  # it stands in no file here
def test_the_code_of_a_guide_runs(page, place, request):
    guide = GUIDES[page]
    if guide.prepared:
        shutil.copytree(request.getfixturevalue("kept"), place, dirs_exist_ok=True)
    names = {"__name__": f"guide_of_{page}"}
    exec(guide.before, names)  # noqa: S102
    code = "".join(block for _, block in blocks(page))
    assert [text for text in guide.smaller if text not in code] == []
    ran = 0
    for number, (line, block) in enumerate(blocks(page)):
        if number in guide.sketches:
            continue
        if number in guide.files:
            (place / guide.files[number]).write_text(block)
            continue
        for text, replacement in guide.smaller.items():
            block = block.replace(text, replacement)
        try:
            exec(compile("\n" * line + block, str(DOCS / f"{page}.md"), "exec"), names)  # noqa: S102
        except ModuleNotFoundError as error:
            if not guide.optional or str(error.name).startswith("physgym"):
                raise
            continue
        ran += 1
    assert ran
    for value in names.values():  # what a guide leaves open
        if isinstance(getattr(value, "close", None), type(test_every_guide_with_code_is_run_somewhere)):
            continue
        if hasattr(type(value), "close") and type(value).__module__.startswith("physgym"):
            value.close()
    names.clear()
    gc.collect()

"""What other people's code and command lines rely on is there: public names, commands, options, configuration keys."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import gymnasium
import pytest
from typer.main import get_command

import physgym
from physgym import cli
from physgym.events import Callback
from physgym.experiment.config import annotation_of, known_keys
from physgym.experiment.schema import Config
from physgym.rl import AgentTrainer
from physgym.rl.recorder import VectorRecorder
from physgym.runner import SurrogateVectorEnv

ROOT = Path(__file__).parents[1]
DOCS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
NAMES = {
    "physgym": "make_vec SocketVectorEnv generate SampleDataset Loader Simulation RejectSample RecordTransition "
    "Recorder factory reopen evaluate view",
    "physgym.data": "Loader StackedSampler SampleWriter SampleStream Online SampleDataset EpisodeSplit",
    "physgym.training": "Trainer Callback Checkpoints TensorBoard TensorSource CSV MLflow WandB Logger EarlyStopping "
    "load_checkpoint save_checkpoint find_checkpoint list_checkpoints History SampleSource LearningRateMonitor Metrics "
    "ProgressBar Samples Unroll",
    "physgym.nn": "MLP UNet FNO CNN Autoencoder AutoencoderOptimization Predictor Transforms Normalize Optimization "
    "Changes Compose ElasticEnergy "
    "HeatResidual Hold Inverse Laplacian LossTransform METRICS Metric MetricTable PoissonResidual RelativeL2 Transform "
    "build describe export_network register registered",
    "physgym.rl": "Agent DQN SAC Transitions agent_class named_agent AgentEvaluation OfflineEvaluation TransitionCache "
    "evaluate_agent evaluate_offline Preprocessing Crop InfoReward FrameStacks RunningNormalization LatentObservation "
    "PictureComparison compare_pictures preprocess_recording",
    "physgym.runner": "Runner SurrogateEnv SurrogateVectorEnv RolloutEvaluation RolloutReport SaveFrames "
    "ReturnGap return_gap",
    "physgym.sample": "Field SampleSpec",
    "physgym.scene": "Scene SceneHandle Values field constant prediction norm stack draw",
    "physgym.testing": "check_env EnvConformance ConformanceNote check_worker WorkerConformance",
    "physgym.samplers": "Sampler Breed Gaussian Grid LatinHypercube NetworkPolicy ParameterTable Policy Sobol Uniform "
    "find_sampler rebuild_sampler",
    "physgym.errors": "PhysGymError ConfigError CheckpointError DatasetError SampleError WorkerError ChangedCode",
}
COMMANDS = (
    *("new", "check", "generate", "train", "resume", "search", "reproduce", "run", "replay", "evaluate", "view"),
    *("watch", "drive", "worker", "serve-model", "submit", "simulators"),
    *(
        "list",
        "show",
        "compare",
        "report",
        "tensorboard",
        "sync",
        "keys",
        "schema",
        "info",
        "export",
        "import",
        "data",
        "demo",
    ),
    "doctor",
)
APP = get_command(cli.app)


def commands(command=APP, path=()):
    """All commands and their subcommands, with the words that name them."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands())


def options(*path: str) -> set[str]:
    named = {option for one in ALL[path].params for option in (*one.opts, *one.secondary_opts)}
    return {option for option in named if option.startswith("-")} | {"--help", "-h"}


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in NAMES.items() for name in names.split()])
def test_a_public_name_is_there(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is not None


@pytest.mark.parametrize("module", NAMES)
def test_what_a_public_module_hands_on_is_in_the_list(module):
    found = importlib.import_module(module)
    tree = ast.parse(Path(str(found.__file__)).read_text())
    aliases = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    handed_on = {alias.name for alias in aliases if alias.asname == alias.name} | set(getattr(found, "__all__", ()))
    public = {name for name in handed_on if name[0] != "_" and not isinstance(getattr(found, name), ModuleType)}
    assert public <= set(NAMES[module].split())


def test_what_is_to_be_closed_is_closed_by_a_with_block():
    """A callback is closed by what calls it; all else by whoever has made it."""
    listed = [(module, name) for module, names in NAMES.items() for name in names.split()]
    classes = [getattr(importlib.import_module(module), name) for module, name in listed]
    classes += [AgentTrainer, VectorRecorder]
    closed = [
        one for one in classes if inspect.isclass(one) and hasattr(one, "close") and not issubclass(one, Callback)
    ]
    assert SurrogateVectorEnv in closed
    assert not [one.__name__ for one in closed if not (hasattr(one, "__enter__") and hasattr(one, "__exit__"))]


@pytest.mark.slow
def test_both_ways_to_make_a_vector_env_give_the_same_class():
    for envs in (
        physgym.make_vec("physgym/Spring-v0", num_envs=2, num_workers=1),
        gymnasium.make_vec("physgym/Spring-v0", num_envs=2),
    ):
        with envs:
            assert isinstance(envs, physgym.SocketVectorEnv)
            envs.reset(seed=0)
            envs.send(envs.action_space.sample())
            assert len(envs.recv(min_envs=1)) == 6


def test_samples_are_generated_and_read(tmp_path):
    made = physgym.generate(
        "physgym/Spring-v0", tmp_path / "spring", samples=20, num_envs=1, num_workers=1, seed=0, progress=False
    )
    dataset = physgym.SampleDataset(tmp_path / "spring", mode="training")
    assert len(dataset) == len(made) == 20
    assert set(dataset[0]) == set(dataset.__getitems__([0])[0]) == set(dataset.spec)
    assert dataset.statistics


def test_all_commands_are_there():
    assert set(APP.commands) == set(COMMANDS)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "physgym")
def test_every_command_helps(path, capsys):
    assert not cli.app([*path, "--help"], standalone_mode=False)
    text = capsys.readouterr().out
    assert text.startswith("Usage: ")
    for name, inner in getattr(ALL[path], "commands", {}).items():  # a list of commands cuts none of their lines
        assert not inner.get_short_help_str(61).endswith("..."), name
    assert not [option for option in options(*path) if option not in text and option not in ("-h",)]


def named_options() -> dict[tuple[tuple[str, ...], str], str]:
    """Options that the docs name behind a command, and where."""
    found = {}
    for file in DOCS:
        text = file.read_text().replace("\\\n", " ")
        text = re.sub(r'"[^"\n]*"', "", text)  # what belongs to another program
        for line in re.findall(r"physgym (?:\w+ [^`\n|;#]*)", text):
            words = tuple(line.split()[1:3])
            path = words if words in ALL else words[:1]
            for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line) if path in ALL else ():
                found[path, option] = file.name
    return found


def test_options_that_the_docs_name_exist():
    named = named_options()
    assert len(named) > 20
    assert {pair: file for pair, file in named.items() if pair[1] not in options(*pair[0])} == {}


def test_options_of_the_page_on_configurations_exist():
    text = (ROOT / "docs" / "reference" / "config.md").read_text()
    known = set().union(*(options(name) for name in COMMANDS))
    named = set(re.findall(r"(?<=`)--[a-z][a-z-]*", text))
    assert {"--cpu", "--find-replace"} <= named <= known


def test_options_and_keys_of_c3d8555_are_there():
    old = json.loads((ROOT / "tests" / "data" / "c3d8555" / "options_and_keys.json").read_text())
    gone = {name: set(given.split()) - options(*name.split()) for name, given in old["commands"].items()}
    assert {name: lost for name, lost in gone.items() if lost} == {}
    assert set(old["keys"]) <= set(known_keys())


def named_keys() -> dict[str, set[str]]:
    """Dotted keys of configurations that the docs name in code, and where."""
    sections = {name for name in Config.model_fields if any(key.startswith(f"{name}.") for key in known_keys())}
    found = {}
    for file in DOCS:
        for key in re.findall(r"(?<![\w./\"'])((?:\w+\.)+\w+)(?==| *:|`)", file.read_text()):
            if key.split(".")[0] in sections and not key.startswith("search.parameters."):
                found.setdefault(key, set()).add(file.name)
    return found


def test_keys_that_the_docs_name_exist():
    named = named_keys()
    assert {"dataset.path", "training.epochs"} <= set(named)
    ours = {key: files for key, files in named.items() if files & {"config.md", "sessions.md", "hyperparameters.md"}}
    ours = {key: files for key, files in ours.items() if key not in ("network.safetensors", "dataset.json")}  # files
    assert len(ours) > 15
    assert {key: files for key, files in ours.items() if annotation_of(key.split(".")) is None} == {}

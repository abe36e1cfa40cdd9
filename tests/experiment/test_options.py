"""Options that functions, sections of the configuration and commands have alike are declared once."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Annotated, Unpack

import pytest
from typer.main import get_command

from physgym import cli
from physgym.cli.options import GENERATION, RUNNING, declared_options
from physgym.experiment import schema
from physgym.experiment.config import default_of, field_of
from physgym.experiment.sections import Section, options_in, with_keys
from physgym.generation.generate import generate
from physgym.generation.online import Online
from physgym.generation.options import GenerationOptions, OnlineOptions
from physgym.generation.stream import SampleStream
from physgym.generation.stream_options import StreamOptions
from physgym.options import REQUIRED, Flag, Option, complete, options_of, takes
from physgym.running.options import RunnerOptions
from physgym.running.rollout_evaluation import RolloutEvaluation
from physgym.running.run_options import RolloutOptions, RunOptions
from physgym.running.runner import Runner

# functions with the declaration of their options, and the arguments that they alone have
FUNCTIONS = [
    (generate, StreamOptions, {"env", "path", "samples", "callbacks", "progress"}),
    (SampleStream, StreamOptions, {"env", "path", "passes", "seeds", "reports", "inputs"}),
    (Online, OnlineOptions, {"stream", "seed", "timeout"}),
    (Runner, RunOptions, {"env", "predictor"}),
    (RolloutEvaluation, RolloutOptions, {"env", "steps", "horizons"}),
]
# sections with the declaration of their options, and the keys that they alone have
PLACE = {"path", "type", "samples", "episodes", "mini", "produce", "load_samples", "online", "split", "feedback"}
SECTIONS = [
    ("dataset", schema.DatasetSection, GenerationOptions, PLACE),
    ("dataset.online", schema.OnlineSection, OnlineOptions, set()),
    ("runner", schema.RunnerSection, RunnerOptions, {"steps", "which", "frames", "actions", "parameters"}),
]
# commands with the declaration of their options, and the options that stand for other keys
COMMANDS = [
    ("generate", "dataset", GENERATION, GenerationOptions, {"out", "samples", "episodes", "seed"}),
    ("run", "runner", RUNNING, RunnerOptions, {"steps", "which", "frames"}),
]
SAMPLERS = {"actions", "parameters"}


@pytest.mark.parametrize(("function", "options", "own"), FUNCTIONS, ids=lambda one: getattr(one, "__name__", ""))
def test_functions_take_the_declared_options(function, options, own):
    taken = inspect.signature(function).parameters
    assert set(taken) - own == set(options_of(options))
    assert own < set(taken)
    for name, one in options_of(options).items():
        assert (taken[name].default, taken[name].annotation) == (one.option.default, one.type)
        assert taken[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"    {name}: {one.option.description[0].upper()}" in function.__doc__
    assert "**options" not in function.__doc__


@pytest.mark.parametrize(("name", "section", "options", "own"), SECTIONS, ids=[one[0] for one in SECTIONS])
def test_sections_have_the_declared_options(name, section, options, own):
    keys = section.model_fields
    assert set(keys) - own == set(options_of(options))
    for key, one in options_of(options).items():
        assert keys[key].get_default() == one.option.in_configuration == default_of([*name.split("."), key])
        limits = {
            kind: getattr(note, kind) for note in keys[key].metadata for kind in ("ge", "gt") if hasattr(note, kind)
        }
        assert (limits.get("ge"), limits.get("gt")) == (one.option.at_least, one.option.above)
        assert keys[key].description == one.option.description
        if "Path" not in str(one.type):  # which is text there
            assert keys[key].annotation == one.type
    assert options_in(section(), options) == {
        key: one.option.in_configuration for key, one in options_of(options).items()
    }


@pytest.mark.parametrize(("command", "section", "table", "options", "own"), COMMANDS, ids=[one[0] for one in COMMANDS])
def test_commands_have_the_declared_options(command, section, table, options, own):
    flags = {one.flag.name: one for one in options_of(options).values() if one.flag is not None}
    assert {option.name for option in table} - own - SAMPLERS == set(flags)
    there = {one.name: one for one in get_command(cli.app).commands[command].params}
    keys = {option.name: option.key for option in table}
    for name, one in flags.items():
        assert keys[name] == f"{section}.{one.name}"
        assert there[name].opts == [f"--{name.replace('_', '-')}"]
        assert there[name].help == (one.flag.help or one.option.sentence)
        assert not there[name].default  # one that is not given leaves the key as it is
        default = one.option.in_configuration
        if isinstance(default, (str, int, float)) and not there[name].is_flag:
            assert there[name].show_default == (default if isinstance(default, str) else f"{default:g}")


def test_defaults_differ_between_function_and_configuration_only_where_the_declaration_says_so():
    differing = [
        (name, key)
        for name, _, options, _ in SECTIONS
        for key, one in options_of(options).items()
        if one.option.default != one.option.in_configuration
    ]
    assert differing == [("dataset.online", "capacity"), ("dataset.online", "minimum"), ("runner", "seed")]


@pytest.mark.parametrize(
    "key", ["seed", "dataset.episodes", "dataset.samples", "sampler.actions", "sampler.parameters"]
)
def test_keys_in_other_sections_have_the_defaults_of_the_functions(key):
    name = key.rpartition(".")[2]
    taken = inspect.signature(generate).parameters[name]
    assert default_of(key.split(".")) == taken.default
    if name not in SAMPLERS:  # which have names there
        assert field_of(key.split(".")).annotation == taken.annotation


class Further(GenerationOptions, total=False):
    colour: Annotated[int, Option(7, "colour of the samples", at_least=2), Flag("hue")]


@takes(Further)
def function(**options: Unpack[Further]) -> Further:
    return complete(Further, options, "function")


def test_a_new_option_is_in_function_section_and_command():
    section = with_keys(Section, Further)
    assert inspect.signature(function).parameters["colour"].default == section().colour == 7
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        section(colour=1)
    (option,) = set(declared_options(Further, "dataset")) - set(declared_options(GenerationOptions, "dataset"))
    assert (option.key, option.name) == ("dataset.colour", "hue")
    assert function(**options_in(section(colour=3), Further))["colour"] == 3


def test_a_missing_buffer_size_is_an_error_of_the_call():
    assert options_of(OnlineOptions)["capacity"].option.default is REQUIRED
    with pytest.raises(TypeError, match="misses the keyword arguments 'minimum'"):
        Online(None, capacity=3)


def test_declarations_that_the_command_line_reads_load_nothing_that_takes_time():
    code = (
        "import sys, physgym.generation.options, physgym.running.options; "
        "print([name for name in ('torch', 'h5py', 'physgym.vector', 'physgym.data') if name in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"

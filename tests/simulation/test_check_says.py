"""What a check of an environment says besides its rules: what does not apply, what is beyond bounds, what was tried."""

from __future__ import annotations

import inspect
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data.summary import summarize
from physgym.errors import ConfigError, SampleError
from physgym.registration import find_spec
from physgym.testing import check_env
from tests.support.commands import run_command


class Growing(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    sample_space = spaces.Dict({"push": spaces.Box(-1, 1, (1,), np.float32), "u": spaces.Box(0, 10, (2,), np.float32)})

    def __init__(self, factor=1.0, breaks=99, render_mode=None):
        self.factor, self.breaks = factor, breaks
        self.sample_roles = {"push": "input", "u": "target"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.u, self.steps = self.np_random.uniform(1, 2, 2).astype(np.float32), 0
        return self.u.copy(), {}

    def step(self, action):
        self.steps += 1
        self.u = self.u * np.float32(self.factor) if self.steps < self.breaks else self.u * np.float32(np.nan)
        return self.u.copy(), 0.0, False, False, {"sample": {"push": np.array(action), "u": self.u.copy()}}


IMPORTS = "import gymnasium\nimport numpy as np\nfrom gymnasium import spaces\n\n\n"


@pytest.fixture
def growing(tmp_path, monkeypatch) -> type[gymnasium.Env]:
    (tmp_path / "growing_env.py").write_text(IMPORTS + inspect.getsource(Growing))
    monkeypatch.chdir(tmp_path)
    return Growing


def said_of(env, **options):
    faults, notes, skips = {}, {}, {}
    try:
        made = check_env(env, faults.__setitem__, notes.__setitem__, skip=skips.__setitem__, **options)
    except AssertionError as error:
        made = str(error)
    return faults, notes, skips, made


def test_rules_that_do_not_apply_are_skipped_and_not_kept(growing):
    faults, notes, skips, made = said_of(growing)
    assert not any(faults.values())
    assert not notes
    assert set(skips) == {
        "test_parameters_are_reported",
        "test_parameters_can_be_set",
        "test_parameters_out_of_bounds_are_refused",
        "test_a_network_can_stand_in_for_the_solver",
        "test_a_restored_state_continues",
        "test_inputs_of_a_person_end_with_their_episode",
        "test_renders",
    }
    assert not set(skips) & set(faults)
    assert skips["test_a_network_can_stand_in_for_the_solver"].startswith("the class lacks inputs, adopt, observation")
    assert "state() and set_state()" in skips["test_a_restored_state_continues"]
    assert made == (7, 35)


def test_more_steps_find_what_fails_later(growing):
    assert said_of(growing, arguments={"breaks": 8})[3] == (7, 35)
    faults, _, _, text = said_of(growing, arguments={"breaks": 8}, steps=9)
    assert "step 7: info[\"sample\"]['u'] holds 2 non-finite values" in text
    assert faults["test_samples_fit_the_declaration"]


def test_values_beyond_declared_bounds_are_a_note_with_field_value_bound_and_step(growing):
    faults, notes, _, made = said_of(growing, arguments={"factor": 4.0})
    assert made == (7, 35)
    assert not any(faults.values())
    assert list(notes) == ["test_samples_fit_the_declaration"]
    text = notes["test_samples_fit_the_declaration"]
    assert "field 'u' has " in text
    assert " at step 1, beyond 10." in text
    assert "does not enforce" in text


def test_a_dataset_with_values_beyond_declared_bounds_says_so(growing, tmp_path, caplog):
    options = {"samples": 6, "max_steps": 3, "num_workers": 0, "progress": False}
    for name, factor in (("within", 1.5), ("beyond", 4.0)):
        assert "bounds" not in caplog.text
        physgym.generate(growing, tmp_path / name, env_kwargs={"factor": factor}, **options)
    assert "field 'u' has values beyond the bounds of sample_space, such as " in caplog.text
    assert "bounds" not in "\n".join(summarize(tmp_path / "within"))
    (line,) = (line for line in summarize(tmp_path / "beyond") if "bounds" in line)
    assert line.startswith("  note: field 'u' has values beyond the bounds of sample_space, such as ")
    assert "where 10 is the highest; all are from " in line


def test_the_note_on_bounds_names_the_component(tmp_path):
    class Two(physgym.Simulation):
        action_space = observation_space = spaces.Box(-50, 50, (2,), np.float64)
        sample_space = spaces.Dict({"u": spaces.Box(np.float32([-1, -50]), np.float32([1, 50]))})
        sample_roles: ClassVar = {"u": "input"}

        def begin(self, options):
            self.u = np.array([0.0, 40.0])

        def advance(self, action):
            self.u = self.u + np.array([0.75, -20.0])

        def observation(self):
            return self.u

        def sample(self):
            return {"u": self.u.astype(np.float32)}

    physgym.generate(Two, tmp_path / "two", samples=4, max_steps=4, num_workers=0, progress=False)
    (line,) = (line for line in summarize(tmp_path / "two") if "beyond the bounds" in line)
    assert "such as 3 in component 0 where 1 is the highest; all are from 0.75 to 3 in component 0" in line


@pytest.mark.slow
def test_the_commands_say_it(growing, tmp_path):
    def command(*arguments, code=0):
        done = run_command(tmp_path, *arguments)
        assert done.returncode == code, done.stderr
        return done

    said = command("check", "growing_env:Growing", "--arg", "factor=4", "--steps", "3").stdout
    assert "skip a restored state continues: the class does not define" in said
    assert "note samples fit the declaration: values are outside the bounds" in said
    assert "checked the samples of 21 steps in 7 episodes, of at most 3 steps each" in said
    generated = ("--arg", "factor=4", "--samples", "6", "--max-steps", "3", "--workers", "0")
    said = command("generate", "growing_env:Growing", "--out", "data", *generated).stderr
    assert said.count("field 'u' has values beyond the bounds of sample_space") == 1
    assert "--steps is for an environment" in command("check", "--worker", "none", "--steps", "9", code=2).stderr


def test_a_number_for_an_array_is_said_once_with_its_field_and_the_cure(growing, recwarn):
    class Scalar(growing):
        observation_space = spaces.Dict({"level": spaces.Box(-99, 99, (), np.float32)})

        def reset(self, *, seed=None, options=None):
            return {"level": super().reset(seed=seed)[0][0]}, {}

        def step(self, action):
            seen, *rest = super().step(action)
            return {"level": seen[0]}, *rest

    faults, notes, _, _ = said_of(Scalar)
    assert not any(faults.values())
    assert list(notes) == ["test_results_can_travel"]
    assert "'level' of the observation" in notes["test_results_can_travel"]
    assert "np.array(value, dtype)" in notes["test_results_can_travel"]
    assert not [warning for warning in recwarn if "Casting" in str(warning.message)]


class Plain(gymnasium.Env):
    """An environment of Gymnasium as others write it, which declares no samples."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(1, 2, 2).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.x = self.x + np.float32(action[0])
        return self.x.copy(), 0.0, False, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


def test_an_environment_without_samples_breaks_one_rule_alone():
    faults, _, _, made = said_of(Plain)
    broken = [name for name, text in faults.items() if text]
    assert broken == ["test_sample_space_is_consistent"]
    assert {"test_same_seed_same_episode", "test_renders", "test_equal_through_a_worker"} <= faults.keys()
    assert "must declare sample_space" in made
    assert "transitions:module:id" in made
    name = f"{__name__}:Plain"
    assert f"as of transitions:{name}" in said_of(name)[-1]
    faults, _, _, made = said_of(f"transitions:{name}")
    assert not any(faults.values())


def test_errors_of_ids_say_where_the_word_transitions_stands(tmp_path):
    with pytest.raises(ConfigError, match=r"transitions:module:none/Such-v0$"):
        find_spec("transitions:none/Such-v0")
    with pytest.raises(ConfigError, match=r"write transitions:a:none/Such-v0$"):
        find_spec("a:transitions:none/Such-v0")
    with pytest.raises(SampleError, match=r"declares no sample_space, .*transitions:module:id"):
        physgym.generate(Plain, tmp_path / "d", samples=1, num_workers=0, progress=False)

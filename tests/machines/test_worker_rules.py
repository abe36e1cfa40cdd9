"""The rules for workers: those in Python and in JavaScript keep them, and each of many faults breaks the one for it."""

from __future__ import annotations

import shlex
import sys
import unittest

import pytest
from typer.testing import CliRunner

import physgym.testing.dialled_programs as programs
from physgym.cli import app
from physgym.envs.spring import Spring
from physgym.errors import ConfigError
from physgym.testing import WorkerConformance, check_env, check_worker
from physgym.testing.rules import broken_rules, listed, rules
from physgym.testing.worker_faults import FaultRules
from physgym.testing.worker_greeting import GreetingRules
from physgym.testing.worker_rollouts import RolloutRules
from physgym.testing.worker_stepping import SteppingRules
from tests.support import toys
from tests.support.left_processes import nothing_left  # noqa: F401 - a fixture
from tests.support.machines import ROOT
from tests.support.programs import node

pytestmark = pytest.mark.slow
DIAL_IN = (sys.executable, "-m", "tests.support.dial_in")


@pytest.mark.parametrize("kinds", [(SteppingRules, GreetingRules), (FaultRules, RolloutRules)])
def test_a_worker_in_python_keeps_them(monkeypatch, kinds):
    monkeypatch.setattr(programs, "SOON", 30.0)  # a busy machine
    attributes = {"command": (*DIAL_IN, "physgym/Spring-v0"), "env": "physgym/Spring-v0", "timeout": 60.0}
    suite, skipped = type("Python", kinds, attributes)(), {}
    try:
        assert broken_rules(suite, None, skipped.__setitem__) == []
        assert skipped == {}
    finally:
        suite.teardown_class()


def test_a_worker_in_javascript_keeps_them(monkeypatch):
    monkeypatch.setattr(programs, "SOON", 30.0)
    found = CliRunner().invoke(app, ["check", "--worker", shlex.join(node())])
    assert (found.exit_code, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    (skipped,) = [line for line in lines if not line.startswith("ok   ")]
    assert skipped.startswith("skip it takes the place of one that was lost: it does not: this worker cannot")
    assert len(lines) == len(rules(WorkerConformance())) > 40


# a text of worker.js, what stands there in its place, the rule that this breaks, and what it says
FAULTS = {
    "proof": ("proof('worker', body.nonce)", "proof('parent', body.nonce)", "dials_and_proves", "HMAC-SHA-256"),
    "nonce": ("crypto.randomBytes(32)]", "Buffer.alloc(32)]", "dials_again_where", "another nonce"),
    "trusting": (
        "if (!proof('parent', nonce)",
        "if (false && !proof('parent', nonce)",
        "leaves_a_parent_that_does_not",
        "wrong proof",
    ),
    "version": ("|| h[2] !== 7", "", "leaves_a_parent_of_another_version", "of version 8"),
    "long": ("? 2 ** 10 : 2 ** 30", "? 2 ** 20 : 2 ** 30", "reads_little", "1025 bytes"),
    "arguments": ("if (Object.keys(others).length)", "if (false)", "refuses_an_argument", "there_is_no_such_argument"),
    "ids": ("|| one.get('env') !== NAME", "", "refuses_an_environment", "nobody knows"),
    "refusal": (
        "// no reason: the run is over\n      socket.destroySoon();",
        "",
        "ends_when_it_is_refused",
        "still runs",
    ),
    "seed": ("if (seed !== null) this.random", "if (false) this.random", "a_seed_gives_the_same", "step 0"),
    "mask": ("(wanted ? [[i,", "(true ? [[i,", "do_not_depend_on_each_other", "the mask"),
    "rows": ("stepOne(i, [actions[place]]", "stepOne(i, [actions[i]]", "do_not_depend_on_each_other", "another order"),
    "next step": ("if (this.ended[i]) return infos.push([i, this.begin(i)]);", "", "next_step_resets", "reward 0"),
    "same step": ("final_obs: floats(row.state), final_info", "final_info", "same_step_resets", "final_obs"),
    "disabled": (
        "if (this.ended[i] && this.mode === 'DISABLED')",
        "if (false)",
        "disabled_fails",
        "a failure of the step",
    ),
    "parameters": (
        "if (parameters) [this.length]",
        "if (false) [this.length]",
        "parameters_are_those",
        "that were given",
    ),
    "samplers": ("[env.uniform(-2, 2)]", "[Math.random()]", "depends_on_its_seed_alone", "they differ"),
    "coupled": (
        "truncated } = env.step(torque);",
        "truncated } = env.step([torque[0] + env.uniform(0, 1e-9)]);",
        "step_by_step",
        "by Reset and Step",
    ),
    "given": (
        "this.begin(i, seeds[i], options)",
        "this.begin(i, seeds[i])",
        "takes_the_parameters",
        "that a Reset gave",
    ),
    "rounded": ("Buffer.from(String(seed))", "Buffer.from(String(Number(seed)))", "seeds_may_be_large", "to a double"),
    "replaced": ("const actions = instead ||", "const actions =", "another_dtype", "float32 in place of float64"),
    "ending": ("truncated ? 'truncated'", "truncated ? 'terminated'", "step_by_step", "the end ['terminated']"),
    "fed": ("next_state: state });", "next_state: before });", "feeds_an_input", "'next_state' of a step as 'state'"),
    "limit": ("const enough = () => limit > 0 &&", "const enough = () => false &&", "a_limit_ends", "samples (limit)"),
    "longest": ("run.step >= longest", "run.step >= longest + 1", "each_episode_once", "at most 12 steps"),
    "rewards": ("new Float(run.sum), {}", "new Float(run.sum + 1), {}", "steps_are_reported", "whose sum"),
    "errors": (
        "throw error('AttributeError',",
        "throw error('RuntimeError',",
        "a_name_that_nothing_has",
        "AttributeError",
    ),
    "scene": ("{ scene: null }", "{ scene: null, scene_problem: null }", "calls_are_answered", "maybe scene_problem"),
    "render": ("render: null,", "", "calls_are_answered", "AttributeError"),
    "sequence": ("if (sequence !== asked)", "if (false)", "closes_at_another_sequence", "n + 2"),
    "keys": ("fault('it has other keys')", "type", "closes_at_a_body_with_other_keys", "a Call without most keys"),
    "end": (
        "send('Closed', {}, sequence); socket.destroySoon();",
        "send('Closed', {}, sequence); for (;;);",
        "close_ends_it",
        "still runs",
    ),
    "children": (
        "send('Closed', {}, sequence);",
        "require('child_process').spawn('sleep', ['9']); send('Closed', {}, sequence);",
        "close_ends_it",
        "what it has started",
    ),
    "parent": (
        "|| Date.now() > deadline) process.exit(status);",
        "|| Date.now() > deadline) return setTimeout(() => {}, 1e6);",
        "ends_with_its_connection",
        "does neither",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_the_rule_for_it(tmp_path, monkeypatch, fault):
    program, script = node()
    right, wrong, rule, said = FAULTS[fault]
    text = (ROOT / script).read_text()
    assert text.count(right) >= 1
    faulty = tmp_path / "worker.js"
    faulty.write_text(text.replace(right, wrong))
    monkeypatch.setattr(programs, "SOON", 0.5)
    monkeypatch.setattr("physgym.testing.worker_faults.END", 0.5)

    class Faulty(WorkerConformance):
        command, env, timeout = (program, str(faulty)), "Pendulum", 5.0

    suite = Faulty()
    (name,) = [name for name in rules(suite) if f"{rule}" in name][:1]
    try:
        with pytest.raises(AssertionError, match="expected") as raised:
            getattr(suite, name)()
        assert said in str(raised.value)
    finally:
        suite.teardown_class()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/there/is/no/such/program"], "no program"),
        ([], "no program"),
        (["true"], "it ended with status 0"),
        (
            [sys.executable, "-c", "print('a text of mine'); raise SystemExit(3)"],
            r"status 3\. It wrote:\na text of mine",
        ),
    ],
)
def test_what_is_no_worker_is_said(command, said):
    with pytest.raises((ConfigError, AssertionError), match=said):
        check_worker(command, "Pendulum")


@pytest.mark.usefixtures("nothing_left")
def test_a_program_that_says_nothing_is_ended_with_what_it_has_started(monkeypatch):
    class Silent(WorkerConformance):
        command, env, timeout = ("sh", "-c", "setsid sleep 100 & sleep 100", "sh"), "Pendulum", 0.5

    suite = Silent()
    try:
        with pytest.raises(AssertionError, match="expected that the program connects; it did not"):
            suite.test_it_dials_and_proves_that_it_knows_the_token()
    finally:
        suite.teardown_class()


def test_rules_that_cannot_be_tried_are_left_out():
    class Cart(WorkerConformance):
        command, env = (*DIAL_IN, "CartPole-v1"), "CartPole-v1"

    suite = Cart()
    try:
        with pytest.raises(unittest.SkipTest, match="declares no samples"):
            suite.test_a_rollout_gives_each_episode_once()
        suite.test_next_step_resets_in_the_step_after_the_end()
    finally:
        suite.teardown_class()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--worker", "'"), "is no command"),
        (("--worker", "/none"), "no program"),
        ((), "name an environment, or give --worker COMMAND"),
        (("physgym/Spring-v0", "--arg", "stifness=1"), "did you mean 'stiffness'"),
    ],
)
def test_wrong_words_are_one_error(words, said):
    found = CliRunner().invoke(app, ["check", *words])
    assert isinstance(found.exception, ConfigError)
    assert said in str(found.exception)


def test_the_command_says_which_rules_are_broken():
    found = CliRunner().invoke(app, ["check", "Pendulum", "--worker", "true"])
    assert found.exit_code == 2
    assert "FAIL it dials and proves that it knows the token\n" in found.stdout
    assert "error: the worker breaks rules" in found.stderr


def test_environments_are_checked_with_arguments():
    check_env("physgym/Spring-v0", arguments={"stiffness": [2.0, 3.0]})
    with pytest.raises(AssertionError, match=r"ValueError|WrongValue|must"):
        check_env("physgym/Spring-v0", arguments={"stiffness": "none"})


class Forgetful(Spring):
    """Leaves two fields of its samples out."""

    def sample(self):
        made = super().sample()
        return {name: made[name] for name in ("parameters", "next_state")}


def test_a_fault_that_breaks_many_rules_is_said_once_with_its_fields_together():
    with pytest.raises(AssertionError) as refused:
        check_env(Forgetful)
    first, fault, others = str(refused.value).split("\n")
    assert first == "the environment breaks rules:"
    assert fault.startswith("- test_gymnasium_accepts_it: Forgetful: the fields 'force', 'state' are missing; sample_s")
    assert others.startswith("  The same fault breaks test_results_can_travel, test_samples_fit_the_declaration, ")


def test_faults_of_other_words_stay_apart():
    broken = ["test_a: step 0: x is wrong", "test_b: y", "test_c: x is wrong", "test_d: 0: y is wrong", "test_e: "]
    assert listed(broken) == (
        "- test_a: x is wrong\n  The same fault breaks test_c\n- test_b: y\n- test_d: 0: y is wrong\n- test_e: "
    )


def test_an_environment_that_renders_nothing_is_no_rule_kept():
    kept, noted = [], {}
    check_env(toys.Line, lambda rule, fault: kept.append(rule), noted.__setitem__)
    assert "test_renders" not in kept
    assert noted["test_renders"].startswith('nothing is rendered: metadata["render_modes"] is [], without "rgb_array"')
    check_env(toys.Line)  # without a warning
    check_env("physgym/Spring-v0", lambda rule, fault: kept.append(rule), noted.__setitem__)
    assert "test_renders" in kept

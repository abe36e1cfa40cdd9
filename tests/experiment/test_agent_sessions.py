"""Sessions of agents: trained, resumed, searched, reproduced, evaluated and run by configuration."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from physgym import SampleDataset, cli
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment.agent_section import AgentSection
from physgym.experiment.compare import compare
from physgym.experiment.config import check_config, load_config
from physgym.experiment.from_python import _folders
from physgym.experiment.record import read_config, read_record
from physgym.experiment.reproduce import reproduce
from physgym.experiment.runs import check, train
from physgym.experiment.search.study import search
from physgym.experiment.session import CONFIG
from physgym.rl import agent_trainer
from physgym.rl.agent_checkpoint import load_agent
from physgym.rl.agent_trainer import AgentTrainer
from physgym.viewing.shown import LiveView
from tests.support.repositories import commit, git, ignoring

SMALL = {"type": "MLP", "arguments": {"hidden": [16]}}
CONFIGURATION = {
    "session": "sessions/pole",
    "description": "an agent that balances a pole",
    "environment": {"id": "CartPole-v1"},
    "agent": {
        "type": "dqn",
        "arguments": {"network": SMALL, "epsilon_steps": 200},
        "steps": 400,
        "num_envs": 2,
        "num_workers": 0,
        "learning_starts": 50,
        "batch_size": 16,
        "report_every": 100,
        "evaluate_every": 200,
        "evaluate_episodes": 2,
        "save_every": 100,
    },
}


def changed(*sections: dict, **agent) -> dict:
    """Return the configuration with other keys of the agent, and other sections."""
    found = json.loads(json.dumps(CONFIGURATION))
    found["agent"] |= agent
    for section in sections:
        found |= section
    return found


def trained(folder: Path, data: dict, **more):
    """Return the outcome of a training in a folder, the current one."""
    return train(check_config(data, "here"), **more)


@pytest.fixture
def physgym(monkeypatch, capsys):
    """Return a function that runs a command in this process, and returns what it printed."""
    monkeypatch.setenv("PHYSGYM_REPORTS", "write")

    def call(*words, code=0) -> str:
        monkeypatch.setattr(sys, "argv", ["physgym", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert (end.value.code or 0) == code, said.out + said.err
        return said.err if code else said.out

    return call


def weights(session: Path) -> str:
    return read_record(session)["runs"][-1]["weights"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a session."""
    folder = tmp_path_factory.mktemp("agents")
    ignoring(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained(folder, CONFIGURATION)
    return folder


@pytest.fixture
def there(kept, monkeypatch):
    """The folder with the session is the current one."""
    monkeypatch.chdir(kept)
    return kept


@pytest.mark.slow
def test_the_record_has_what_was_made(there):
    session = there / "sessions" / "pole"
    record = read_record(session)
    (run,) = record["runs"]
    assert (run["kind"], run["outcome"], record["description"]) == ("train", "completed", CONFIGURATION["description"])
    assert Path(run["dataset"]["path"]) == session / "replay"
    assert run["dataset"]["samples"] == len(SampleDataset(session / "replay")) > 400
    assert run["results"]["step"] == 400
    assert {"loss", "evaluation_return", "epoch"} <= set(run["results"])
    assert len(run["weights"]) == 64
    assert load_config(session / CONFIG).agent.batch_size == 16
    assert list((session / "stats").glob("*tfevents*"))


@pytest.mark.slow
def test_commands_that_look_at_sessions_know_it(there, physgym):
    (listed,) = json.loads(physgym("list", "--json"))
    assert listed["kind"] == "train"
    assert listed["epochs"] == 4
    assert listed["evaluation_return"] > 0
    assert "evaluation return" in physgym("list")
    assert "evaluation_return" in physgym("show", "sessions/pole")
    assert "acted" in physgym("info", "sessions/pole/replay")
    text = (there / physgym("report", "sessions/pole").split()[-1]).read_text()
    for said in ("return in evaluation, last", "in training", "Throughput", "what the agent has recorded"):
        assert said in text, said
    assert "Errors of the network" not in text
    assert "samples/s" not in text


@pytest.mark.slow
def test_compare_knows_that_a_large_return_is_better(there):
    other = trained(there, changed({"session": "sessions/other"}, steps=200)).session
    try:
        found = compare([there / "sessions" / "pole", other])
        assert found.metrics["return"].direction == "maximize"
        assert found.metrics["loss"].direction is None
        assert found.config["agent.steps"] == {"pole": 400, "other": 200}
    finally:
        shutil.rmtree(other)


@pytest.mark.slow
def test_a_training_goes_on_to_the_bits_of_one_that_was_longer(there):
    first = trained(there, changed({"session": "sessions/short"}, steps=200)).session
    longer = load_config(first / CONFIG, ["agent.steps=400"])
    with pytest.raises(ConfigError, match=r"agent\.batch_size: an agent continues as it began, but for agent\.steps"):
        train(load_config(first / CONFIG, ["agent.batch_size=8"]), first)
    assert train(longer, first).history.epochs[-1]["step"] == 400
    assert weights(first) == weights(there / "sessions" / "pole")
    runs = read_record(first)["runs"]
    assert runs[-1]["dataset"]["hash"] == read_record(there / "sessions" / "pole")["runs"][0]["dataset"]["hash"]
    shutil.rmtree(first)


@pytest.mark.slow
def test_without_a_session_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = trained(tmp_path, changed(steps=100, evaluate_every=0), log=False)
    assert outcome.session is None
    assert outcome.history.epochs[-1]["step"] == 100
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_agent_acts_and_what_it_does_is_recorded(there, tmp_path, physgym):
    data = tmp_path / "poles"
    assert "60 steps" in physgym("run", "sessions/pole", "--steps", "60", "--record", data)
    assert (there / "sessions" / "pole" / "report-run.html").is_file()
    recorded = SampleDataset(data)
    assert recorded[:]["acted"].sum() == 60
    last = recorded.index("episode").max()
    physgym("run", "sessions/pole", "--steps", "20", "--record", data, "--resume", "--no-report")
    behind = SampleDataset(data)
    assert behind[:]["acted"].sum() == 80
    assert behind.index("episode").max() > last
    refused = physgym("run", "sessions/pole", "--surrogate", "--timeout", "9", "--rollout", "5", code=2)
    assert "--surrogate, --timeout, --rollout: for a network next to its simulation" in refused
    assert "--resume continues a recording" in physgym("run", "sessions/pole", "--resume", code=2)


@pytest.mark.slow
def test_an_agent_is_evaluated_in_episodes_of_their_own(there, tmp_path, physgym):
    file = tmp_path / "figures.json"
    said = physgym("evaluate", "sessions/pole", "--episodes", "3", "--envs", "2", "--json", file)
    assert "3 episodes of CartPole-v1: return" in said
    assert (there / "sessions" / "pole" / "report-evaluate.html").is_file()
    found = json.loads(file.read_text())
    assert found["episodes"] == len(found["each"]["return"]) == 3
    physgym("evaluate", "sessions/pole", "--episodes", "3", "--envs", "1", "--json", file, "--no-report")
    assert json.loads(file.read_text()) == found
    played = set(SampleDataset(there / "sessions" / "pole" / "replay").index("seed").tolist())
    assert played.isdisjoint(found["each"]["seed"])
    refused = physgym("evaluate", "sessions/stick", "--episodes", "3", code=2)
    assert "there is no checkpoint at" in refused
    refused = physgym("evaluate", "sessions/pole", "--worst", "3", code=2)
    assert "--worst: about a network, or recordings (--data), and sessions/pole has" in refused
    refused = physgym("evaluate", "sessions/pole", "--data", "x", "--episodes", "3", "--by", "mae", code=2)
    assert "--by, --episodes: about something else than recordings" in refused
    assert "no argument 'gravity'" in physgym("evaluate", "sessions/pole", "--arg", "gravity=3", code=2)


@pytest.mark.slow
def test_an_agent_is_compared_with_a_recording(there, tmp_path, physgym):
    file = tmp_path / "figures.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it has hardly learned is not covered
        said = physgym("evaluate", "sessions/pole", "--data", "sessions/pole/replay", "--json", file)
    assert "transitions: value - return" in said
    assert 390 < json.loads(file.read_text())["transitions"] <= 400
    assert "mean value that the agent expects" in (there / "sessions" / "pole" / "report-evaluate.html").read_text()


@pytest.mark.slow
def test_a_search_watches_the_return(there):
    parameters = {"agent.arguments.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    section = {"parameters": parameters, "trials": 1, "metric": "evaluation_return", "direction": "maximize"}
    data = changed({"session": "sessions/search", "search": section}, steps=200)
    for wrong, text in (
        ({"direction": "minimize"}, r"search\.direction: of 'evaluation_return' large values are better"),
        ({"metric": "validation_loss"}, r"search\.metric: 'validation_loss' is a value of a network's training"),
    ):
        with pytest.raises(ConfigError, match=text):
            search(check_config(data | {"search": section | wrong}, "here"))
    with pytest.raises(ConfigError, match=r"set agent\.evaluate_every to at most agent\.steps"):
        search(check_config(changed({"search": section}, evaluate_every=0), "here"))
    assert not (there / "sessions" / "search").exists()
    found = search(check_config(data, "here"))
    assert [row.state for row in found.rows] == ["complete"]
    assert found.best.value > 0
    shutil.rmtree(found.session)


@pytest.mark.slow
def test_an_agent_is_reproduced_bit_for_bit(tmp_path, monkeypatch, identity):
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / ".gitignore").write_text("sessions\n")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    session = trained(tmp_path, changed(steps=200)).session
    again = reproduce(session)
    assert again.equal, str(again)
    assert again.weights[0] == weights(session)
    assert again.dataset[0] is not None
    assert "steps_per_second" not in again.metrics
    assert again.metrics["evaluation_return"][0] > 0


@pytest.mark.slow
def test_an_agent_learns_from_a_recording_alone(there, physgym):
    recording = there / "sessions" / "pole" / "replay"
    data = changed({"session": "sessions/offline", "environment": None})
    for name in ("num_envs", "num_workers", "learning_starts", "evaluate_every", "evaluate_episodes"):
        del data["agent"][name]
    data["agent"] |= {"cache": str(recording), "steps": 100, "report_every": 50}
    session = trained(there, data).session
    (run,) = read_record(session)["runs"]
    assert run["others"]["cache"]["samples"] == len(SampleDataset(recording))
    assert not (session / "replay").exists()
    assert load_agent(session).act(np.zeros((2, 4), np.float32)).shape == (2,)
    assert "Name what it is to act in" in physgym("run", "sessions/offline", code=2).replace("\n", " ")
    shutil.rmtree(session)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (changed(type="sac", arguments={}), "continuous"),
        (changed({"environment": {"id": "Pendulum-v1"}}), "DQN chooses one of several actions"),
        (changed({"environment": {"id": "NoPole-v1"}}), "NoPole"),
        (changed(arguments={"network": "MPL"}), "MPL"),
        (changed(arguments={"lrr": 0.1}), r"agent\.arguments: dqn has no argument 'lrr'; did you mean 'lr'\?"),
        (changed(arguments={"seed": 1}), r"it is a key of the configuration, seed"),
        (changed(preprocessing=["Grayscale"]), "Grayscale"),
        (changed(capacity=1), "capacity"),
        (changed({"device": "nonsense"}), "device 'nonsense' cannot be used"),
        (
            changed({"environment": {"id": "Acrobot-v1"}}, cache="sessions/pole/replay"),
            r"sessions/pole/replay holds steps of CartPole-v1, the agent acts in Acrobot-v1\. Set environment.id",
        ),
        (
            changed(
                {"environment": {"id": "CartPole-v1", "arguments": {"sutton_barto_reward": True}}},
                cache="sessions/pole/replay",
            ),
            r"sutton_barto_reward was false, the configuration says true\. Name those of the recordings",
        ),
        (changed(cache="nowhere"), "nowhere"),
    ],
)
def test_what_does_not_fit_is_one_error_and_leaves_nothing(there, data, text):
    before = sorted(there.rglob("*"))
    config = check_config(data | {"session": "sessions/wrong"}, "here")
    with pytest.raises(PhysGymError, match=text):
        train(config)
    with pytest.raises(PhysGymError, match=text):
        check(config)
    assert sorted(there.rglob("*")) == before


@pytest.mark.slow
def test_an_info_that_the_reward_needs_and_nobody_gives_is_named(there):
    reward = [{"type": "InfoReward", "arguments": {"centre": 1.0}}]
    for more in ({}, {"cache": "sessions/pole/replay"}):
        with pytest.raises(PhysGymError, match=r"the reward needs the info|info/cte"):
            trained(there, changed({"session": "sessions/reward"}, preprocessing=reward, **more))
    for left in there.glob("sessions/reward*"):
        assert "the reward needs the info" in read_record(left)["runs"][0]["outcome"]
        shutil.rmtree(left)


def test_the_section_has_the_arguments_of_the_trainer_with_their_defaults():

    elsewhere = {  # by other keys, or by the command
        *(
            "agent",
            "env",
            "env_kwargs",
            "agent_kwargs",
            "evaluate_kwargs",
            "seed",
            "device",
            "session",
            "resume",
            "launcher",
        ),
        *("record", "progress", "allow_changed_code", "view"),
    }
    taken = {
        name: one.default for name, one in inspect.signature(AgentTrainer).parameters.items() if name not in elsewhere
    }
    section = AgentSection(type="dqn").model_dump(exclude={"type", "arguments", "evaluate_arguments"})
    assert set(section) == set(taken)
    assert section["steps"] == 100_000
    for name in set(taken) - {"steps"}:
        default = list(taken[name]) if isinstance(taken[name], tuple) else taken[name]
        assert section[name] == default, name


def test_a_session_of_an_agent_says_so(there):
    assert read_config(there / "sessions" / "pole")["agent"]["type"] == "dqn"


@pytest.mark.slow
def test_a_session_made_in_python_is_known_to_commands(tmp_path, monkeypatch, physgym):
    monkeypatch.chdir(tmp_path)
    section = CONFIGURATION["agent"]
    numbers = {name: value for name, value in section.items() if name not in ("type", "arguments")}
    trainer = AgentTrainer(
        "dqn", "CartPole-v1", agent_kwargs=section["arguments"], session="mine", progress=False, **numbers
    )
    trainer.fit()
    (run,) = read_record(tmp_path / "mine")["runs"]
    assert run["from_python"]
    assert run["dataset"]["samples"] == len(SampleDataset(tmp_path / "mine" / "replay"))
    config = load_config(tmp_path / "mine" / CONFIG)
    del numbers["num_workers"]  # on which nothing depends
    assert {name: getattr(config.agent, name) for name in numbers} == numbers
    assert config.agent.arguments["network"] == SMALL
    assert "2 episodes of CartPole-v1" in physgym("evaluate", "mine", "--episodes", "2", "--no-report")
    assert "resume=True" in physgym("resume", "mine", code=2)
    again = AgentTrainer("dqn", "CartPole-v1", session="mine", progress=False, steps=50, num_envs=1)
    assert again.session.name == "mine-2"
    again.close()


@pytest.mark.slow
def test_the_environments_of_an_agent_can_be_watched(there, monkeypatch):
    shown = []
    monkeypatch.setattr(agent_trainer, "show", lambda views, view, title, places: shown.append((view, title, places)))
    session = trained(there, changed({"session": "sessions/seen"}, steps=10), view=LiveView("web")).session
    assert shown == [(LiveView("web"), "CartPole-v1", [str(session)])]
    shutil.rmtree(session)
    with pytest.raises(ConfigError, match="no environment to show: the agent learns from recordings alone"):
        AgentTrainer("dqn", steps=5, cache="sessions/pole/replay", view="web")


def test_the_recordings_of_an_agent_are_named_by_their_folders(tmp_path):
    assert _folders(None) is None
    assert _folders("s3://bucket/poles") == ["s3://bucket/poles"]
    assert _folders([tmp_path / "a", str(tmp_path / "b")]) == [str(tmp_path / "a"), str(tmp_path / "b")]

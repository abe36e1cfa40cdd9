"""``physgym run SESSION --rollout STEPS``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from physgym import SampleDataset
from physgym.cli.rollouts import check_options, roll_out
from physgym.data import surgery
from physgym.errors import ConfigError
from physgym.running.rollout_evaluation import RolloutEvaluation
from tests.support.commands import run_command
from tests.support.repositories import ignoring
from tests.support.rollouts import turning

NOTHING = dict.fromkeys(("episodes", "data", "mode", "metric", "threshold", "out", "no-animations"))


def physgym(folder, *arguments, code=0):
    done = run_command(folder, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("rollout", "only", "given", "resume", "message"),
    [
        (None, {"episodes": 3, "out": "x"}, {}, False, "--episodes, --out: for a rollout alone; add --rollout STEPS"),
        (5, {}, {"runner.steps": 3, "runner.frames": "f"}, True, "--steps, --frames, --resume: not for a rollout"),
        (5, {}, {"runner.surrogate": True}, False, "--surrogate: not for a rollout"),
        (5, {}, {"runner.engine": "onnx"}, False, "--engine: not for a rollout"),
        (None, {"no-animations": True}, {}, False, "--no-animations: for a rollout alone"),
        (5, {"no-animations": True}, {}, False, "--no-animations leaves animations out of the folder of --out; add"),
        (5, {"mode": "test"}, {}, False, "--mode is the part of a dataset; add --data DATASET"),
        (
            5,
            {"data": "d"},
            {"runner.seed": 1, "runner.num_workers": 2, "runner.timeout": 5.0},
            False,
            "--seed, --workers, --timeout: not for the episodes",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(rollout, only, given, resume, message):
    with pytest.raises(ConfigError, match=message):
        check_options(rollout, NOTHING | only, given, resume=resume)


def test_options_that_fit_pass():
    check_options(None, NOTHING, {"runner.steps": 3}, resume=True)
    check_options(5, NOTHING | {"data": "d", "mode": "test", "metric": ["rmse"]}, {"runner.record": "r"}, resume=False)
    check_options(5, NOTHING | {"episodes": 2}, {"runner.seed": 1, "runner.num_envs": 2}, resume=False)


class Measured:
    """Rollouts of two fields; Ctrl-C comes while the second animation is drawn."""

    errors = ("relative_l2",)
    examples = (SimpleNamespace(true={"u": np.zeros((2, 3)), "v": np.zeros((2, 3))}, finite=2),)

    def save_json(self, file):
        file.write_text("{}")

    def save_csv(self, file):
        file.write_text("step")

    def plot(self, file, metric):
        file.write_bytes(b"png")

    def animate(self, file, name, drawn):
        assert {one.name for one in file.parent.iterdir()} >= {"rollout.json", "rollout.csv", "relative_l2.png"}
        if name == "v":
            raise KeyboardInterrupt
        file.write_bytes(b"gif")
        drawn()
        drawn()


def test_figures_and_plots_are_there_before_animations_and_stay_after_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(RolloutEvaluation, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(RolloutEvaluation, "measure", lambda *_, **__: Measured())

    def run(out, **only):
        config, options = SimpleNamespace(dataset=SimpleNamespace(feedback=None)), {"record": None, "batch_size": 1}
        roll_out(None, config, 2, options, env=None, dataset=[], only=NOTHING | {"out": tmp_path / out} | only)

    with pytest.raises(KeyboardInterrupt, match=r"the figures and plots are complete in .*out, with 1 of 2 animations"):
        run("out")
    figures = {"rollout.json", "rollout.csv", "relative_l2.png"}
    assert {one.name for one in (tmp_path / "out").iterdir()} == {*figures, "u.gif"}
    assert capsys.readouterr().err.splitlines()[-1].startswith("draw animations: 2/4 in ")
    run("without", **{"no-animations": True})
    assert {one.name for one in (tmp_path / "without").iterdir()} == figures
    said = capsys.readouterr().out
    assert "figures and plots: " in said
    assert "animations: " not in said


def test_workers_of_a_rollout_have_the_timeout_of_the_command(monkeypatch):
    given = {}

    def measure(*_, **options):
        given.update(options)
        raise ConfigError("enough")

    monkeypatch.setattr(RolloutEvaluation, "measure", measure)
    options = {"seed": 0, "actions": None, "parameters": None, "num_envs": 2, "num_workers": 2, "timeout": 7.0}
    config = SimpleNamespace(dataset=SimpleNamespace(feedback=None))
    with pytest.raises(ConfigError, match="enough"):
        roll_out(None, config, 2, {**options, "record": None, "batch_size": 1}, env=("physgym/Spring-v0", {}),
                 dataset=None, only=NOTHING)  # fmt: skip
    assert (given["timeout"], given["num_workers"], given["num_envs"]) == (7.0, 2, 2)


@pytest.mark.slow
def test_a_session_is_rolled_out(tmp_path, identity):
    ignoring(tmp_path)
    config = {
        "session": "sessions/spring",
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 60, "num_workers": 0, "max_steps": 20},
        "network": {"arguments": {"hidden": [8]}},
        "training": {"epochs": 1, "batch_size": 16},
    }
    (tmp_path / "spring.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "mine.py").write_text("import numpy as np\n\ndef position(p, t):\n    return abs(p[:, 0] - t[:, 0])\n")
    physgym(tmp_path, "train", "spring.yaml")
    run = ("run", "sessions/spring", "--rollout")

    done = physgym(
        tmp_path,
        *(*run, "4", "--episodes", "3", "--seed", "4", "--metric", "relative_l2", "--metric", "mine:position"),
        *("--threshold", "0.2", "--record", "predicted", "--out", "out"),
    )
    assert "rollout of 4 steps in 3 episodes" in done.stdout
    assert "draw animations: 4/4 in " in done.stderr
    assert "position of next_state" in done.stdout
    assert "relative_l2 of next_state above 0.2:" in done.stdout
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        *("rollout.json", "rollout.csv", "relative_l2.png", "position.png", "next_state.gif")
    }
    figures = json.loads((out / "rollout.json").read_text())
    assert figures["source"]["env"] == "physgym/Spring-v0"
    assert figures["source"]["feedback"] == {"next_state": "state"}
    assert figures["episodes"] == [3] * 4
    assert figures["seconds"][0] == pytest.approx(0.1)
    assert len((out / "rollout.csv").read_text().splitlines()) == 5
    with Image.open(out / "next_state.gif") as animation:
        assert animation.n_frames == 4
    predicted = SampleDataset(tmp_path / "predicted", "prediction")
    assert len(predicted) == 12
    error = predicted.arrays["error/next_state"].reshape(3, 4).mean(0)
    assert figures["metrics"]["relative_l2"]["next_state"]["mean"] == pytest.approx(error.tolist(), rel=1e-5)
    dataset = tmp_path / "sessions/spring/dataset"
    surgery.describe(dataset, {"split": "training=0.5 test=0.5"})  # of each two episodes one
    held = len(set(SampleDataset(dataset).part("test").episodes.tolist()))
    done = physgym(tmp_path, *run, "3", "--data", "sessions/spring/dataset")
    assert held in (1, 2)  # of three
    assert f"rollout of 3 steps in {held} episodes" in done.stdout
    turning(tmp_path / "other", [4], env="tests:Turning")
    done = physgym(tmp_path, *run, "3", "--data", "other", "--mode", "training", "--out", "more", code=2)
    assert "those of tests:Turning, and the network has learned from physgym/Spring-v0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "more").exists()

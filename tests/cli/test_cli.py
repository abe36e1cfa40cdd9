"""The console script as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from physgym import SampleDataset
from tests.support.commands import SCRIPT, Command, run_command
from tests.support.repositories import ignoring

SIMS = """
import time
import gymnasium
from tests.support.toys import Line, MissingField, NotANumber, Slow, WrongShape
for env in (Line, MissingField, NotANumber, Slow, WrongShape):
    gymnasium.register(f"toy/{env.__name__}-v0", env)
class Broken(Line):
    def __init__(self, render_mode=None):
        raise RuntimeError("no licence for the solver")
gymnasium.register("toy/Broken-v0", Broken)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, identity):
    import tests

    ignoring(tmp_path)

    monkeypatch.setenv("PYTHONPATH", str(Path(next(iter(tests.__path__))).parent))
    (tmp_path / "sims.py").write_text(SIMS)
    return tmp_path


def physgym(folder, *arguments, code=0):
    done = run_command(folder, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def config(folder, **changes) -> str:
    data = {
        "session": "sessions/line",
        "environment": {"id": "sims:toy/Line-v0"},
        "dataset": {"samples": 64, "num_workers": 1},
        "network": {"arguments": {"hidden": [8]}},
        "training": {"epochs": 3, "batch_size": 8},
    }
    data.update(changes)
    (folder / "line.yaml").write_text(yaml.safe_dump(data))
    return "line.yaml"


@pytest.mark.slow
def test_help_says_what_each_command_does(folder):
    text = physgym(folder, "--help").stdout
    for command in ("generate", "train", "run", "replay", "demo", "check"):
        assert command in text
        assert "--help" in physgym(folder, command, "--help").stdout
    assert physgym(folder, "--version").stdout.startswith("physgym 0.")


@pytest.mark.slow
def test_generate_train_run(folder):
    done = physgym(folder, "generate", "sims:toy/Line-v0", "--out", "data", "--samples", "40", "--workers", "2")
    assert "40 samples in data" in done.stdout
    assert "x: input, float32 (3,) [m]" in done.stdout
    physgym(folder, "generate", "sims:toy/Line-v0", "--out", "data", "--samples", "64", "--resume")
    assert len(SampleDataset(folder / "data")) == 64

    done = physgym(folder, "train", config(folder), "dataset.path=data", "training.epochs=2")
    assert "session: sessions/line" in done.stdout
    session = folder / "sessions" / "line"
    assert yaml.safe_load((session / "config.yaml").read_text())["training"]["epochs"] == 2
    assert "outcome: completed" in (session / "info.txt").read_text()
    assert list((session / "stats").glob("events*"))
    done = physgym(folder, "train", "line.yaml", "dataset.path=data")
    assert "session: sessions/line-2" in done.stdout

    done = physgym(folder, "run", "sessions/line-2", "--steps", "12", "--record", "recorded")
    assert "12 steps, 0 rejected" in done.stdout
    assert "relative L2 error" in done.stdout
    assert re.search(r"time per step: network median .* ms, 95th percentile .* ms; solver median", done.stdout)
    recorded = SampleDataset(folder / "recorded", mode="prediction")
    assert list(recorded.spec) == ["flag", "x", "y", "prediction/y", "error/y"]
    assert len(recorded) == 12
    workers = ("--workers", "2", "--record", "recorded", "--resume", "--batch-size", "4")
    physgym(folder, "run", "sessions/line-2", "--steps", "8", *workers)
    assert SampleDataset(folder / "recorded", mode="prediction").index("episode").tolist() == [
        i // 4 for i in range(20)
    ]


@pytest.mark.slow
def test_replay(folder):
    physgym(folder, *GENERATE[:-4], "--samples", "64", "sims:toy/Line-v0")
    physgym(folder, "train", config(folder), "dataset.path=data")
    done = physgym(folder, "replay", "sessions/line", "--data", "data", "--steps", "3")
    assert "replayed: the validation part of data, " in done.stderr  # what the training has held out
    assert "warning" not in done.stderr.lower()
    whole = ("--data", "data", "--mode", "training")
    done = physgym(folder, "replay", "sessions/line", *whole, "--record", "again", "--batch-size", "16")
    assert "64 steps, 0 rejected" in done.stdout
    assert "UserWarning" not in done.stderr  # and not the line of code that gives it
    assert re.search(r"^warning: 16 of the 16 episodes of the replayed samples are among those", done.stderr, re.M)
    assert "solver median" not in done.stdout
    assert len(SampleDataset(folder / "again", mode="prediction")) == 64
    done = physgym(folder, "replay", "sessions/line", *whole, "--solver", "--steps", "9")
    assert "9 steps, 0 rejected" in done.stdout
    assert "solver median" in done.stdout
    (folder / "sessions" / "line" / "config.yaml").unlink()  # which stored samples do not need
    again = ("--data", "again", "--mode", "prediction")
    assert "relative L2" in physgym(folder, "replay", "sessions/line", *again).stdout


@pytest.mark.slow
def test_run_with_the_network_in_place_of_the_solver(folder):
    physgym(folder, "train", config(folder), "environment.id=physgym/Spring-v0", "dataset.samples=250")
    done = physgym(folder, "run", "sessions/line", "--steps", "30", "--surrogate", "--frames", "frames")
    assert "relative L2" not in done.stdout
    assert "network median" in done.stdout
    assert len(list((folder / "frames").glob("*.png"))) == 30


@pytest.mark.slow
def test_generate_takes_samplers_and_keeps_what_was_rejected(folder):
    done = physgym(
        folder, "generate", "physgym/Spring-v0", "--out", "data", "--samples", "150", "--parameters", "sobol",
        "--actions", "lhs:16", "--keep-rejected", "--nonfinite", "reject", "--max-steps", "50", "--workers", "2",
        "--restart",
    )  # fmt: skip
    assert "parameters of 3 episodes: stiffness, mass, friction, position, velocity" in done.stdout
    assert "0 rejected samples" in done.stdout
    source = SampleDataset(folder / "data").source
    assert source["parameters"] == {"sampler": "sobol"}
    assert source["actions"] == {"sampler": "lhs", "strata": 16}
    assert source["max_steps"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["before", "first_epoch", "always"])
def test_samples_may_be_produced_in_three_ways(folder, produce):
    physgym(folder, "train", config(folder), f"dataset.produce={produce}", "dataset.samples=32")
    stored = folder / "sessions" / "line" / "dataset"
    assert stored.exists() == (produce != "always")
    if produce != "always":
        assert len(SampleDataset(stored)) == 32


@pytest.mark.slow
def test_frames_of_a_run_are_pictures(folder):
    physgym(folder, "train", config(folder), "environment.id=physgym/Spring-v0", "dataset.samples=250")
    physgym(folder, "run", "sessions/line", "--steps", "3", "--frames", "frames")
    frames = sorted((folder / "frames").glob("*.png"))
    assert len(frames) == 3
    assert all(frame.read_bytes().startswith(b"\x89PNG") for frame in frames)


@pytest.mark.slow
def test_check_lists_the_rules(folder):
    assert "ok   samples fit the declaration" in physgym(folder, "check", "sims:toy/Line-v0").stdout
    done = physgym(folder, "check", "sims:toy/WrongShape-v0", code=2)
    assert "FAIL samples fit the declaration" in done.stdout
    assert "sample_space says (3,)" in done.stderr


GENERATE = ["generate", "--out", "data", "--samples", "5", "--workers", "1"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([*GENERATE, "physgym/Nothing-v0"], "Shipped: physgym/Beam-v0"),
        ([*GENERATE, "no_such_module:Env-v0"], "No module named 'no_such_module'"),
        ([*GENERATE, "sims:toy/Broken-v0"], "RuntimeError: no licence for the solver"),
        ([*GENERATE, "sims:toy/MissingField-v0"], "field 'y' is missing"),
        ([*GENERATE, "sims:toy/WrongShape-v0"], "has shape (3, 1); sample_space says (3,)"),
        ([*GENERATE, "sims:toy/NotANumber-v0"], "3 non-finite values"),
        (
            [*GENERATE[:-1], "-1", "sims:toy/Line-v0"],
            "dataset.num_workers: Input should be greater than or equal to 0 (got -1)",
        ),
        (
            ["generate", "sims:toy/Line-v0", "--out", "data", "--samples", "0"],
            "dataset.samples: Input should be greater than or equal to 1 (got 0)",
        ),
        (["generate", "sims:toy/Line-v0", "--out", "data", "--mode", "tset"], "mode must be one of"),
        (
            ["generate", "sims:toy/Line-v0", "--out", "data", "--actions", "sobel"],
            "sampler.actions: unknown name; did you mean 'sobol'?",
        ),
        (["generate", "sims:toy/Line-v0", "--out", "data", "--parameters", "lhs"], "declares no parameter_space"),
        (
            ["generate", "sims:toy/Line-v0", "--out", "data", "--nonfinite", "no"],
            "dataset.nonfinite: Input should be 'error', 'reject' or 'allow' (got 'no')",
        ),
        ([*GENERATE, "sims:toy/Line-v0", "--arg", "oops"], "write key=value"),
        ([*GENERATE, "physgym/Beam-v0", "--arg", "poisson_ratio=0.7"], "poisson_ratio=0.7 must lie in [0, 0.5)"),
        ([*GENERATE, "sims:toy/Line-v0", "--out", "sims.py/data"], "cannot create a dataset"),
        ([*GENERATE, "physgym/Beam-v0", "--arg", "young_modolus=5"], "did you mean 'young_modulus'?"),
        (
            [*GENERATE, "sims:toy/Line-v0", "--envs", "0"],
            "dataset.num_envs: Input should be greater than or equal to 1 (got 0)",
        ),
        ([*GENERATE, "sims:toy/Line-v0", "--seed", "-1"], "Invalid value for '--seed'"),
        (["train", "none.yaml"], "cannot read none.yaml"),
        (["run", "sessions/none"], "there is no sessions/none; name"),
        (["run", "."], "is not a session: it has no config.yaml"),
        (["run", "sessions/none", "--steps", "-1"], "Invalid value for '--steps'"),
        (["replay", "sessions/none"], "Missing option '--data'"),
        (["replay", "sessions/none", "--data", "none"], "there is no dataset at /"),
        (["replay", "sessions/none", "--data", "none", "--frames", "f"], "add --solver"),
        (["check", "physgym/Nothing-v0"], "no environment"),
        (["generate"], "Missing argument"),
        (["generate", "--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(folder, arguments, text):
    done = physgym(folder, *arguments, code=2)
    assert text in done.stderr
    assert not (folder / "data").exists()
    if "Broken" not in str(arguments):  # that shows the worker's traceback
        assert "Traceback" not in done.stderr


def test_an_existing_dataset_is_refused(folder):
    physgym(folder, *GENERATE, "sims:toy/Line-v0")
    assert "already holds training samples" in physgym(folder, *GENERATE, "sims:toy/Line-v0", code=2).stderr


def test_a_partition_that_is_not_hdf5_is_named(folder):
    (folder / "data").mkdir()
    (folder / "data" / "training-00000.h5").write_text("nonsense")
    done = physgym(folder, "train", config(folder), "dataset.path=data", code=2)
    assert "training-00000.h5 is not a readable partition" in done.stderr
    assert not (folder / "sessions").exists()


def test_a_failed_training_says_so_in_its_session(folder):
    environment = {"id": "sims:toy/NotANumber-v0"}
    physgym(folder, "train", config(folder, environment=environment), code=2)
    assert "outcome: SampleError: " in (folder / "sessions" / "line" / "info.txt").read_text()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "network.type=Transformer",
            "network.type: unknown name; there are Autoencoder, CNN, FNO, MLP, UNet; your own as module:attr",
        ),
        ("network.arguments.hiden=[4]", "unexpected keyword argument 'hiden'; did you mean 'hidden'?"),
        ("optimization.lr=.inf", "optimization.lr: Input should be a finite number"),
        ("inputs=[foo]", "inputs names 'foo', which the samples lack"),
        ("outputs=[flag, nope]", "outputs names 'nope'"),
        ("device=nonsense", "device 'nonsense' cannot be used"),
        ("environment.id=toy/Nothing-v0", "no environment"),
        ("environment.arguments.lenght=3", "has no argument 'lenght'"),
        ("seed=-1", "seed: "),
    ],
)
def test_faults_are_found_before_anything_is_generated(folder, override, text):
    done = physgym(folder, "train", config(folder), override, code=2)
    assert text in done.stderr
    assert "generate" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "sessions").exists()


@pytest.mark.slow
def test_a_dataset_is_taken_as_it_stands_or_continued(folder):
    physgym(folder, "generate", "sims:toy/Line-v0", "--out", "data", "--samples", "40")
    overrides = ["dataset.path=data", "training.epochs=1"]
    physgym(folder, "train", config(folder, dataset={}), *overrides)
    assert len(SampleDataset(folder / "data")) == 40
    physgym(folder, "train", "line.yaml", *overrides, "dataset.samples=60")
    assert len(SampleDataset(folder / "data")) == 60
    done = physgym(folder, "train", "line.yaml", *overrides, "environment.id=physgym/Spring-v0", code=2)
    assert "data holds samples of toy/Line-v0, the configuration names physgym/Spring-v0" in done.stderr


def test_arguments_in_scientific_notation_are_numbers(folder):
    arguments = ["--samples", "2", "--workers", "1", "--arg", "young_modulus=1e3"]
    physgym(folder, "generate", "physgym/Beam-v0", "--out", "data", *arguments)
    assert SampleDataset(folder / "data").source["env_kwargs"] == {"young_modulus": 1000.0}


def test_a_network_that_does_not_fit_is_named(folder):
    network = {"type": "UNet", "arguments": {"dimensions": 2}}
    done = physgym(folder, "train", config(folder, network=network), code=2)
    assert "has shape (3,) without the batch axis; this UNet takes 2 axes" in done.stderr
    assert "field '" in done.stderr


@pytest.mark.slow
def test_a_network_of_another_simulation_is_refused(folder):
    physgym(folder, "train", config(folder), "training.epochs=1")
    file = folder / "sessions" / "line" / "config.yaml"
    file.write_text(file.read_text().replace("sims:toy/Line-v0", "physgym/Spring-v0"))
    done = physgym(folder, "run", "sessions/line", "--steps", "2", code=2)
    assert "the network was trained on field" in done.stderr


@pytest.mark.slow
def test_frames_need_the_simulation_in_this_process(folder):
    physgym(folder, "train", config(folder), "training.epochs=1")
    done = physgym(folder, "run", "sessions/line", "--frames", "f", "--workers", "2", code=2)
    assert "frames need the simulation in this process" in done.stderr
    assert not (folder / "f").exists()


def test_flags_change_the_file_and_are_recorded(folder):
    flags = [
        "--find-replace",
        "sessions/line",
        "sessions/other",
        "toy/Line",
        "toy/Line",
        "--delete",
        "description",
        "network",
    ]
    more = ["training.epochs=1", "--modify", "optimization", "{lr: 0.5}", "--cpu", "--mini"]
    physgym(folder, "train", config(folder, description="x", network={"type": "UNet"}), *flags, *more)
    record = json.loads((folder / "sessions" / "other" / "record.json").read_text())
    assert record["runs"][0]["edits"] == {
        "find_replace": ["sessions/line", "sessions/other", "toy/Line", "toy/Line"],
        "delete": ["description", "network"],
        "modify": ["optimization", "{lr: 0.5}"],
        "overrides": ["training.epochs=1"],
        "cpu": True,
        "mini": True,
    }
    assert record["runs"][0]["config_file"] == "line.yaml"
    made = yaml.safe_load((folder / "sessions" / "other" / "config.yaml").read_text())
    assert (made["network"]["type"], made["optimization"]["lr"], made["training"]["epochs"]) == ("MLP", 0.5, 1)


@pytest.mark.slow
def test_changes_that_are_not_committed_are_refused_or_run_without_a_record_or_kept(folder):
    (folder / ".gitignore").write_text("*\n!new.py\n")
    (folder / "new.py").write_text("x = 1\n")
    file = config(folder, dataset={"samples": 40, "num_workers": 1})
    done = physgym(folder, "train", file, "training.epochs=1", code=2)
    assert "changed    .gitignore" in done.stderr
    assert "untracked  new.py" in done.stderr
    assert not (folder / "sessions").exists()
    assert "no terminal to ask on: add --y" in physgym(folder, "train", file, "--allow-dirty-repo", code=2).stderr
    physgym(folder, "train", file, "training.epochs=1", "--allow-dirty-repo", "--y")
    assert not (folder / "sessions").exists()
    physgym(folder, "train", file, "training.epochs=1", "--save-diff")
    assert "+x = 1" in (folder / "sessions" / "line" / "changes-1.patch").read_text()
    (folder / ".git").rename(folder / "was.git")
    assert "in no git repository" in physgym(folder, "train", file, "--save-diff", code=2).stderr
    physgym(folder, "train", file, "training.epochs=1", "--no-logging")
    assert [path.name for path in (folder / "sessions").iterdir()] == ["line"]


@pytest.mark.slow
def test_a_session_is_trained_anew_as_it_was(folder):
    physgym(folder, "train", config(folder), "training.epochs=1")
    done = physgym(folder, "train", "sessions/line", "training.epochs=2")
    assert "sessions/line is taken; this session is sessions/line-2" in done.stderr
    assert "epoch 2" in done.stdout


@pytest.mark.slow
def test_generation_in_a_session_goes_on(folder):
    physgym(folder, "generate", config(folder), "--samples", "20")
    assert len(SampleDataset(folder / "sessions" / "line" / "dataset")) == 20
    done = physgym(folder, "resume", "sessions/line", "dataset.samples=50")
    assert "50 samples in sessions/line/dataset" in done.stdout
    assert len(SampleDataset(folder / "sessions" / "line" / "dataset")) == 50
    runs = json.loads((folder / "sessions" / "line" / "record.json").read_text())["runs"]
    assert [(run["kind"], run["dataset"]["samples"]) for run in runs] == [("generate", 20), ("generate", 50)]
    done = physgym(folder, "generate", "line.yaml", "--allow-dirty-repo", "--y", "--no-logging", code=2)
    assert "name a place with --out" in done.stderr


def test_options_that_would_do_nothing_are_refused(folder):
    done = physgym(folder, "generate", "sims:toy/Line-v0", "--resume", "--samples", "3", code=2)
    assert "continue a session by physgym resume" in done.stderr
    done = physgym(folder, "generate", "sims:toy/Line-v0", "--out", "data", "--save-diff", code=2)
    assert "--save-diff keeps changes in a session" in done.stderr
    assert not (folder / "sessions").exists()


def test_short_options_end_the_values_of_others(folder):
    arguments = ["--find-replace", "Line", "Line", "-y", "training.epochs=1", "--delete", "seed", "-h"]
    assert "Usage: physgym train" in physgym(folder, "train", config(folder), *arguments).stdout


@pytest.mark.slow
def test_a_session_is_resumed_where_its_paths_mean_what_they_did(folder):
    physgym(folder, "train", config(folder), "dataset.path=data/mine", "training.epochs=1")
    other = folder / "other"
    other.mkdir()
    done = physgym(other, "resume", "../sessions/line", "training.epochs=2", code=2)
    assert f"dataset.path: data/mine is relative to {folder}" in done.stderr
    assert not (other / "data").exists()
    physgym(folder, "resume", "sessions/line", "training.epochs=2")


@pytest.mark.slow
def test_samples_of_another_sampler_are_not_mixed(folder):
    physgym(folder, "generate", "physgym/Spring-v0", "--out", "data", "--samples", "40", "--workers", "1")
    (folder / "c.yaml").write_text("environment: {id: physgym/Spring-v0}\nsampler: {parameters: sobol}\n")
    arguments = ["train", "c.yaml", "dataset.path=data", "training.epochs=1", "validation.fraction=0"]
    done = physgym(folder, *arguments, "dataset.samples=60", code=2)
    assert "sampler.parameters: data has 40 of 60 samples, made with none" in done.stderr
    assert "dataset.samples=null" in done.stderr
    assert not (folder / "sessions").exists()
    done = physgym(folder, "generate", "c.yaml", "--out", "data", "--samples", "60", "--resume", code=2)
    assert "not made with the same parameters (None, the new samples with {'sampler': 'sobol'" in done.stderr
    fewer = ["generate", "physgym/Spring-v0", "--out", "data", "--samples", "20", "--workers", "1", "--resume"]
    assert "40 samples in data, more than 20: there was nothing to generate" in physgym(folder, *fewer).stdout
    physgym(folder, *arguments)


@pytest.mark.slow
def test_closed_streams_are_no_obstacle(folder):
    command = f"{SCRIPT} train {config(folder)} training.epochs=1 >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=folder, check=False, timeout=110).returncode == 0
    assert (folder / "sessions" / "line" / "networks").exists()
    done = subprocess.run(["bash", "-c", f"{SCRIPT} schema > /dev/full"], cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, b"error: [Errno 28] No space left on device\n")


@pytest.mark.slow
def test_replay_takes_overrides(folder):
    physgym(folder, "train", config(folder), "training.epochs=1")
    data = ["--data", "sessions/line/dataset", "--steps", "4"]
    done = physgym(folder, "replay", "sessions/line", "environment.arguments.x=1", "--solver", *data, code=2)
    assert "has no argument 'x'" in done.stderr
    assert "4 steps" in physgym(folder, "replay", "sessions/line", "--cpu", *data).stdout


def test_the_schema_is_printed_or_written(folder):
    printed = physgym(folder, "schema").stdout
    physgym(folder, "schema", "--out", "schema.json")
    assert json.loads((folder / "schema.json").read_text()) == json.loads(printed)
    assert "cannot write" in physgym(folder, "schema", "--out", "no/such/folder.json", code=2).stderr


def interrupt(folder, *arguments, when):
    """Start a command, interrupt it once `when` holds; return whether it ends in time, its status and output.

    In time are two seconds; or, on a machine that is slow, as long as it took to begin.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic() - begin
    time.sleep(0.5)
    start = time.monotonic()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return time.monotonic() - start < max(2.0, begun), process.returncode, output


def interrupt_fork(folder, *arguments, when):
    """As `interrupt`, a process forked from one that has imported what takes seconds."""
    said, begin = folder / "said", time.monotonic()
    command = Command(folder, *arguments, files=[said, said], fresh_workers=True)
    try:
        deadline = time.monotonic() + 60
        while not when() and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        begun = time.monotonic() - begin
        time.sleep(0.5)
        start = time.monotonic()
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGINT)
        status = command.wait(60)
        return time.monotonic() - start < max(2.0, begun), status, said.read_text()
    finally:
        command.kill()


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_while_generating(folder):
    in_time, code, output = interrupt(
        folder, "generate", "sims:toy/Slow-v0", "--out", "data", "--samples", "5000",
        when=(folder / "data" / "training-00000.h5").exists,
    )  # fmt: skip
    assert code == 130, output
    assert in_time
    assert "--resume" in output
    assert "Traceback" not in output
    assert len(SampleDataset(folder / "data")) > 0


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_while_training(folder):
    physgym(folder, *GENERATE[:-4], "--samples", "64", "sims:toy/Line-v0")
    session = folder / "sessions" / "line"
    arguments = ["train", config(folder), "dataset.path=data", "training.epochs=100000"]
    in_time, code, output = interrupt_fork(folder, *arguments, when=lambda: list(session.glob("stats/events*")))
    assert code == 130, output
    assert in_time
    assert "Traceback" not in output
    assert "outcome: interrupted" in (session / "info.txt").read_text()
    assert "relative L2" in physgym(folder, "run", "sessions/line", "--steps", "3").stdout


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_while_running(folder):
    physgym(folder, "train", config(folder), "training.epochs=1")
    shutil.rmtree(folder / "sessions" / "line" / "stats")
    recorded = folder / "recorded" / "prediction-00000.h5"
    in_time, code, output = interrupt_fork(
        folder, "run", "sessions/line", "--steps", "0", "--record", "recorded", when=recorded.exists
    )
    assert code == 130, output
    assert in_time
    assert "Traceback" not in output
    assert len(SampleDataset(folder / "recorded", mode="prediction")) > 0


def test_a_taken_port_is_a_clear_error_from_python(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = (
            "import physgym\n"
            f"physgym.make_vec('physgym/Spring-v0', 2, port={taken.getsockname()[1]})"
        )  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert "ConfigError: cannot listen on 127.0.0.1" in done.stderr


def test_an_import_of_nothing_says_that_it_is_not_there(folder, monkeypatch, capsys):
    from physgym.cli import main

    monkeypatch.setitem(sys.modules, "minari", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["physgym", "import", "nothing", "--out", "data"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "there is no file or folder nothing, and a dataset of Minari needs minari: pip" in capsys.readouterr().err


MISSING = """
import sys
from physgym.cli import main

for typed in (line.split() for line in sys.stdin):
    sys.argv = ["physgym", *typed]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, typed
    assert "torch" not in sys.modules, typed
"""


def test_what_is_not_there_is_said_before_anything_is_built(tmp_path):
    (tmp_path / "file.yaml").touch()
    (tmp_path / "session").mkdir()
    wanted = {
        "run none": "there is no none; name a YAML file or the folder of a session",
        "run file.yaml": "file.yaml is a file: name the folder of a session, which a training prints at its end",
        "replay none --data session": f"there is no checkpoint at {tmp_path}/none, and no session",
        "replay session --data none": f"there is no dataset at {tmp_path}/none",
        "evaluate none": f"there is no checkpoint at {tmp_path}/none, and no session",
        "evaluate session --data session --data none": f"there is no dataset at {tmp_path}/none",
        "report none": "there is no none: name the folder of a session or of a dataset",
        "serve-model none --umbridge": f"there is no checkpoint at {tmp_path}/none, and no session",
        "export none --to onnx --out n.onnx": f"there is no checkpoint at {tmp_path}/none, and no session",
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(  # in a process that has imported nothing
        [sys.executable, "-c", MISSING], cwd=tmp_path, input="\n".join(wanted), capture_output=True, text=True,
        timeout=110, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"error: {text}" for text in wanted.values()]

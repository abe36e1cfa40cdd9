"""Sessions run again from their records: in a repository whose simulation has changed since."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from safetensors.torch import load_file

import physgym
from physgym import cli
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.experiment import reproduce as tested
from physgym.experiment.config import check_config
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_record
from physgym.experiment.recorded_samples import RecordedSamples
from physgym.experiment.references import order_of
from physgym.experiment.reproduce import reproduce
from physgym.experiment.run import Run, _described
from physgym.experiment.runs import train
from physgym.experiment.session import new_session
from physgym.files import write_atomically
from physgym.nn import MLP
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, list_checkpoints
from tests.support.commands import Command, run_command
from tests.support.repositories import commit, git, set_identity
from tests.support.toys import RealTime

SIMULATION = """
from physgym.envs.spring import Spring
from my.gains import GAIN


class Mine(Spring):
    def advance(self, action):
        super().advance(GAIN * action)
"""
CONFIGURATION = {
    "session": "sessions/mine",
    "description": "to be run again",
    "environment": {"id": "my.simulation:Mine"},
    "sampler": {"parameters": "lhs:4"},
    "dataset": {"samples": 420, "num_workers": 1, "max_steps": 20},
    "network": {"arguments": {"hidden": [8], "dropout": 0.1}},
    "training": {"epochs": 2, "batch_size": 32},
}


def environment():
    import tests

    folder = Path(next(iter(tests.__path__))).parent
    # no __pycache__ in the project, whose status the tests look at
    return {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}


def call(folder, *arguments, code=0):
    done = run_command(folder, *arguments, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    return done


def weights(session):
    return load_file(list(list_checkpoints(session / "networks"))[-1] / "network.safetensors")


def same_arrays(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def write_project(root):
    """A project in a folder of its repository, as another one may be beside it."""
    folder = root / "code"
    (folder / "my").mkdir(parents=True)
    (folder / "my" / "__init__.py").touch()
    (folder / "my" / "simulation.py").write_text(SIMULATION)
    (folder / "my" / "gains.py").write_text("GAIN = 2.0\n")
    (folder / "mine.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository with two sessions of code that is not there any more: a commit, and one with changes."""
    with pytest.MonkeyPatch.context() as patch:
        set_identity(patch)
        root = tmp_path_factory.mktemp("project") / "a repository"
        root.mkdir()
        git(root, "init", "-q", "-b", "main")
        folder = write_project(root)
        commit(root)
        call(folder, "train", "mine.yaml", "sampler.actions=gaussian")
        (folder / "my" / "gains.py").write_text("from my.other import GAIN\n")
        refused = call(folder, "train", "mine.yaml", code=2)
        assert "changed    code/my/gains.py" in refused.stderr
        (folder / "my" / "other.py").write_text("GAIN = 3.0\n")
        call(folder, "train", "mine.yaml", "session=sessions/changed", "--save-diff")
        git(root, "stash", "-q", "--include-untracked")
        (folder / "my" / "gains.py").write_text("raise RuntimeError('of a later time')\n")
        commit(root)
        yield folder


@pytest.fixture
def there(project, monkeypatch):
    """The folder of the project is the current one."""
    set_identity(monkeypatch)
    monkeypatch.chdir(project)
    yield project
    assert git(project, "worktree", "list").count("\n") == 0
    assert git(project, "status", "--porcelain") == ""
    for left in project.glob("sessions/*again*"):
        shutil.rmtree(left)


# --- from end to end


@pytest.mark.slow
def test_a_commit_gives_the_same_bits_again(there):
    done = call(there, "reproduce", "sessions/mine")
    old, new = there / "sessions" / "mine", there / "sessions" / "mine-again"
    assert same_arrays(weights(old), weights(new))
    assert (old / "networks" / "epoch-0002" / "network.safetensors").read_bytes() == (
        new / "networks" / "epoch-0002" / "network.safetensors"
    ).read_bytes()
    first, second = (physgym.SampleDataset(session / "dataset") for session in (old, new))
    assert [part.checksum for part in first.partitions] == [part.checksum for part in second.partitions]
    assert "samples: the same, bit for bit" in done.stdout
    assert "weights: the same, bit for bit" in done.stdout
    assert "NOT" not in done.stdout
    (validation,) = [line.split() for line in done.stdout.splitlines() if line.startswith("validation_loss ")]
    assert validation[1] == validation[2]
    assert validation[3] == "0"
    then, now = (read_record(session)["runs"][-1] for session in (old, new))
    assert then["git"]["commit"] == now["git"]["commit"] != git(there, "rev-parse", "HEAD")
    assert (then["git"]["folder"], now["git"]["folder"]) == ("code", "code")
    assert then["weights"] == now["weights"]
    # what was run again can be run again, though its folder is gone
    assert not Path(now["folder"]).exists()
    assert tested._reproducible(new, read_record(new)["runs"])


@pytest.mark.slow
def test_changes_are_run_again_and_the_code_can_be_kept(there, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = call(there, "reproduce", "sessions/changed", "--out", "sessions/x-again", "--keep")
    old, new = there / "sessions" / "changed", there / "sessions" / "x-again"
    assert same_arrays(weights(old), weights(new))
    assert not same_arrays(weights(old), weights(there / "sessions" / "mine"))
    assert "with its patch" in done.stdout
    patches = [(session / "changes-1.patch").read_bytes() for session in (old, new)]
    assert patches[0] == patches[1]
    assert b"GAIN = 3.0" in patches[0]
    (kept,) = tmp_path.glob("physgym-again-*/a repository")
    assert (kept / "code" / "my" / "other.py").read_text() == "GAIN = 3.0\n"
    git(there, "worktree", "remove", "--force", str(kept))


@pytest.mark.slow
def test_a_generation_is_run_again(there):
    git(there, "checkout", "-q", "HEAD~1")
    try:
        call(there, "generate", "mine.yaml", "session=sessions/samples-again")
    finally:
        git(there, "checkout", "-q", "main")
    done = call(there, "reproduce", "sessions/samples-again")
    assert "samples: the same, bit for bit" in done.stdout
    assert len(physgym.SampleDataset(there / "sessions" / "samples-again-again" / "dataset")) == 420


def begin_long_run(there, output):
    """A reproduction whose training would not end, when it has saved its first checkpoint; and its session."""
    long = there / "sessions" / "long-again"
    shutil.copytree(there / "sessions" / "mine", long)
    config = yaml.safe_load((long / "config.yaml").read_text())
    config["training"]["epochs"] = 100_000
    (long / "config.yaml").write_text(yaml.safe_dump(config))
    process = Command(there, "reproduce", "sessions/long-again", files=[output] * 2, env=environment())
    again = there / "sessions" / "long-again-again"
    deadline = time.monotonic() + 60
    while not list(again.glob("networks/epoch-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return process, again


@pytest.mark.slow
def test_a_killed_reproduction_leaves_nothing_running_and_the_next_one_tidies_up(there, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, again = begin_long_run(there, tmp_path / "output")
    pid = read_record(again)["runs"][-1]["pid"]
    process.kill()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(0.1)
    assert len(list(tmp_path.glob("physgym-again-*"))) == 1
    mine = tmp_path / "physgym-again-mine"  # a name like theirs, and not theirs
    git(there, "worktree", "add", "-q", "--detach", str(mine / "tree"))
    tested._remove_abandoned(there)
    assert [path.name for path in tmp_path.glob("physgym-again-*")] == ["physgym-again-mine"]
    git(there, "worktree", "remove", "--force", str(mine / "tree"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_goes_to_the_training_and_then_all_is_tidied_up(there, number, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, again = begin_long_run(there, tmp_path / "output")
    os.kill(process.pid, number)
    status, output = process.wait(60), (tmp_path / "output").read_text()
    assert status == (130 if number == signal.SIGINT else 128 + number), output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("physgym*"))
    outcome = read_record(again)["runs"][-1]["outcome"]
    assert outcome == "interrupted"


# --- what is refused, before anything is run


@pytest.fixture
def quick(repository, monkeypatch):
    """A session of a shipped simulation in a repository, and a run of it again that is only looked at."""
    monkeypatch.chdir(repository)
    (repository / "sub").mkdir()
    (repository / "sub" / "a.py").touch()
    commit(repository)
    data = repository / "sub" / "data"
    physgym.generate("physgym/Spring-v0", data, samples=300, num_workers=1, progress=False)
    monkeypatch.chdir(repository / "sub")
    settings = {
        "session": "../sessions/one",
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": "data"},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
    }
    return train(check_config(settings, "test"), origin=Origin.here(save_diff=True)).session.resolve()


def at(folder):
    """Where the samples of a session are found whose project is in a folder."""
    return RecordedSamples(folder / "s", [folder], folder / "again-samples")


def edit(session, **changes):
    record = json.loads((session / "record.json").read_text())
    record["runs"][-1] |= changes
    (session / "record.json").write_text(json.dumps(record))


def command_of(session, monkeypatch, **options):
    """The command line with which a session is run again, its folder, and its environment."""
    seen = []

    def run(self, command, folder, variables):
        assert folder.is_dir()
        seen.append((command[3:], folder, dict(variables)))
        return 0, 7

    with monkeypatch.context() as patch:
        patch.setattr(tested._Reproduction, "run", run)
        with pytest.raises(ConfigError, match="the training failed, with exit status 7"):
            reproduce(session, **options)
    ((command, folder, variables),) = seen
    assert not folder.exists()
    return command, folder, variables


@pytest.mark.slow
def test_paths_threads_and_modules_are_those_of_the_first_run(quick, repository, monkeypatch):
    first = train(check_config({**yaml.safe_load((quick / "config.yaml").read_text()), "session": "s"}, "test"))
    assert first.session == Path.cwd() / "s"
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings |= {"network": {"start_from": "s"}, "sampler": {"actions": "network:s"}, "session": "../sessions/two"}
    settings["dataset"] |= {"load_samples": "data"}
    settings["validation"] = {"path": "s3://bucket/prefix"}
    settings["training"]["checkpoints"]["path"] = "kept"
    with Run(new_session("../sessions/two"), "train", settings, Origin.here()) as run:
        run.describe_dataset(physgym.SampleDataset("data"))
    session = repository / "sessions" / "two"
    environment = {"OMP_NUM_THREADS": "3", "MKL_CBWR": "AVX2", "CUDA_VISIBLE_DEVICES": "5"}
    git_record = read_record(session)["runs"][0]["git"] | {"import_folders": ["sub", "none"]}
    edit(session, environment=environment, git=git_record)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", f"relative{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir("/")
    sub = repository / "sub"
    command, folder, variables = command_of(session, monkeypatch)
    assert command == [
        "train",
        str(session / "config.yaml"),
        f'session="{repository}/sessions/two-again"',
        f'dataset.path="{sub}/data"',
        'validation.path="s3://bucket/prefix"',
        f'dataset.load_samples="{sub}/data"',
        f'network.start_from="{sub}/s"',
        "training.checkpoints.path=null",
        f'sampler.actions.type="network:{sub}/s"',
    ]
    assert folder.name == "sub"
    assert (variables["OMP_NUM_THREADS"], variables["MKL_CBWR"]) == ("3", "AVX2")
    assert "OPENBLAS_NUM_THREADS" not in variables
    assert variables.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert variables["PYTHONPATH"].split(os.pathsep)[:2] == [str(folder), "relative"]

    # the threads of a machine with other cores
    edit(session, environment={}, threads=5, hardware={"cores": 500})
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert command_of(session, monkeypatch)[2]["OMP_NUM_THREADS"] == "5"

    # another network to start from, or to act
    shutil.rmtree(sub / "s")
    with pytest.raises(ConfigError, match=r"the network in .*/s, from which .* started, is another one now"):
        reproduce(session)
    edit(session, start_from=None)
    with pytest.raises(ConfigError, match=r"the network in .*/s, which acted in .*, is another one now"):
        reproduce(session)
    edit(session, actions_from=None)  # as of an earlier version, which did not look
    command_of(session, monkeypatch)


@pytest.mark.slow
def test_what_differs_is_told(quick, monkeypatch, capsys):
    new = quick.with_name("elsewhere")
    found = read_record(quick)["runs"][0]

    def run(self, command, folder, variables):
        shutil.copytree(quick, new)
        edit(new, **{**found, "pid": 7})
        return 7, 0

    monkeypatch.setattr(tested._Reproduction, "run", run)
    assert reproduce(quick, out=Path("../sessions/elsewhere")).equal
    cases = [
        ({"results": {**found["results"], "seconds": 99.0, "rollout_latency_ms": 3.0}}, 0, "reproduced: "),
        ({"results": {**found["results"], "loss": found["results"]["loss"] + 0.5}}, 1, " -0.5 "),
        ({"results": {**found["results"], "loss": "nan"}}, 1, " different "),
        ({"results": {**found["results"], "more": 3}}, 1, "more 3 - different "),
        ({"weights": "0" * 64}, 1, f"weights: different: sha256 {'0' * 64} then, {found['weights']} now"),
        ({"dataset": {**found["dataset"], "path": "data"}}, 0, "samples: the same, bit for bit"),
        ({"packages": {**found["packages"], "torch": "0.1", "old": "7"}}, 0, "package torch: 0.1 then, "),
        ({"packages": {str(number): "1" for number in range(50)}}, 0, " more packages"),
        ({"python": "2.7", "threads": 99}, 0, "threads: 99 then, 1 now"),
        ({"hardware": {**found["hardware"], "cpu": "another"}}, 0, "cpu: another then, "),
    ]
    for changes, code, text in cases:
        shutil.rmtree(new)
        edit(quick, **{**found, **changes})
        assert (cli.app(["reproduce", str(quick), "--out", str(new)], standalone_mode=False) or 0) == code
        out = " ".join(capsys.readouterr().out.split())
        assert text in out, out
        assert ("NOT reproduced" in out) == bool(code)


@pytest.mark.slow
def test_of_samples_made_in_real_time_fields_and_statistics_are_compared(quick, monkeypatch, capsys, tmp_path):
    new, found = quick.with_name("elsewhere"), read_record(quick)["runs"][0]
    assert "real_time" not in found["dataset"]
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings["dataset"]["produce"] = "first_epoch"  # which makes them anew
    write_atomically(quick / "config.yaml", yaml.safe_dump(settings))
    options = {"samples": 6, "num_workers": 0, "max_steps": 6, "progress": False}
    sets = [
        physgym.generate(one, tmp_path / str(seed), seed=seed, **options) for seed, one in enumerate([RealTime] * 2)
    ]
    sets += [physgym.generate("physgym/Spring-v0", tmp_path / "2", **options)]
    described = [_described(one, str(one.paths[0])) for one in sets]
    assert [one.get("real_time") for one in described] == [True, True, None]
    edit(quick, dataset=described[0])

    def run(self, command, folder, variables):
        shutil.copytree(quick, new)
        edit(new, pid=7, dataset=described[number])
        return 7, 0

    monkeypatch.setattr(tested._Reproduction, "run", run)
    described[2]["real_time"] = True
    for number, code, text in [(0, 0, "the same, bit for bit"), (1, 0, "made again: "), (2, 1, "fields are others: ")]:
        assert (cli.app(["reproduce", str(quick), "--out", str(new)], standalone_mode=False) or 0) == code
        out = capsys.readouterr().out
        assert text in out, out
        assert ("whose bytes nobody promises" in out) == bool(number)
        if number == 1:
            (row,) = [line for line in out.splitlines() if line.startswith("  y ")]
            mean = sets[1].statistics["y"].mean.mean()
            assert f"{mean:.3g} ± 0" in row
        shutil.rmtree(new)


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["first_epoch", "online", "always"])
def test_samples_that_a_training_makes_on_its_way_are_made_anew_in_its_session(quick, monkeypatch, produce):
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings["dataset"]["produce"] = produce
    write_atomically(quick / "config.yaml", yaml.safe_dump(settings))
    for name in ("elsewhere", "elsewhere-2"):
        command, _, _ = command_of(quick, monkeypatch, out=Path("elsewhere"))
        if produce == "always":  # which keeps nothing without a path
            assert f'session="{Path.cwd()}/{name}"' in command
            assert f'dataset.path="{Path.cwd()}/{name}/dataset"' in command
        else:  # whatever the session will be called
            assert f'session="{Path.cwd()}/elsewhere"' in command
            assert "dataset.path=null" in command
        Path(name).mkdir()


@pytest.mark.parametrize("out", ["", ".", "..", "/"])
def test_the_new_session_needs_a_name(quick, out):
    with pytest.raises(ConfigError, match="write a path that ends in a name"):
        reproduce(quick, out=Path(out))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["validation", "load_samples"])
def test_other_samples_to_validate_or_to_begin_with_are_an_error_before_the_run(quick, monkeypatch, what):
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings["dataset"]["load_samples"] = settings["validation"]["path"] = "more"
    more = Path("more")
    first = physgym.generate("physgym/Spring-v0", more, samples=50, num_workers=1, progress=False)
    with Run(new_session("../sessions/two"), "train", settings, Origin.here(save_diff=True)) as run:
        run.describe_dataset(physgym.SampleDataset("data"))
        run.describe_dataset(first, what=what)
    session = run.session.resolve()
    monkeypatch.chdir("..")
    command, _, _ = command_of(session, monkeypatch)
    assert f'validation.path="{Path.cwd()}/sub/more"' in command
    shutil.rmtree("sub/more")
    with pytest.raises(ConfigError, match=f"the samples of {session} cannot be read"):
        reproduce(session)
    physgym.generate("physgym/Spring-v0", "sub/more", samples=50, num_workers=1, progress=False, seed=3)
    with pytest.raises(ConfigError, match=rf"the samples in .*/sub/more are not those of {session}"):
        reproduce(session)


@pytest.mark.slow
def test_other_samples_of_a_mode_or_of_a_test_set_are_an_error_before_the_run(quick, monkeypatch):
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings["validation"]["path"], settings["training"]["test"] = "held", {"far": "held"}
    options = {"samples": 20, "num_workers": 1, "progress": False}
    held = physgym.generate("physgym/Spring-v0", "held", mode="validation", **options)
    test = physgym.generate("physgym/Spring-v0", "held", mode="test", **options)
    with Run(new_session("../sessions/held"), "train", settings, Origin.here(save_diff=True)) as run:
        run.describe_dataset(physgym.SampleDataset("data"))
        run.describe_dataset(held, "validation")
        run.describe_test("far", test.subset(np.arange(5)))
    session = run.session.resolve()
    monkeypatch.chdir("..")
    command_of(session, monkeypatch)  # the samples are those that were
    shutil.rmtree("sub/held")
    physgym.generate("physgym/Spring-v0", "sub/held", mode="validation", **options)
    physgym.generate("physgym/Spring-v0", "sub/held", mode="test", seed=3, **options)
    with pytest.raises(ConfigError, match=rf"the samples in .*/sub/held are not those of {session}"):
        reproduce(session)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("data", "dataset.path names data, below /there"),
        (["a", "/b"], "dataset.path names a, /b, below /there"),
        ("/data/tanks", "dataset.path names /data/tanks"),
        ("~/data", "dataset.path names ~/data"),
        ("s3://bucket/data", "dataset.path names s3://bucket/data"),
    ],
)
def test_the_place_of_a_missing_dataset_is_relative_where_its_configuration_is(value, said):
    assert RecordedSamples(Path("s"), [Path("/there")], Path("c")).place_of("dataset.path", value) == said


@pytest.mark.slow
def test_other_samples_are_an_error_before_the_run(quick, repository):
    data = repository / "sub" / "data"
    data.rename(data.with_name("kept"))
    with pytest.raises(ConfigError, match="cannot be read: there is no dataset") as error:
        reproduce(quick)
    hashed = read_record(quick)["runs"][-1]["dataset"]["hash"]
    assert f"used 300 training samples with the hash {hashed}, which are not part of it" in str(error.value)
    assert f"dataset.path names data, below {repository / 'sub'}. Copy the dataset there" in str(error.value)
    physgym.generate("physgym/Spring-v0", data, samples=300, num_workers=1, progress=False, seed=5)
    with pytest.raises(ConfigError, match=r"are not those of .*: their hash is .* Bring the dataset back"):
        reproduce(quick)
    assert not list(quick.parent.glob("*again*"))


def test_a_commit_that_is_missing_is_named_with_its_remote(quick, repository, tmp_path, monkeypatch):
    found = read_record(quick)["runs"][0]["git"]
    missing = "1234567" * 5
    edit(quick, git={**found, "commit": missing, "remote": "https://example.org/code.git"})
    with pytest.raises(
        ConfigError, match=rf"{missing} .* is not in {repository}.*git fetch https://example.org/code.git"
    ):
        reproduce(quick)
    edit(quick, git={**found, "root": str(tmp_path / "gone")})
    elsewhere = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(elsewhere))
    shutil.move(quick, tmp_path / "session")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"is not in {tmp_path}/gone\. Get it"):
        reproduce(tmp_path / "session")
    monkeypatch.chdir(elsewhere)
    command, _, _ = command_of(tmp_path / "session", monkeypatch)
    assert f'session="{tmp_path}/session-again"' in command


def test_what_cannot_be_run_again_is_refused_with_the_reason(quick, tmp_path):
    found = read_record(quick)["runs"][0]
    cases = [
        ({"outcome": "interrupted"}, "it was not completed: interrupted"),
        ({"outcome": None}, "it was not completed: died"),
        ({"git": None}, "not run in a git repository with a commit"),
        ({"git": {**found["git"], "commit": None}}, "not run in a git repository with a commit"),
        ({"git": {**found["git"], "commit": "--upload-pack=evil"}}, "has no commit but '--upload-pack=evil'"),
        ({"git": {**found["git"], "dirty": True}}, "neither committed nor kept"),
        ({"patch": "changes-9.patch"}, "there is no changes-9.patch"),
        ({"patch": "../sessions/one/config.yaml"}, "its changes are missing"),
        ({"git": {**found["git"], "folder": "../.."}}, "has no folder"),
        ({"kind": "search"}, "kind search, not a training or a generation; run physgym search"),
        ({"kind": "demo"}, "run physgym demo"),
        ({"environment": {"WORLD_SIZE": "4"}}, "trained by 4 processes together"),
    ]
    for changes, text in cases:
        edit(quick, **{**found, **changes})
        with pytest.raises(ConfigError) as raised:
            reproduce(quick)
        assert text in str(raised.value)
    edit(quick, **found)
    record = json.loads((quick / "record.json").read_text())
    resumed = [{**found, "outcome": None}, found]
    assert tested._reproducible(quick, resumed) == found
    other = {**found, "git": {**found["git"], "commit": "abcdef0" * 5}}
    (quick / "record.json").write_text(json.dumps({**record, "runs": [other, found]}))
    with pytest.raises(ConfigError, match=r"its 2 runs were of different code: .*abcdef0abcde as committed"):
        reproduce(quick)
    (quick / "changes-2.patch").write_text("a change\n")
    changed = {**found, "patch": "changes-2.patch"}
    (quick / "record.json").write_text(json.dumps({**record, "runs": [found, changed]}))
    with pytest.raises(ConfigError, match=r" as committed in sub, [0-9a-f]{12} with changes-2.patch in sub"):
        reproduce(quick)
    with pytest.raises(ConfigError, match="is not a session"):
        reproduce(tmp_path)


@pytest.mark.slow
def test_a_module_of_today_does_not_take_the_place_of_that_of_the_commit(quick, repository, monkeypatch):
    (repository / "mine.py").touch()
    (repository / "sub" / "mine.py").touch()
    commit(repository)
    settings = yaml.safe_load((quick / "config.yaml").read_text())
    settings["training"]["callbacks"] = ["mine:Callback"]
    write_atomically(quick / "config.yaml", yaml.safe_dump(settings))
    found = read_record(quick)["runs"][0]["git"]
    edit(quick, git={**found, "commit": git(repository, "rev-parse", "HEAD"), "import_folders": []})
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{repository}")
    command_of(quick, monkeypatch)  # of the current folder
    edit(quick, git={**found, "commit": git(repository, "rev-parse", "HEAD"), "import_folders": [], "folder": "."})
    git(repository, "rm", "-q", "--cached", "mine.py")
    git(repository, "commit", "-q", "-m", "without")
    edit(quick, git={**found, "commit": git(repository, "rev-parse", "HEAD"), "import_folders": [], "folder": "."})
    monkeypatch.setenv("PYTHONPATH", f"{repository}/sub{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(
        ConfigError, match=rf"mine would be imported from {repository}/sub/mine\.py, not from the commit"
    ):
        reproduce(quick)


# --- the commands


@pytest.mark.slow
def test_list_and_show(quick, repository, capsys, monkeypatch):
    def physgym_(*arguments):
        cli.app([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    with Run(new_session(repository / "sessions" / "search"), "search", {"description": "a\nsearch", "seed": 3}):
        with Run(new_session(repository / "sessions" / "search" / "trials" / "trial-1"), "train", {}) as run:
            run.results |= {"loss": float("nan"), "epoch": 4}
        (repository / "sessions" / "damaged").mkdir()
        (repository / "sessions" / "damaged" / "record.json").write_text("{")
        lines = physgym_("list", repository / "sessions").splitlines()
    head, *rows = [line.split() for line in lines]
    assert head == ["session", "kind", "started", "outcome", "epochs", "validation", "loss", "loss", "description"]
    assert [row[0] for row in rows] == ["search/trials/trial-1", "search", "one", "damaged"]
    assert rows[0][4:8] == ["completed", "4", "-", "nan"]
    assert rows[1][4] == "running"
    assert rows[1][-2:] == ["a", "search"]
    assert float(rows[2][6]) > 0
    assert "damaged" in rows[3]
    found = json.loads(physgym_("list", repository / "sessions", "--json"))
    assert [one["session"] for one in found] == [row[0] for row in rows]
    assert found[2]["path"] == str(quick)
    monkeypatch.chdir(repository)
    assert physgym_("list").splitlines()[0].split() == head
    assert physgym_("list", "sub") == "no sessions in sub\n"
    with pytest.raises(ConfigError, match="there is no folder"):
        physgym_("list", "none")

    text = physgym_("show", quick)
    for part in ("outcome: completed", "run 1 of 1: completed", "machine:", "weights:  sha256 "):
        assert part in text
    assert json.loads(physgym_("show", quick, "--json")) == read_record(quick)
    with pytest.raises(ConfigError, match="is not a session"):
        physgym_("show", repository)
    with pytest.raises(ConfigError, match="which nothing changes"):
        physgym_("show", quick, "seed=3")
    shown = yaml.safe_load(physgym_("show", quick / "config.yaml", "training.epochs=9"))
    assert shown["training"]["epochs"] == 9
    assert shown["seed"] == 0
    assert json.loads(physgym_("show", quick / "config.yaml", "--json"))["training"]["epochs"] == 1


def test_without_git_it_says_so(quick, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="git is not installed, which brings the code of"):
        reproduce(quick)


def test_test_sets_are_those_of_the_session(tmp_path):
    config = {"training": {"test": {"far": "data/far", "bucket": "s3://bucket/far"}}}
    changed = tested._changes(tmp_path / "s", config, {"dataset": None}, at(tmp_path), tmp_path / "again")
    wanted = {"far": str(tmp_path / "data/far"), "bucket": "s3://bucket/far"}
    assert f"training.test={json.dumps(wanted)}" in changed


@pytest.mark.parametrize("order", ["random", "window"])
def test_samples_come_in_the_order_of_the_session_whatever_the_memory_holds_now(tmp_path, order):
    samples = {"x": np.zeros((8, 2), "f4"), "y": np.zeros((8, 1), "f4")}
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input"), Field("y", (1,), np.dtype("f4"), "target")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(samples, episode=np.arange(8), step=np.zeros(8, int), seed=np.zeros(8, int))
    dataset, options = SampleDataset(tmp_path / "d"), {"epochs": 1, "batch_size": 4, "progress": False}
    Trainer(MLP.from_spec(spec, hidden=(2,)), dataset, shuffle=order, session=tmp_path / "s", **options).fit()
    for given, wanted in ((None, order), (True, order), (False, None), ("random", None)):
        config = {"training": {"epochs": 1} if given is None else {"epochs": 1, "shuffle": given}}
        changed = tested._changes(tmp_path / "s", config, {"dataset": None}, at(tmp_path), tmp_path / "again")
        assert [one for one in changed if "shuffle" in one] == ([f'training.shuffle="{wanted}"'] if wanted else [])
    for produced in ("online", "always"):
        assert order_of(tmp_path / "s", {"training": {"epochs": 1}, "dataset": {"produce": produced}}) is None
    assert order_of(tmp_path, {"training": {"epochs": 1}}) is None
    (tmp_path / "s" / "networks" / "epoch-0001" / "network.safetensors").write_bytes(b"")
    assert order_of(tmp_path / "s", {"training": {"epochs": 1}}) is None


# --- datasets that have grown, and those of a colleague


GROWN = {"num_workers": 1, "max_steps": 20, "progress": False}


def grow(folder, samples, **more):
    physgym.generate("physgym/Spring-v0", folder, samples=samples, resume=True, **GROWN, **more)


def session_of_310(repository, monkeypatch, **settings):
    """A session on 310 samples of a dataset, and where it is."""
    monkeypatch.chdir(repository)
    grow("data", 310)
    settings = {
        "session": "sessions/one",
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": "data"},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
        **settings,
    }
    return train(check_config(settings, "test"), origin=Origin.here(save_diff=True)).session.resolve()


@pytest.mark.slow
def test_of_a_dataset_that_has_grown_the_first_samples_are_taken(repository, monkeypatch, capfd):
    grow(repository / "held", 40, seed=5)
    session = session_of_310(repository, monkeypatch, validation={"path": "held"})
    grow("data", 500)
    grow("held", 60, seed=5)
    comparison = reproduce(session)
    assert comparison.equal, str(comparison)
    said = str(comparison)
    copies = repository / "sessions" / "one-again-samples"
    for key, folder, first, there in (("dataset", "data", 310, 500), ("validation", "held", 40, 60)):
        line = f"{key}.path: {first} training samples in {repository}/{folder}, sha256 "
        assert line in said
        assert f"grown to {there} since: the first {first} are copied to sessions/one-again-samples/{key}.path" in said
        assert len(SampleDataset(copies / f"{key}.path")) == first
    assert "samples: the same, bit for bit (sha256 " in said
    assert "read from sessions/one-again-samples/dataset.path" in said
    assert "weights: the same, bit for bit" in said
    assert "sessions/one-again/networks compared with the record of sessions/one" in said
    assert len(SampleDataset("data")) == 500
    assert "copies" not in git(repository, "status", "--porcelain")
    # what was run again can be run again, with the copy
    assert reproduce(comparison.session).equal


@pytest.mark.slow
def test_first_samples_that_are_others_are_no_first_samples(repository, monkeypatch):
    session = session_of_310(repository, monkeypatch)
    shutil.rmtree("data")
    grow("data", 500, seed=3)
    with pytest.raises(ConfigError, match=r"has 500 samples now, and the first 310 are others as well"):
        reproduce(session)
    assert not list(session.parent.glob("*again*"))


@pytest.mark.slow
def test_a_training_goes_on_with_the_samples_with_which_it_began(repository, monkeypatch, capfd):
    def further(**changes):
        copy = repository / "sessions" / f"copy-{len(changes)}"
        shutil.copytree(session, copy)
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        settings["training"]["epochs"] = 2
        settings["dataset"] |= changes
        train(check_config(settings, "test"), resume=copy)
        return weights(copy)

    session = session_of_310(repository, monkeypatch)
    expected = further()
    grow("data", 500)
    shutil.rmtree(repository / "sessions" / "copy-0")
    with pytest.raises(ConfigError, match=r"data \(dataset\) has grown .* from 310 samples to 500.* dataset.mini=310"):
        further()
    assert same_arrays(further(mini=310), expected)
    assert read_record(repository / "sessions" / "copy-1")["runs"][-1]["dataset"]["stored"] == 500


@pytest.mark.slow
def test_the_data_of_a_clone_come_first_and_those_of_the_author_are_named(quick, repository, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(clone))
    monkeypatch.chdir(clone)
    shutil.copytree(quick, clone / "one")
    comparison = reproduce(clone / "one")
    said = f"dataset.path: 300 training samples in {repository}/sub/data, sha256 "
    assert said in str(comparison)
    assert f"; {clone}/sub/data has none, so that these are of the folder in which the session was run" in str(
        comparison
    )
    shutil.copytree(repository / "sub" / "data", clone / "sub" / "data")
    comparison = reproduce(clone / "one", out=Path("two"))
    assert f"dataset.path: 300 training samples in {clone}/sub/data, sha256 " in str(comparison)
    assert str(repository) not in str(comparison).replace(f"{repository}/sessions", "")
    shutil.rmtree(clone / "sub" / "data")
    grow(clone / "sub" / "data", 300, seed=9)
    with pytest.raises(ConfigError, match=rf"the samples in {clone}/sub/data are not those of {clone}/one"):
        reproduce(clone / "one", out=Path("three"))

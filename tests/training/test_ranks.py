"""Two processes that train one network, started by torchrun: what they agree on, and what happens where they do not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import physgym
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import CheckpointError, ConfigError, DivergedError
from physgym.nn import MLP, Optimization
from physgym.sample import Field, SampleSpec
from physgym.training import Callback, Checkpoints, Trainer, Unroll, find_checkpoint, list_checkpoints, load_checkpoint
from physgym.training.launch import read_local_size
from physgym.training.ranks import Ranks, backend_of
from tests.support.commands import Command
from tests.support.memory_samples import MemorySource, linear_samples
from tests.support.repositories import ignoring

pytestmark = pytest.mark.slow

STEPS = 20  # of each process: two epochs of ten batches
PATIENCE = 250.0  # seconds, for the start of three interpreters on a machine that others use too


class Norm(nn.Module):
    """Has buffers that depend on the samples that were seen."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, force):
        return self.layers(force)


class At(Callback):
    """Does something after a step, in one of the processes or all."""

    def __init__(self, step, action, rank=None):
        self.step, self.action, self.rank = step, action, rank

    def batch_end(self, trainer, values):
        if trainer.step == self.step and self.rank in (None, trainer.ranks.rank):
            self.action(trainer)


class Watch(Callback):
    """Keeps the losses of the batches."""

    def __init__(self):
        self.losses = []

    def batch_end(self, trainer, values):
        self.losses.append(values["loss"])


def crash(trainer):
    raise RuntimeError("crash")


def made(network=None, *, samples=320, callbacks=(), lr=1e-2, bad=None, **options):
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(16,), dropout=options.pop("dropout", 0.0)) if network is None else network
    dataset = linear_samples(samples)
    if bad is not None:
        dataset.arrays["force"][bad] = np.nan
    names = "optimizer", "scheduler", "accumulate"
    chosen = {"lr": lr} | {name: options.pop(name) for name in names if name in options}
    given = {"epochs": 2, "batch_size": 16, "validation": 0, "progress": False, "seed": 3, **options}
    return Trainer(
        network, dataset, optimization=Optimization(network, **chosen), callbacks=[*callbacks], normalize=False, **given
    )


def told(trainer, **more) -> dict:
    """What a test wants to know of a training."""
    state = {name: value.clone() for name, value in trainer.predictor.state_dict().items()}
    history = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in trainer.history.epochs]
    place = {"epoch": trainer.epoch, "batch": trainer.batch, "step": trainer.step}
    return {"state": state, "history": history, **place, **more}


# --- what two processes do; each is called in both of them


def as_one(folder):
    watch = Watch()
    trainer = made(callbacks=[watch], validation=linear_samples(50, seed=5))
    trainer.fit()
    return told(trainer, losses=watch.losses)


def series(folder):
    """A dataset of episodes, in which each state is the last one with its force."""
    state, force, after = (Field(n, (2,), np.dtype("f4"), r) for n, r in zip(SERIES, ROLES, strict=True))
    rng, count, length = np.random.default_rng(0), 16, 8
    forces, states = rng.normal(size=(count, length, 2)), [rng.normal(size=(count, 2))]
    for step in range(length):
        states.append(0.8 * states[-1] + 0.3 * forces[:, step])
    table = np.stack(states, 1)
    arrays = dict(zip(SERIES, (table[:, :-1], forces, table[:, 1:]), strict=True))
    episode, step = np.divmod(np.arange(count * length), length)
    writer = SampleWriter(folder, SampleSpec([state, force, after]).with_feedback("next_state -> state"))
    rows = {name: value.reshape(-1, 2).astype("f4") for name, value in arrays.items()}
    writer.append(rows, episode=episode, step=step, seed=episode.astype("u8"))
    writer.close()


SERIES, ROLES = ("state", "force", "next_state"), ("input", "input", "target")


def unrolling(folder, **options):
    torch.manual_seed(0)
    dataset = SampleDataset(folder / "series")
    form = Unroll(curriculum={0: 2, 1: 3}, noise=0.1, push_forward=2, truncate=1)
    given = {"epochs": 2, "batches_per_epoch": 4, "validation": 0.25, "seed": 3, "progress": False, **options}
    return Trainer(MLP.from_spec(dataset.spec, hidden=(8,)), dataset, unroll=form, **given)


def unrolled(folder):
    trainer = unrolling(folder, batch_size=8)
    trainer.fit()
    return told(trainer)


def in_parts(folder):
    trainer = made(accumulate=3)
    trainer.fit()
    return told(trainer)


RESUMED = {"dropout": 0.3, "scheduler": lambda o: ReduceLROnPlateau(o, patience=0, threshold=0.99), "epochs": 3}


def undisturbed(folder):
    trainer = made(callbacks=[Checkpoints(folder / "undisturbed", steps=3)], **RESUMED)
    trainer.fit()
    return told(trainer, checkpoints=sum(isinstance(call, Checkpoints) for call in trainer._callbacks))


def interrupted_and_continued(folder):
    saving = Checkpoints(folder / "crashed", steps=3, keep=None)
    try:
        made(callbacks=[At(17, crash), saving], **RESUMED).fit()
    except RuntimeError:
        torch.manual_seed(1)
    trainer = made(callbacks=[Checkpoints(folder / "crashed", steps=3, keep=None)], resume=True, **RESUMED)
    began = trainer.step
    trainer.fit()
    return told(trainer, began=began)


def with_buffers(folder):
    trainer = made(Norm(), validation=linear_samples(100, seed=5), samples=101)
    trainer.fit()
    evaluated = trainer.evaluate(linear_samples(64, seed=6))
    return told(trainer, evaluated=evaluated)


class Heads(nn.Module):
    """Has a layer that nothing uses, one that only one of the processes uses, and a prediction outside the loss."""

    def __init__(self, sometimes=False):
        super().__init__()
        self.used, self.unused, self.other = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 1)
        self.here, self.sometimes = nn.Linear(6, 4), sometimes

    def forward(self, force):
        flat = force.flatten(1)
        here = self.sometimes and self.training and os.environ.get("RANK", "0") == "0"
        return self.used(flat) + (self.here(flat) if here else 0), self.other(flat).squeeze(1)


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, prediction, target):
        return (prediction - target).square().mean() * torch.exp(-self.log_scale) + self.log_scale


def layers_without_gradient(folder):
    found = {}
    for name, sometimes in {"never": False, "in_one": True}.items():
        torch.manual_seed(0)
        trainer = made(Heads(sometimes), outputs=["displacement", "energy"], loss_fields=["displacement"], accumulate=2)
        before = told(trainer)["state"]
        trainer.fit()
        found[name] = {"before": before, "after": told(trainer)}
    return found


def loss_with_weights(folder):
    torch.manual_seed(0)
    network, loss = MLP((3, 2), 4, hidden=()), Scaled()
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-2)
    options = {"epochs": 1, "batch_size": 16, "validation": 0, "progress": False, "seed": 3, "normalize": False}
    optimization = Optimization(network, loss=loss, optimizer=optimizer)
    Trainer(network, linear_samples(320), optimization=optimization, **options).fit()
    return {"scale": loss.log_scale.detach().clone()}


def few_to_validate_on(folder):
    """A single batch, and a single sample."""
    return {n: made(validation=linear_samples(n, seed=5), epochs=1).fit()["validation_loss"] for n in (1, 16, 17)}


def nan_in_one(folder):
    """The order says which process gets the bad sample."""
    messages, trained = [], {}
    try:
        made(bad=[40], session=folder / "raise").fit()
    except DivergedError as error:
        messages.append(str(error))
    for accumulate in (1, 3):
        watch = Watch()
        trainer = made(bad=[40], on_nonfinite="skip", accumulate=accumulate, callbacks=[watch])
        history = trainer.fit()
        trained[accumulate] = told(trainer, skipped=history.skipped, bad=[bool(np.isnan(x)) for x in watch.losses])
    return {"messages": messages, "once": trained[1], "in_parts": trained[3]}


def stopped_by_one(folder):
    found = {}
    for name, callback in {
        "batch": At(7, lambda trainer: trainer.stop("enough"), rank=1),
        "epoch": type("E", (Callback,), {"epoch_end": lambda s, t, v: t.ranks.rank == 1 and t.stop("enough")})(),
        "begin": type("B", (Callback,), {"epoch_begin": lambda s, t: t.ranks.rank == 1 and t.stop("enough")})(),
    }.items():
        trainer = made(callbacks=[callback], session=folder / f"stopped-{name}", epochs=3)
        history = trainer.fit()
        found[name] = [trainer.epoch, trainer.batch, trainer.step, history.stopped, history.interrupted]
    return found


def interrupted_in_one(folder):
    def interrupt(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal and torchrun both send it

    trainer = made(callbacks=[At(7, interrupt, rank=1)], session=folder / "interrupted", dropout=0.3)
    history = trainer.fit()
    again = made(session=folder / "interrupted", dropout=0.3, resume=True)
    again.fit()
    whole = made(dropout=0.3)
    whole.fit()
    return {"was": history.interrupted, "step": trainer.step, "again": told(again), "whole": told(whole)}


def second_order(folder):
    optimizer = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=5)
    trainer = made(optimizer=optimizer, lr=None, epochs=1)
    trainer.fit()
    return told(trainer)


def compiled(folder):
    trainer = made(accumulate=3, compile={"backend": "eager"})
    trainer.fit()
    return told(trainer)


def from_one_to_two(folder):
    trainer = made(callbacks=[Checkpoints(folder / "one", steps=3)], batch_size=16, resume=folder / "one", epochs=3)
    began = [trainer.epoch, trainer.batch, trainer.step, trainer.num_batches]
    trainer.fit()
    return told(trainer, began=began)


def others_see_another_checkpoint(folder):
    rank = int(os.environ["RANK"])
    path = find_checkpoint(folder / "crashed", ("epoch-0001", "last")[rank])
    try:
        made(resume=path, **RESUMED)
    except CheckpointError as error:
        return {"error": str(error)}
    return {}


def what_is_refused(folder):
    problems = []
    for change in ({"source": MemorySource(linear_samples()), "dataset": None, "batches_per_epoch": 2}, {}):
        dataset = change.pop("dataset", linear_samples(1))
        try:
            Trainer(MLP((3, 2), 4), dataset, epochs=1, validation=0, progress=False, **change).fit()
        except Exception as error:  # noqa: BLE001  # its kind is part of the answer
            problems.append(f"{type(error).__name__}: {error}")
    return {"problems": problems}


def worker_processes(folder):
    trainer = made(dropout=0.3, loader_workers=1, epochs=1)
    trainer.fit()
    plain = made(dropout=0.3, epochs=1)
    plain.fit()
    return {"workers": told(trainer), "plain": told(plain)}


def who_listens(folder):
    connections = psutil.Process().net_connections("inet")
    return {"listening": [connection.laddr.ip for connection in connections if connection.status == "LISTEN"]}


TOGETHER = [
    *(as_one, unrolled, in_parts, undisturbed, interrupted_and_continued, with_buffers, few_to_validate_on, nan_in_one),
    *(stopped_by_one, interrupted_in_one, second_order, compiled, from_one_to_two, others_see_another_checkpoint),
    *(what_is_refused, worker_processes, who_listens, layers_without_gradient, loss_with_weights),
]


def write(path: Path, found) -> None:
    """Data as JSON, tensors beside it."""
    tensors: dict = {}

    def plain(value, name):
        if isinstance(value, torch.Tensor):
            tensors[name] = value.contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {str(key): plain(item, f"{name}/{key}") for key, item in value.items()}
        return [plain(item, f"{name}/{i}") for i, item in enumerate(value)] if isinstance(value, list) else value

    text = json.dumps(plain(found, ""))
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(text)


def read(path: Path):
    tensors = load_file(path.with_suffix(".safetensors"))

    def rich(value):
        if isinstance(value, dict) and set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        if isinstance(value, dict):
            return {key: rich(item) for key, item in value.items()}
        return [rich(item) for item in value] if isinstance(value, list) else value

    return rich(json.loads(path.with_suffix(".json").read_text()))


def main(folder: Path) -> None:
    """Do all of it in one of two processes, since it takes long to start them."""
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    for scenario in TOGETHER:
        start = time.monotonic()
        try:
            found = scenario(folder)
        except BaseException:
            (folder / f"{scenario.__name__}-{rank}.failed").write_text(traceback.format_exc())
            raise
        write(folder / f"{scenario.__name__}-{rank}", {"found": found, "seconds": time.monotonic() - start})


def torchrun(module: str, *arguments, timeout: float = PATIENCE) -> subprocess.CompletedProcess:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--module", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False, start_new_session=True
    )


def together(folder: Path, *arguments) -> tuple[list[int], str, str]:
    """Run a command as two forks that train together, as torchrun tells it; their statuses, output and errors."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    files = [[folder / f"{rank}.{stream}" for rank in range(2)] for stream in ("out", "err")]
    commands = [
        Command(
            folder,
            *arguments,
            files=[files[0][rank], files[1][rank]],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        statuses = [command.wait(PATIENCE) for command in commands]
    finally:
        for command in commands:
            command.kill()
    said, errors = ("".join(file.read_text() for file in pair) for pair in files)
    return statuses, said, errors


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes found, by scenario, rank by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    series(folder / "series")
    one = made(callbacks=[At(26, crash), Checkpoints(folder / "one", steps=5)], epochs=3)
    with pytest.raises(RuntimeError, match="crash"):
        one.fit()
    done = torchrun("tests.training.test_ranks", folder)
    failed = {file.name: file.read_text() for file in folder.glob("*.failed")}
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{failed}"

    def found(scenario):
        return [read(folder / f"{scenario.__name__}-{rank}")["found"] for rank in range(2)]

    found.folder = folder
    return found


def identical(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one, other, **tolerance):
    torch.testing.assert_close(one, other, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


# --- tests


def test_two_processes_are_one_with_the_doubled_batch(ranks):
    first, second = ranks(as_one)
    assert first["step"] == second["step"] == STEPS
    assert identical(first["state"], second["state"])
    watch = Watch()
    alone = made(batch_size=32, callbacks=[watch], validation=linear_samples(50, seed=5))
    alone.fit()
    close(first["state"], told(alone)["state"])
    assert first["losses"] == second["losses"]  # what callbacks see is the mean of both
    close(first["losses"], watch.losses)
    for name in ("loss", "validation_loss", "samples", "lr", "epoch"):
        assert [epoch[name] for epoch in first["history"]] == [epoch[name] for epoch in second["history"]]
        close([epoch[name] for epoch in first["history"]], alone.history[name])


def test_two_processes_unroll_as_one(ranks):
    first, second = ranks(unrolled)
    assert identical(first["state"], second["state"])
    alone = unrolling(ranks.folder, batch_size=16)
    alone.fit()
    close(first["state"], told(alone)["state"])
    for name in ("loss", "validation_loss", "samples", "unroll"):  # the noise of each window is the same, too
        close([epoch[name] for epoch in first["history"]], alone.history[name])
    assert alone.history["unroll"] == [2, 3]


def test_gradients_in_parts_are_exchanged_once(ranks):
    first, second = ranks(in_parts)
    assert identical(first["state"], second["state"])
    close(first["state"], ranks(as_one)[0]["state"])


def test_a_compiled_network_is_trained_alike(ranks):
    first, second = ranks(compiled)
    assert identical(first["state"], second["state"])
    close(first["state"], ranks(in_parts)[0]["state"])


def test_a_resumed_training_of_two_ends_in_the_same_bits(ranks):
    """With dropout, and a scheduler that follows the loss over all samples, those before the interruption included."""
    whole, other = ranks(undisturbed)
    assert identical(whole["state"], other["state"])
    assert (whole["checkpoints"], other["checkpoints"]) == (1, 0)  # the first one alone writes
    assert len({epoch["lr"] for epoch in whole["history"]}) > 1
    for again in ranks(interrupted_and_continued):
        assert again["began"] == 15
        assert identical(again["state"], whole["state"])
        assert again["history"] == whole["history"] == other["history"]


def test_buffers_are_those_of_the_first_process(ranks):
    first, second = ranks(with_buffers)
    assert "network.layers.2.running_mean" in first["state"]
    assert identical(first["state"], second["state"])
    assert first["evaluated"] == second["evaluated"]
    assert [epoch["validation_loss"] for epoch in first["history"]] == [
        epoch["validation_loss"] for epoch in second["history"]
    ]


def test_there_may_be_less_to_validate_on_than_processes(ranks):
    first, second = ranks(few_to_validate_on)
    assert first == second
    assert np.isfinite(list(first.values())).all()


def test_layers_without_gradient_train_on(ranks):
    """Also where only one of the processes uses a layer, and where a prediction is not in the loss."""
    for name in ("never", "in_one"):
        first, second = (found[name] for found in ranks(layers_without_gradient))
        assert identical(first["after"]["state"], second["after"]["state"])
        changed = {part for part, was in first["before"].items() if not torch.equal(was, first["after"]["state"][part])}
        trained = ("used", "here") if name == "in_one" else ("used",)
        assert changed == {f"network.{layer}.{what}" for layer in trained for what in ("weight", "bias")}
    torch.manual_seed(0)
    alone = made(Heads(), outputs=["displacement", "energy"], loss_fields=["displacement"], batch_size=32)
    alone.fit()
    close(ranks(layers_without_gradient)[0]["never"]["after"]["state"], told(alone)["state"])


def test_weights_of_a_loss_are_the_same_in_all_processes(ranks):
    first, second = ranks(loss_with_weights)
    assert first["scale"] != 0
    assert torch.equal(first["scale"], second["scale"])


def test_nan_in_one_process_ends_or_skips_in_both(ranks):
    found = ranks(nan_in_one)
    named = ["the batch holds 16 samples." in one["messages"][0] for one in found]
    others = ["the batch holds samples of another process" in one["messages"][0] for one in found]
    assert sorted(named) == sorted(others) == [False, True]
    assert named != others
    for part in ("once", "in_parts"):
        first, second = (one[part] for one in found)
        assert first["skipped"] == second["skipped"] == 2
        assert first["bad"] == second["bad"]
        assert identical(first["state"], second["state"])
        assert all(value.isfinite().all() for value in first["state"].values())


def test_one_process_stops_all(ranks):
    first, second = ranks(stopped_by_one)
    places = {"batch": [0, 7, 7], "epoch": [1, 0, 10], "begin": [0, 0, 0]}
    for name, place in places.items():
        assert first[name] == [*place, "in another process", False]
        assert second[name] == [*place, "enough", False]
    stopped = find_checkpoint(ranks.folder / "stopped-batch")
    assert stopped.name == "epoch-0000-step-00000007"
    assert find_checkpoint(ranks.folder / "stopped-epoch").name == "epoch-0001"
    assert not list_checkpoints(ranks.folder / "stopped-begin" / "networks")


def test_ctrl_c_in_one_process_ends_all_after_the_step(ranks):
    for found in ranks(interrupted_in_one):
        assert found["was"]
        assert found["step"] == 7
        assert identical(found["again"]["state"], found["whole"]["state"])


def test_an_optimizer_that_looks_at_the_loss_sees_the_same_in_both(ranks):
    first, second = ranks(second_order)
    assert identical(first["state"], second["state"])


def test_a_checkpoint_of_one_process_is_continued_by_two(ranks):
    """Batch 5 of 20 in the second epoch becomes batch 2 of 10, which is the last whole one before it."""
    for found in ranks(from_one_to_two):
        assert found["began"] == [1, 2, 25, 10]
        assert found["step"] == 25 + 8 + 10
        assert [epoch["samples"] for epoch in found["history"]] == [320, 5 * 16 + 8 * 32, 320]
    assert identical(*(found["state"] for found in ranks(from_one_to_two)))


def test_a_checkpoint_of_two_processes_is_continued_by_one(ranks):
    path = next(path for path in list_checkpoints(ranks.folder / "crashed") if path.name == "epoch-0001-step-00000015")
    trainer = made(resume=path, **RESUMED)
    assert (trainer.epoch, trainer.batch, trainer.step, trainer.num_batches) == (1, 10, 15, 20)
    trainer.fit()
    assert [epoch["samples"] for epoch in trainer.history.epochs] == [320, 320, 320]
    close([trainer.history["loss"][0]], [ranks(undisturbed)[0]["history"][0]["loss"]])
    final = load_checkpoint(ranks.folder / "undisturbed")
    assert identical(dict(final.state_dict()), ranks(undisturbed)[1]["state"])


def test_processes_that_see_different_checkpoints_do_not_train(ranks):
    for rank, found in enumerate(ranks(others_see_another_checkpoint)):
        assert f"process {rank} continues at step" in found["error"]


def test_what_several_processes_cannot_do(ranks):
    for found in ranks(what_is_refused):
        source, few = found["problems"]
        assert source.startswith("ConfigError: several processes train from a dataset alone")
        assert few.startswith("DatasetError: 1 samples cannot be shared among 2 ranks")


def test_worker_processes_load_for_each(ranks):
    for found in ranks(worker_processes):
        assert identical(found["workers"]["state"], found["plain"]["state"])


def test_processes_of_one_machine_exchange_over_loopback(ranks):
    for found in ranks(who_listens):
        assert set(found["listening"]) <= {"127.0.0.1", "::1"}


def test_an_error_in_one_process_ends_all(tmp_path):
    start = time.monotonic()
    done = torchrun("tests.training.test_ranks", tmp_path, "crash")
    assert done.returncode != 0
    assert "RuntimeError: crash" in done.stderr
    assert time.monotonic() - start < PATIENCE
    assert (tmp_path / "begun-0").exists()
    assert not (tmp_path / "ended-0").exists()
    left = [process for process in psutil.process_iter() if str(tmp_path) in " ".join(_command(process))]
    assert not left


def test_a_configuration_has_one_session(tmp_path, monkeypatch, identity):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = {"environment": {"id": "physgym/Spring-v0"}, "session": "sessions/two", "training": {"epochs": 2}}
    Path("two.yaml").write_text(yaml.safe_dump(data))
    statuses, _, errors = together(tmp_path, "train", "two.yaml")
    assert 0 not in statuses
    assert errors.count("several processes train from a dataset alone: generate the samples first") == 2
    assert not Path("sessions").exists()
    physgym.generate("physgym/Spring-v0", "data", samples=640, num_workers=1, max_steps=32, progress=False)
    done = torchrun("physgym", "train", "two.yaml", "session=sessions/three", "dataset.path=data")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("session: ") == 1
    assert [path.name for path in Path("sessions").iterdir()] == ["three"]
    (run,) = json.loads(Path("sessions/three/record.json").read_text())["runs"]
    assert (run["outcome"], run["results"]["epoch"]) == ("completed", 2)
    manifest = json.loads((find_checkpoint("sessions/three") / "manifest.json").read_text())
    assert run["weights"] == manifest["files"]["network.safetensors"][1]
    statuses, _, errors = together(tmp_path, "resume", "sessions/three", "training.epochs=3")
    assert statuses == [0, 0], errors[-3000:]
    assert [path.name for path in Path("sessions").iterdir()] == ["three"]
    assert len(json.loads(Path("sessions/three/record.json").read_text())["runs"]) == 2


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def one_crashes(folder: Path) -> None:
    rank = os.environ["RANK"]
    (folder / f"begun-{rank}").touch()
    made(callbacks=[At(3, crash, rank=1)], epochs=10**6).fit()
    (folder / f"ended-{rank}").touch()


if __name__ == "__main__":
    one_crashes(Path(sys.argv[1])) if sys.argv[2:] == ["crash"] else main(Path(sys.argv[1]))


def test_processes_that_share_a_gpu_do_not_exchange_by_nccl(caplog):
    cuda = torch.device("cuda")
    assert backend_of(torch.device("cpu"), 4, 0) == "gloo"
    assert backend_of(cuda, 2, 2) == backend_of(cuda, 1, 4) == "nccl"
    assert not caplog.text
    assert backend_of(cuda, 2, 1) == "gloo"
    assert "2 processes share 1 GPUs" in caplog.text
    assert read_local_size({}) == 1
    assert read_local_size({"LOCAL_WORLD_SIZE": "3"}) == 3
    with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE='0' of a launcher must be an integer of at least 1"):
        read_local_size({"LOCAL_WORLD_SIZE": "0"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_group_of_one_process_trains_by_nccl():
    torch.distributed.init_process_group("nccl", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        ranks = Ranks("cuda")
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks._sum([1.0, 2.0]) == [1.0, 2.0]
        network = torch.nn.Linear(3, 2).cuda()
        network(torch.ones(4, 3, device="cuda")).sum().backward()
        want, ranks.size = network.weight.grad.clone(), 2  # so that it exchanges, with itself
        ranks.average(network.parameters())
        assert torch.allclose(network.weight.grad * 2, want)
    finally:
        torch.distributed.destroy_process_group()

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import physgym
from physgym.errors import ClosedError, ConfigError, DatasetError, SampleError, WaitTimeout, WorkerError
from physgym.generation import online as module
from physgym.generation.named_samples import NamedSamples, SampleNames
from physgym.generation.online import Online
from physgym.generation.stream import SampleStream
from physgym.sample import SampleSpec
from physgym.training import Trainer
from tests.generation.test_generate import Broken
from tests.generation.test_kill_generation import committed
from tests.generation.test_load_samples import DrivenLine
from tests.support import toys
from tests.support.processes import children

RULES = ("fifo", "firo", "reservoir")
LONG = 60.0  # seconds after which a test that waits gives up


class Gate:
    """A stream that gives as many samples as it may, five at a time; their numbers are their values."""

    def __init__(self, allowed=10**9, fault=None):
        self.spec = SampleSpec.from_env(toys.Line())
        self.allowed, self.fault, self.given = allowed, fault, 0
        self.stored, self.position = 0, None
        self.closed = self.cancelled = False
        self.changed = threading.Condition()

    def allow(self, count):
        """Let so many more through."""
        with self.changed:
            self.allowed += count
            self.changed.notify_all()

    def take(self, limit):
        with self.changed:
            self.changed.wait_for(lambda: self.given < self.allowed or self.fault or self.cancelled, LONG)
            if self.cancelled:
                raise ClosedError("cancelled")
            if self.given >= self.allowed and self.fault:
                raise self.fault
            numbers = np.arange(self.given, min(self.given + min(5, limit), self.allowed))
            self.given = int(numbers[-1]) + 1
        ones = np.ones((len(numbers), 3))
        samples = {"x": (numbers[:, None] * ones).astype("f4"), "y": numbers[:, None] * ones, "flag": ones[:, :2] > 0}
        samples["flag"] = samples["flag"].astype(np.int8)
        return NamedSamples(samples, SampleNames(numbers // 4, numbers % 4, (numbers // 4).astype("u8")))

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state.get("given", 0)

    def dataset(self):
        return None

    def cancel(self):
        with self.changed:
            self.cancelled = True
            self.changed.notify_all()

    def kill(self):
        self.cancel()

    def close(self):
        self.closed = True


def until(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def numbers(batch):
    np.testing.assert_array_equal(batch["x"], batch["y"].astype("f4"))
    return batch["y"][:, 0].astype(int).tolist()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "physgym-online"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not threads()


# --- who waits for whom


@pytest.mark.parametrize("rule", RULES)
def test_simulations_pause_only_while_the_buffer_takes_no_more(rule):
    gate = Gate()
    with Online(gate, capacity=40, minimum=10, rule=rule) as online:
        assert gate.given == 0  # before the first draw
        out = numbers(online.draw(8))
        free = len(set(out))  # either they have left, or may be replaced
        until(lambda: online.report().received == 40 + free)
        out += numbers(online.draw(30))
        free = len(set(out))
        until(lambda: online.report().received == 40 + free)
        time.sleep(0.1)
        report = online.report()
        assert report.received == 40 + free
        assert report.unseen == 40
        assert report.samples == 40
        assert report.paused > 0
        assert (report.drawn, report.seen) == (38, free)
    assert gate.closed


@pytest.mark.parametrize("rule", RULES)
def test_the_training_waits_only_for_the_minimum(rule):
    gate = Gate(allowed=19)  # the next five may come one by one
    with Online(gate, capacity=100, minimum=20, rule=rule) as online:
        got = []
        thread = threading.Thread(target=lambda: got.append(online.draw(4)), daemon=True)
        thread.start()
        until(lambda: online.report().received == 19)
        time.sleep(0.1)
        assert not got
        gate.allow(6)
        thread.join(LONG)
        assert len(got[0]["x"]) == 4
        if rule == "reservoir":  # which never has fewer again
            for _ in range(50):
                online.draw(7)
            assert online.report().drawn == 4 + 50 * 7
        report = online.report()
        assert 0.1 <= report.first <= report.waited <= report.seconds


@pytest.mark.parametrize("rule", RULES)
def test_when_the_production_has_ended_nobody_waits(rule):
    gate = Gate()
    with Online(gate, capacity=100, minimum=20, rule=rule, samples=13) as online:
        out = [numbers(online.draw(6)), numbers(online.draw(6))]
        assert gate.given == 13
        out.append(numbers(online.draw(6)))
        if rule == "reservoir":
            assert [len(batch) for batch in out] == [6, 6, 6]
            for _ in range(20):
                out.append(numbers(online.draw(6)))
            assert {number for batch in out for number in batch} == set(range(13))
        else:
            assert [len(batch) for batch in out] == [6, 6, 1]
            assert sorted(number for batch in out for number in batch) == list(range(13))
            for _ in range(2):
                with pytest.raises(
                    DatasetError, match="the simulations have ended after 13 samples, all of which were"
                ):
                    online.draw(6)


def test_a_wait_that_takes_too_long_says_what_it_waited_for():
    gate = Gate(allowed=7)
    with Online(gate, capacity=100, minimum=20, timeout=0.3) as online:
        with pytest.raises(WaitTimeout):
            online.draw(4)
        until(lambda: online.report().received == 7)  # also where its thread was slow to begin
        with pytest.raises(
            WaitTimeout, match=r"no sample came for \d s, .* waited for 20 in the buffer, which has 7; 7 c"
        ):
            online.draw(4)
        gate.allow(13)
        until(lambda: online.report().received == 20)
        assert len(online.draw(4)["x"]) == 4
        time.sleep(0.4)  # that none came for so long does not matter where none is waited for
        assert len(online.draw(4)["x"]) == 4


@pytest.mark.parametrize("rule", RULES)
def test_what_goes_wrong_in_the_simulations_is_raised_by_draws(rule):
    gate = Gate(allowed=12, fault=WorkerError("worker 0 died"))
    with Online(gate, capacity=100, minimum=20, rule=rule) as online:
        for _ in range(2):
            with pytest.raises(WorkerError, match="worker 0 died"):
                online.draw(4)
    assert gate.closed


# --- the end


@pytest.mark.parametrize("state", ["new", "full", "waiting", "failed", "ended"])
def test_it_can_be_closed_at_any_time(state):
    gate = Gate(allowed={"waiting": 30}.get(state, 10**9), fault=ValueError("no") if state == "failed" else None)
    if state == "failed":
        gate.allowed = 30  # then the fault
    online = Online(gate, capacity=20, minimum=10, rule="firo", samples=20 if state == "ended" else None)
    if state == "failed":
        with pytest.raises(ValueError, match="no"):
            until(lambda: online.draw(10) is None)
    elif state != "new":
        online.draw(10)
        until(lambda: {"full": online.report().received == 30}.get(state, gate.given >= 20))  # now it stays so
    online.close()
    online.close()
    assert gate.closed
    with pytest.raises(ClosedError, match="the online training is closed; make a new stream"):
        online.draw(5)
    report = online.report()
    time.sleep(0.05)
    assert online.report() == report  # nor does the time go on


def test_a_simulation_that_does_not_end_is_named(monkeypatch):
    monkeypatch.setattr(module, "STOP", 0.5)
    gate = Gate(allowed=20)
    gate.kill, gate.cancel = gate.cancel, lambda: None
    online = Online(gate, capacity=50, minimum=10)
    online.draw(10)
    until(lambda: gate.given == 20)
    online.close()  # `kill` ended it
    assert not threads()
    monkeypatch.setattr(module, "STOP", 0.1)
    gate = Gate(allowed=20)
    cancel = gate.cancel
    gate.cancel = gate.kill = lambda: None
    online = Online(gate, capacity=50, minimum=10)
    online.draw(10)
    until(lambda: gate.given == 20)
    with pytest.raises(WorkerError, match="did not end within 0 s, so that its thread still runs; use workers"):
        online.close()
    cancel()
    until(lambda: not threads())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"minimum": 11},
            "minimum=11 samples do not fit into a buffer of capacity=10; raise capacity or lower minimum",
        ),
        ({"minimum": 0}, "minimum must be at least 1, not 0"),
        ({"capacity": 0, "minimum": 1}, "minimum=1 samples do not fit"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"timeout": 0.0}, "timeout must be positive"),
        ({"rule": "lifo"}, "rule must be one of"),
        ({"capacity": 10**12}, "lower its capacity"),
    ],
)
def test_wrong_arguments_say_what_to_change(options, text):
    with pytest.raises(ConfigError, match=text):
        Online(Gate(), **{"capacity": 10, "minimum": 5, **options})


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_larger_than_the_buffer(rule):
    with Online(Gate(), capacity=10, minimum=5, rule=rule) as online:
        if rule == "reservoir":
            assert len(online.draw(30)["x"]) == 30
            return
        with pytest.raises(
            ConfigError, match=f"batch of 30 .* capacity=10, from which rule='{rule}' draws every sample"
        ):
            online.draw(30)
        assert len(online.draw(10)["x"]) == 10


# --- simulations


def make_online(env=toys.Line, *, rule="reservoir", capacity=200, minimum=50, samples=None, workers=1, **options):
    return Online(
        SampleStream(env, num_workers=workers, **options),
        capacity=capacity,
        minimum=minimum,
        rule=rule,
        samples=samples,
    )


def network():
    from physgym.nn import MLP

    return MLP((3,), (3,), hidden=[8])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_trains_while_simulations_run(tmp_path, rule, workers):
    online = make_online(rule=rule, workers=workers, path=tmp_path / "d", seed=4)
    run = Trainer(
        network(), source=online, produce="always", epochs=3, batch_size=16, batches_per_epoch=30, progress=False
    )
    history = run.fit()
    assert history["loss"][-1] < history["loss"][0]
    assert history["samples"] == [480, 480, 480]
    report = online.report()
    # what was drawn for the statistics is trained on as well
    assert report.drawn == 3 * 480
    assert history["online_received"][-1] <= report.received
    assert history["online_repeats"][-1] == pytest.approx(report.repeats)
    assert (report.repeats == report.most == 1) == (rule != "reservoir")
    assert 0 <= history["online_waiting"][-1] <= 1
    dataset = online.dataset()
    assert len(dataset) == online.stored >= report.received
    whole = physgym.generate(toys.Line, tmp_path / "whole", samples=len(dataset), seed=4, num_workers=0, progress=False)
    for name in dataset.spec:
        assert dataset[:][name].tobytes() == whole[:][name].tobytes()
    assert f"{rule}, " in str(report)
    assert "samples drawn" in str(report)


def test_batches_know_their_names(tmp_path):
    with make_online(path=tmp_path / "d", samples=120) as online:
        batches = [(online.draw(16), online.drawn) for _ in range(10)]
        until(lambda: online.stored == 120)
        dataset = online.dataset()
        place = {
            pair: row for row, pair in enumerate(zip(*(dataset.index(n) for n in ("episode", "step")), strict=True))
        }
        for batch, names in batches:
            rows = [place[pair] for pair in zip(names.episodes, names.steps, strict=True)]
            np.testing.assert_array_equal(batch["x"], dataset[:]["x"][rows])
            np.testing.assert_array_equal(names.seeds, dataset.index("seed")[rows])
        batch["x"][:] = 7  # a batch is a copy
        assert not (np.concatenate([online.draw(50)["x"] for _ in range(20)]) == 7).any()


@pytest.mark.parametrize(
    ("make", "options", "error", "text"),
    [
        (toys.NotANumber, {}, SampleError, "episode 0, step 0: .* holds 3 non-finite values"),
        (Broken, {"env_kwargs": {"fault": "raise"}}, ValueError, "the solver broke"),
        (Broken, {"env_kwargs": {"fault": "shape"}}, SampleError, "episode 2, step 3"),
    ],
)
def test_faults_of_environments_reach_the_training(make, options, error, text):
    online = make_online(make, **options)
    run = Trainer(network(), source=online, produce="always", epochs=1, batches_per_epoch=99, progress=False)
    with pytest.raises(error, match=text):
        run.fit()


def test_samples_that_are_not_finite_can_be_allowed():
    with make_online(toys.NotANumber, nonfinite="allow") as online:
        assert np.isnan(online.draw(5)["y"]).all()


# --- continued trainings


class Slow(toys.Line):
    """Endless, and counts the steps of all of its kind."""

    steps = 0

    def step(self, action):
        Slow.steps += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, False, info


def test_simulations_make_no_steps_beyond_the_samples_that_it_takes(tmp_path):
    Slow.steps = 0
    stream = SampleStream(Slow, path=tmp_path / "d", num_workers=0, max_steps=1000)
    with Online(stream, capacity=64, minimum=8, samples=24) as source:
        while source.report().received < 24:
            source.draw(8)
        assert len(source.dataset()) == 24
    assert Slow.steps <= 24 + 4


@pytest.mark.slow
def test_a_reservoir_begins_with_stored_samples_that_count_as_drawn(tmp_path):
    physgym.generate(toys.Line, tmp_path / "d", samples=100, num_workers=0, progress=False)
    stored = physgym.SampleDataset(tmp_path / "d")[:]["x"]
    with make_online(path=tmp_path / "d", resume=True, workers=0, capacity=60, minimum=60, samples=130) as online:
        first = online.draw(4000)
        until(lambda: online.report().received == 130)
        there = {row.tobytes() for row in first["x"]}
        old = [number for number, row in enumerate(stored) if row.tobytes() in there]
        assert 30 <= len(old) <= 60  # some new ones may have come before the draw
        assert max(old) > 60  # it is a selection of all
        assert min(old) < 40
        report = online.report()
        assert (report.received, report.came, report.samples) == (130, 30, 60)
        new = online.dataset()[:]["x"][100:]
        until(lambda: {row.tobytes() for row in online.draw(4000)["x"]} >= {row.tobytes() for row in new})
    for rule, total in (("fifo", 150), ("firo", 170)):  # where the stored ones had their turn
        with make_online(path=tmp_path / "d", resume=True, workers=0, rule=rule, samples=total) as online:
            batch = online.draw(50)
            assert len(batch["x"]) == 20
            assert online.report().received == total


@pytest.mark.slow
def test_a_training_goes_on_from_its_state(tmp_path):
    with make_online(path=tmp_path / "d", workers=0, capacity=60, minimum=20, samples=80) as online:
        for _ in range(30):
            online.draw(16)
        until(lambda: online.report().received == 80)
        state = json.loads(json.dumps(online.state_dict()))
        with pytest.raises(ConfigError, match="before its first draw"):
            online.load_state_dict(state)
    # more is stored than the state knows, as where a run was killed after its last checkpoint
    physgym.generate(toys.Line, tmp_path / "d", samples=110, num_workers=0, resume=True, progress=False)
    options = {"path": tmp_path / "d", "resume": True, "workers": 0, "capacity": 60, "minimum": 20, "samples": 120}
    with make_online(**options) as online:
        online.load_state_dict(state)
        online.draw(1000)
        until(lambda: online.report().received == 120)
        assert online.report().came == 40
        assert len(online.dataset()) == 120
    with make_online(**options) as online:
        online.load_state_dict({})  # from the beginning: every sample is new
        online.draw(5)
        until(lambda: online.report().unseen > 50)
        assert online.report().received <= 60 + online.report().seen
    with make_online(workers=0) as online, pytest.raises(ConfigError, match="not the state of an online training"):
        online.load_state_dict({"position": 3})
    with make_online(
        workers=0, samples=100
    ) as online:  # stores nothing: an empty buffer, and the samples after the place
        state["stream"]["source"] = online.stream.source
        online.load_state_dict(state)
        out = {tuple(pair) for _ in range(99) for pair in _pairs(online)}
        assert min(out) == (20, 0)
        assert online.report().received == 100


def _pairs(online):
    online.draw(16)
    return zip(online.drawn.episodes.tolist(), online.drawn.steps.tolist(), strict=True)


@pytest.mark.slow
def test_a_trainer_resumes(tmp_path):
    options = {"produce": "always", "batches_per_epoch": 10, "batch_size": 16, "progress": False}
    session = {"session": tmp_path / "session", "resume": True}
    first = make_online(path=tmp_path / "d")
    Trainer(network(), source=first, epochs=2, **session, **options).fit()
    second = make_online(path=tmp_path / "d", resume=True)
    history = Trainer(network(), source=second, epochs=4, **session, **options).fit()
    assert history["epoch"] == [1, 2, 3, 4]
    assert second.report().received > second.report().came > 0


def weights(run):
    return {name: value.numpy().tobytes() for name, value in run.predictor.state_dict().items()}


@pytest.mark.slow
def test_a_resumed_training_that_always_produces_ends_in_the_same_weights(tmp_path):
    options = {"produce": "always", "batches_per_epoch": 6, "batch_size": 7, "progress": False}

    def run(epochs, path=None, session=None):
        torch.manual_seed(1)
        source = SampleStream(toys.Line, num_workers=0, path=path, resume=True)
        trainer = Trainer(
            network(), source=source, epochs=epochs, session=session, resume=session is not None, **options
        )
        trainer.fit()
        return trainer

    want = weights(run(4))
    for path in (None, tmp_path / "d"):
        session = tmp_path / f"session{path is None}"
        run(2, path, session)
        assert weights(run(4, path, session)) == want
    assert len(physgym.SampleDataset(tmp_path / "d")) == 4 * 6 * 7


@pytest.mark.parametrize("produce", ["first_epoch", "always"])
def test_a_training_can_be_fed_by_stored_samples(tmp_path, produce):
    stored = physgym.generate(toys.Line, tmp_path / "stored", samples=40, num_workers=0, progress=False)
    source = SampleStream(DrivenLine, load=stored, path=tmp_path / "d", num_workers=0)
    options = {"epochs": 3, "batches_per_epoch": 4, "batch_size": 10, "progress": False}
    run = Trainer(network(), source=source, produce=produce, **options)
    history = run.fit()
    assert history["samples"] == [40 if produce == "always" else 36] * 3  # an episode is held out
    made = physgym.SampleDataset(tmp_path / "d")
    assert len(made) == (120 if produce == "always" else 40)
    np.testing.assert_array_equal(made[:]["x"][:40], -stored[:]["x"])


# --- kills and Ctrl-C

TRAINING = """
import sys, torch
from physgym.generation.stream import SampleStream
from physgym.generation.online import Online
from physgym.nn import MLP
from physgym.training import Trainer
from tests.support.toys import Slow
stream = SampleStream(Slow, path=sys.argv[1], num_workers=2, num_envs=4)
online = Online(stream, capacity=50, minimum=4, rule=sys.argv[2])
options = {"epochs": 10**6, "batches_per_epoch": 5, "batch_size": 4, "progress": False, "normalize": False}
run = Trainer(MLP((3,), (3,), hidden=[4]), source=online, produce="always", **options)
history = run.fit()
print("interrupted", history.interrupted, online.report().received, flush=True)
"""


def started(folder, rule):
    """A training in a process of its own, once it has stored something."""
    command = [sys.executable, "-c", TRAINING, str(folder), rule]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100  # a program that imports torch begins
    while not committed(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.02)
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_killed_training_leaves_its_samples_and_nothing_else(tmp_path):
    process = started(tmp_path / "d", "reservoir")
    process.kill()
    process.communicate(timeout=LONG)
    kept = len(physgym.SampleDataset(tmp_path / "d"))
    assert kept > 0
    with make_online(toys.Slow, path=tmp_path / "d", resume=True, minimum=4, samples=kept + 4) as online:
        online.draw(4)
        until(lambda: online.report().received == kept + 4)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_ends_training_and_simulations(tmp_path):
    process = started(tmp_path / "d", "fifo")  # whose training waits most of the time
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=LONG)
    assert process.returncode == 0, errors
    assert errors == ""
    interrupted, received = out.split()[1:]
    assert interrupted == "True"
    assert len(physgym.SampleDataset(tmp_path / "d")) >= int(received) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_program_that_forgets_to_close_ends_all_the_same():
    code = (
        "from physgym.generation.stream import SampleStream; from physgym.generation.online import Online\n"
        "from tests.support.toys import Slow\n"
        "online = Online(SampleStream(Slow, num_workers=1), capacity=50, minimum=2)\n"
        "online.draw(2)\n"
        "raise SystemExit(3)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert (process.returncode, process.stderr) == (3, "")


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["raise", "restart"])
def test_killed_workers(on_error):
    importlib.import_module("physgym.training")
    with make_online(toys.Slow, on_error=on_error, capacity=1000, minimum=1) as online:
        online.draw(1)
        for worker in children():  # not Python's own helper processes
            os.kill(worker, signal.SIGKILL)
        received = online.report().received
        if on_error == "raise":
            with pytest.raises(WorkerError, match="killed by SIGKILL"):
                until(lambda: online.draw(1) is None)
        else:
            until(lambda: online.report().received > received + 10)

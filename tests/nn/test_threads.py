"""How many threads predict, and that nothing else is changed by the choice."""

import threading

import numpy as np
import pytest
import torch

from physgym.nn import MLP, Predictor, threads
from physgym.nn.prepared import PreparedPredictor
from physgym.nn.threads import OneThread, chosen_threads
from physgym.sample import Field, SampleSpec


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3  # whatever was predicted in between
    torch.set_num_threads(before)


class Watched(torch.nn.Module):
    """Says in how many threads it computes, and how often it was called."""

    def __init__(self, *, draws=False, splits=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3))
        self.draws, self.splits, self.seen = draws, splits, []

    def forward(self, x):
        self.seen.append(torch.get_num_threads())
        y = x @ self.weight
        if self.splits:  # as a sum that is split among threads
            y = y + torch.get_num_threads() * 1e-6
        return y + torch.rand(3) if self.draws else y


def predictor(network) -> Predictor:
    spec = SampleSpec([Field("x", (3,), np.float32, "input"), Field("y", (3,), np.float32, "target")])
    found = Predictor(network, spec).eval()
    network.seen.clear()
    return found


SAMPLE = {"x": np.arange(3, dtype=np.float32)}


def test_a_small_network_predicts_in_one_thread_and_torch_keeps_its_own():
    network = Watched()
    prepared = PreparedPredictor(predictor(network))
    assert network.seen == []  # a copy was measured
    prepared.predict(SAMPLE)
    assert network.seen == [1]
    assert prepared.choice.alone
    assert prepared.seconds > 0


def test_a_network_that_fails_leaves_the_threads_as_they_were():
    network = Watched()
    prepared = PreparedPredictor(predictor(network))
    network.weight.data = torch.eye(2)
    with pytest.raises(RuntimeError):
        prepared.predict(SAMPLE)


def test_a_network_whose_bits_depend_on_the_threads_keeps_them():
    network = Watched(splits=True)
    found = predictor(network)
    wanted = found.predict(SAMPLE)["y"].tobytes()
    network.seen.clear()
    prepared = PreparedPredictor(found)
    assert prepared.predict(SAMPLE)["y"].tobytes() == wanted
    assert network.seen == [3]
    assert "other bits" in prepared.choice.reason


def test_batches_of_other_sizes_keep_the_threads():
    network = Watched()
    prepared = PreparedPredictor(predictor(network), 4)
    for count in (1, 4, 3):
        prepared.predict({"x": np.zeros((count, 3), np.float32)}, batched=True)
    assert network.seen == [1, 1, 3]


def test_several_threads_are_kept_where_they_are_faster(monkeypatch):
    seconds = iter([5e-3, 6e-3, 3e-3])  # of the first one, of one thread, of several
    monkeypatch.setattr(threads, "timed", lambda predict, most=0: next(seconds))
    network = Watched()
    assert not chosen_threads(predictor(network), 1).alone
    seconds = iter([5e-3, 6e-3, 5e-3])
    assert chosen_threads(predictor(network), 1).alone


def test_generators_are_left_as_they_were_and_draws_are_no_other_bits():
    network = Watched(draws=True)
    found, before = predictor(network), torch.get_rng_state()
    assert PreparedPredictor(found).choice.alone
    assert torch.equal(torch.get_rng_state(), before)


def test_the_choice_is_made_once_for_a_network_and_a_number_of_threads(monkeypatch):
    found, measured = predictor(Watched()), []
    monkeypatch.setattr(threads, "_compared", lambda *_: measured.append(torch.get_num_threads()) or _KEPT)
    prepared = PreparedPredictor(found)
    PreparedPredictor(found).predict(SAMPLE)
    assert measured == [3]
    torch.set_num_threads(2)
    prepared.predict(SAMPLE)
    assert measured == [3, 2]
    torch.set_num_threads(3)


_KEPT = threads.ThreadChoice(False, 1.0, "kept")


@pytest.mark.parametrize("how", ["hook", "copy"])
def test_what_would_hear_of_a_measurement_or_cannot_be_copied_is_left_alone(how):
    network = Watched()
    if how == "hook":
        network.register_forward_hook(lambda *_: None)
    else:
        network.lock = threading.Lock()
    prepared = PreparedPredictor(predictor(network))
    prepared.predict(SAMPLE)
    assert network.seen == [3]
    assert np.isnan(prepared.seconds)


def test_a_predictor_that_predicts_often_chooses_its_threads(monkeypatch):
    network, measured = Watched(), []
    usual = threads._compared
    monkeypatch.setattr(threads, "_compared", lambda *a: measured.append(torch.get_num_threads()) or usual(*a))
    found = predictor(network)
    for _ in range(5):
        found.predict(SAMPLE)
    assert network.seen == [3, 3, 1, 1, 1]
    found.predict({"x": np.zeros((2, 3), np.float32)}, batched=True)
    assert network.seen[5:] == [3]
    torch.set_num_threads(2)  # the user's choice is looked at anew
    found.predict(SAMPLE)
    torch.set_num_threads(1)
    found.predict(SAMPLE)
    assert measured == [3, 2]
    assert network.seen[6:] == [1, 1]
    torch.set_num_threads(3)
    found.chooses_threads = False
    found.predict(SAMPLE)
    assert network.seen[8:] == [3]


def test_a_predictor_whose_bits_depend_on_the_threads_keeps_them():
    network = Watched(splits=True)
    found = predictor(network)
    assert len({found.predict(SAMPLE)["y"].tobytes() for _ in range(6)}) == 1
    assert network.seen == [3] * 6


def test_the_bits_of_a_prediction_are_those_of_the_predictor():
    spec = SampleSpec([Field("x", (40,), np.float32, "input"), Field("y", (30,), np.float32, "target")])
    found = Predictor(MLP.from_spec(spec, hidden=(64, 64)), spec).eval()
    prepared, rng = PreparedPredictor(found, 7), np.random.default_rng(0)
    for count in (1, 2, 7):
        batch = {"x": rng.standard_normal((count, 40)).astype(np.float32)}
        assert prepared.predict(batch, batched=True)["y"].tobytes() == found.predict(batch, batched=True)["y"].tobytes()


def test_blocks_of_one_thread_may_be_nested():
    with OneThread():
        with OneThread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1

"""A network remembers what it was trained on, and what runs it compares its simulation and its episodes with that."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings

import pytest

import physgym
from physgym.data.learned import Learned
from physgym.errors import ChangedCode
from physgym.nn import MLP
from physgym.runner import RolloutEvaluation, Runner
from physgym.training import Trainer, load_checkpoint, save_checkpoint
from tests.data.test_two_codes import OPTIONS, own  # noqa: F401 - a fixture

OTHER = "what the network was trained on was made by other code .*module own_physics"


def trained(data, session=None, network=None, **options):
    network = MLP.from_spec(data.spec, hidden=(4,)) if network is None else network
    trainer = Trainer(network, data, epochs=1, progress=False, session=session, **options)
    trainer.fit()
    return trainer.predictor


@pytest.fixture
def session(own, tmp_path):  # noqa: F811
    """The folder of a training on samples of the simulation with factor 1, which are below "data"."""
    trained(physgym.generate(own(1), tmp_path / "data", **OPTIONS), tmp_path / "session", validation=None)
    return tmp_path / "session"


def kept_elsewhere(session):
    """What was saved again, without a session around it."""
    save_checkpoint(session.parent / "kept" / "one", load_checkpoint(session))
    shutil.rmtree(session)
    return load_checkpoint(session.parent / "kept" / "one")


WAYS = {
    "a folder": lambda session: session,
    "loaded": load_checkpoint,
    "loaded from one checkpoint": lambda session: load_checkpoint(next((session / "networks").iterdir())),
    "saved again": kept_elsewhere,
    "copied": lambda session: copy.deepcopy(load_checkpoint(session)),
    "pickled": lambda session: pickle.loads(pickle.dumps(load_checkpoint(session))),  # noqa: S301 - our own
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_compares_the_code_that_a_network_learned_from(own, session, way):  # noqa: F811
    predictor = WAYS[way](session)
    Runner(own(1), predictor).close()
    cls = own(3)
    with pytest.raises(ChangedCode, match=OTHER):
        Runner(cls, predictor)
    with pytest.raises(ChangedCode, match=OTHER):
        Runner(cls, predictor, num_workers=0)
    Runner(cls, predictor, allow_changed_code=True).close()
    Runner(cls, predictor, learned={}).close()


def test_a_checkpoint_of_before_says_what_its_session_says(own, session, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Learned, "to_json", lambda self: None)
    predictor = load_checkpoint(session)
    save_checkpoint(session / "networks" / "older", predictor)
    cls = own(3)
    with pytest.raises(ChangedCode, match=OTHER):
        Runner(cls, load_checkpoint(session / "networks" / "older"))


def test_a_network_that_was_trained_here_is_compared(own, tmp_path):  # noqa: F811
    data = physgym.generate(own(1), tmp_path / "data", **OPTIONS)
    predictor = trained(data, validation=0.5)
    Runner(own(1), predictor).close()
    cls = own(3)
    with pytest.raises(ChangedCode, match=OTHER):
        Runner(cls, predictor)
    data = physgym.generate(cls, tmp_path / "more", **OPTIONS)
    Runner(cls, trained(data, network=predictor)).close()  # which has learned from it meanwhile


@pytest.mark.parametrize("way", ["loaded", "copied"])
def test_episodes_that_a_network_was_trained_on_are_said(own, session, way):  # noqa: F811
    predictor, data = WAYS[way](session), physgym.SampleDataset(session.parent / "data")
    with (
        Runner(own(1), predictor, part="training", max_steps=5) as runner,
        pytest.warns(UserWarning, match="are drawn again by this run"),
    ):
        runner.run(5, progress=False)
    with Runner(None, predictor) as runner, pytest.warns(UserWarning, match="of the replayed samples are among"):
        runner.run(replay=data, progress=False)
    with Runner(own(1), predictor, max_steps=5) as runner:
        runner.run(5, progress=False)  # has episodes of its own


def test_what_was_held_out_is_no_overlap(own, tmp_path):  # noqa: F811
    data = physgym.generate(own(1), tmp_path / "data", **OPTIONS)
    trainer = Trainer(MLP.from_spec(data.spec, hidden=(4,)), data, epochs=1, validation=0.5, progress=False)
    trainer.fit()
    with Runner(None, trainer.predictor) as runner:
        runner.run(replay=trainer.validation, progress=False)
        with pytest.warns(UserWarning, match="of the replayed samples are among"):
            runner.run(replay=trainer.training, progress=False)


def test_a_training_on_windows_is_recorded_as_one_on_samples(own, tmp_path):  # noqa: F811
    data = physgym.generate(own(1), tmp_path / "data", **OPTIONS)
    windows = data.windows(1, 2)
    learned = Learned.of(windows)
    assert learned.code is not None
    assert learned.code == Learned.of(data).code
    assert len(learned.samples) == len(data)
    network, options = MLP.from_spec(windows.spec, hidden=(4,)), {"epochs": 1, "progress": False}
    with pytest.warns(UserWarning, match="episodes of the validation samples are among those of the training"):
        Trainer(network, windows, validation=windows, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(network, windows, validation=0.5, **options)


ROLLOUT = "the steps of the rollout were made by other code .*module own_physics"


def test_rollouts_in_training_of_another_code_are_said(own, tmp_path):  # noqa: F811
    data = physgym.generate(own(1), tmp_path / "data", **OPTIONS)
    trained(data, validation=None, rollout=RolloutEvaluation(own(1), 4))
    cls = own(3)
    network, rollout = MLP.from_spec(data.spec, hidden=(4,)), RolloutEvaluation(cls, 4)
    options = {"validation": None, "epochs": 2, "progress": False}
    with pytest.warns(UserWarning, match=ROLLOUT):  # before anything is done
        trainer = Trainer(network, data, rollout=rollout, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit()  # and once
    trainer = Trainer(network, data, rollout=lambda predictor: RolloutEvaluation(cls, 4)(predictor), **options)
    with pytest.warns(UserWarning, match=ROLLOUT):
        trainer.fit()


def test_an_evaluation_of_another_code_is_said(own, session):  # noqa: F811
    RolloutEvaluation(own(1), 4)(load_checkpoint(session))
    cls = own(3)
    with pytest.warns(UserWarning, match=ROLLOUT):
        RolloutEvaluation(cls, 4)(load_checkpoint(session))

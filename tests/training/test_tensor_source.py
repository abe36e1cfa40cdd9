"""Training from a simulation in tensors: the samples, their order, and what is resumed."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import physgym
from physgym.batched.env import BatchedEnv
from physgym.errors import CheckpointError, ClosedError, ConfigError, SampleError
from physgym.nn import MLP
from physgym.testing.sources import SampleSourceContract
from physgym.training import Checkpoints, TensorSource, Trainer
from tests.support.batched import Counting
from tests.support.tensors import Fading, Ragged

SMALL = {"size": 4}
HEAT = "physgym/HeatBatch-v0"


def source_of(env=HEAT, *, num_envs=6, **options):
    options = {"env_kwargs": SMALL if env == HEAT else {}, **options}
    return TensorSource(env, num_envs=num_envs, **options)


def trainer(source, **options):
    torch.manual_seed(0)
    net = MLP.from_spec(source.spec, hidden=(8,))
    known = {"source": source, "produce": "always", "batch_size": 32, "batches_per_epoch": 5, "progress": False}
    return Trainer(net, **{**known, "epochs": 2, **options})


def rows(batch):
    return {
        tuple(np.concatenate([batch[name][i].reshape(-1).numpy() for name in sorted(batch)]))
        for i in range(len(batch["source"]))
    }


class TestContract(SampleSourceContract):
    def make(self):
        return source_of()


class TestContractOfRowsThatEnd(SampleSourceContract):
    def make(self):
        return source_of(Fading, max_steps=5, nonfinite="reject")


def test_samples_are_those_of_a_dataset_each_once(tmp_path):
    made = physgym.generate(HEAT, tmp_path / "d", samples=240, num_envs=4, num_workers=0, env_kwargs=SMALL)
    with source_of() as source:
        batches = [source.draw(50) for _ in range(4)] + [source.draw(40)]
        assert len(source.drawn) == 40
        names = source.drawn
    drawn = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    stored = {name: torch.from_numpy(np.array(column)) for name, column in made.read(0, 240).items()}
    assert rows(drawn) == rows(stored)
    place = int(
        np.flatnonzero((made.index("episode") == names.episodes[0]) & (made.index("step") == names.steps[0]))[0]
    )
    assert np.array_equal(batches[-1]["source"][0].numpy(), stored["source"][place].numpy())
    assert made.index("seed")[place] == names.seeds[0]


def test_the_order_depends_on_the_seed_and_rounds_differ():
    with source_of() as one, source_of() as same, source_of(seed=1) as other:
        first, again, another = (source.draw(120)["source"] for source in (one, same, other))
        assert torch.equal(first, again)
        assert not torch.equal(first, another)
        places = one.drawn.steps * 6 + one.drawn.episodes
        one.draw(120)
        assert not np.array_equal(places, one.drawn.steps * 6 + one.drawn.episodes - 6)


def test_a_training_from_tensors_is_resumed_to_the_bit(tmp_path):
    whole = trainer(source_of(), epochs=4)
    whole.fit()
    half = trainer(source_of(), epochs=2, callbacks=[Checkpoints(tmp_path, every=7)])
    half.fit()
    rest = trainer(source_of(), epochs=4, resume=tmp_path)
    rest.fit()
    for one, other in zip(whole.predictor.parameters(), rest.predictor.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.history["loss"] == rest.history["loss"]
    with pytest.raises((CheckpointError, ConfigError), match="rows is 5, and was 6"):
        trainer(source_of(num_envs=5), epochs=4, resume=tmp_path)


def test_a_batch_is_trained_on_as_it_is_drawn(monkeypatch):
    def never(self, *args, **kwargs):
        raise AssertionError("a detour over arrays")

    for name in ("step", "reset", "draw_actions"):
        monkeypatch.setattr(physgym.envs.heat_batch.HeatBatch, name, never)
    source = source_of()
    run = trainer(source, normalize=False, epochs=1)
    seen = []
    draw = source.draw
    monkeypatch.setattr(source, "draw", lambda size: seen.append(draw(size)) or seen[-1])
    monkeypatch.setattr(torch.Tensor, "numpy", never)
    begin = run._loss.begin
    trained = []
    monkeypatch.setattr(run._loss, "begin", lambda batch, supply: trained.append(batch) or begin(batch, supply))
    monkeypatch.setattr(TensorSource, "_kept", lambda self, number, columns, valid: np.arange(6 * self.max_steps))
    run.fit()
    assert len(trained) == len(seen) == 5
    for one, other in zip(seen, trained, strict=True):
        assert all(one[name].data_ptr() == other[name].data_ptr() for name in other)


def test_rows_that_end_and_steps_that_are_rejected_give_no_samples(tmp_path):
    options = {"max_steps": 6, "nonfinite": "reject", "num_workers": 0, "num_envs": 7, "keep_rejected": True}
    made = physgym.generate(Fading, tmp_path / "d", episodes=40, **options)
    with source_of(Fading, max_steps=6, nonfinite="reject", num_envs=40) as source:
        batch = source.draw(len(made))
        assert rows(batch) == rows({name: torch.from_numpy(np.array(c)) for name, c in made.read(0, len(made)).items()})
        assert 0 < source.rejected == len(made.rejected.reasons) < 40 * 6 - len(made)  # the others came after the end
        assert source.metrics() == {"rejected": float(source.rejected)}
        assert source.drawn.steps.max() < 6
    with (
        source_of(Fading, max_steps=6, num_envs=40) as source,
        pytest.raises(SampleError, match=r"episode \d+, step \d"),
    ):
        source.draw(60)
    with (
        source_of(Fading, max_steps=2, env_kwargs={"fails": True}) as source,
        pytest.raises(SampleError, match="no valid"),
    ):
        source.draw(1)


def test_what_is_no_simulation_in_tensors_is_refused():
    for env in (Counting, "physgym/Spring-v0"):
        with pytest.raises(ConfigError, match=r"is no physgym\.batched\.simulation\.BatchedSimulation"):
            TensorSource(env)
    with pytest.raises(ConfigError, match="no limit of steps"):
        TensorSource(Fading)
    with pytest.raises(ConfigError, match="nonfinite"):
        source_of(nonfinite="maybe")
    source = source_of()
    with pytest.raises(ConfigError, match="not the state of a TensorSource"):
        source.load_state_dict({"episode": 3})
    source.close()
    with pytest.raises(ClosedError):
        source.draw(1)
    assert issubclass(physgym.envs.heat_batch.HeatBatch, BatchedEnv)


def test_validation_samples_of_the_same_episodes_are_found(tmp_path):
    made = physgym.generate(HEAT, tmp_path / "d", samples=40, num_envs=2, num_workers=0, env_kwargs=SMALL)
    with source_of() as source, pytest.warns(UserWarning, match="validation samples"):
        trainer(source, validation=made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_stays_on_a_gpu():
    source = source_of(env_kwargs={"size": 16, "device": "cuda"}, num_envs=64)
    batch = source.draw(32)
    assert batch["source"].device.type == "cuda"
    source.load_state_dict({})
    run = trainer(source, device="cuda", epochs=3)
    history = run.fit()
    assert history["loss"][-1] < history["loss"][0]


def test_episodes_end_where_those_of_a_dataset_do(tmp_path):
    options = {"max_steps": 6, "env_kwargs": {"max_episode_steps": 3}, "nonfinite": "reject"}
    made = physgym.generate(Fading, tmp_path, episodes=8, num_envs=4, num_workers=0, **options)
    with source_of(Fading, num_envs=8, **options) as source:
        assert source.max_steps == 3
        drawn = source.draw(len(made))
    assert rows(drawn) == rows({name: torch.from_numpy(np.array(c)) for name, c in made.read(0, len(made)).items()})
    with source_of(max_steps=100_000) as source:
        assert source.max_steps == gymnasium.spec(HEAT).max_episode_steps


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (lambda y: y[:, None], r"'y' of all rows has shape \(3, 1\), declared are \(3,\)"),
        (lambda y: y + 0.5, r"'y' is torch.float32, which torch.int64 does not hold"),
    ],
)
def test_a_field_of_another_shape_or_kind_is_an_error(column, text):
    with (
        source_of(Ragged, num_envs=3, max_steps=2, env_kwargs={"column": column}) as source,
        pytest.raises(SampleError, match=text),
    ):
        source.draw(1)

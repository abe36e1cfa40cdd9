"""Losses of an online training choose the parameters of simulations."""

import json

import numpy as np
import pytest

import physgym
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.runs import generate_samples
from physgym.generation.online import Online
from physgym.generation.stream import SampleStream
from physgym.nn import MLP
from physgym.samplers import Breed
from physgym.training import Trainer
from physgym.training.breeding import CHOICES, Breeding
from tests.support import toys


def trained(folder, breed, *, resume=False, epochs=2, **options):
    stream = SampleStream(
        toys.Tuned, path=folder / "data", num_workers=0, max_steps=3, parameters=breed, resume=resume, seed=1
    )
    online = Online(stream, capacity=64, minimum=16)
    trainer = Trainer(
        MLP.from_spec(stream.spec, hidden=(8,)),
        source=online,
        produce="always",
        batch_size=16,
        batches_per_epoch=60,
        epochs=epochs,
        session=folder / "session",
        resume=resume,
        progress=False,
        **options,
    )
    trainer.fit()
    return trainer, physgym.SampleDataset(folder / "data")


@pytest.mark.slow
def test_losses_drive_the_sampler_and_what_it_chose_is_recorded(tmp_path):
    breed = Breed()
    _, dataset = trained(tmp_path, breed)
    assert breed.updates >= 1
    chosen = dict(json.loads((tmp_path / "session" / CHOICES).read_text())["chosen"])
    columns = [column.tolist() for column in dataset.parameters.values()]
    for row, episode in enumerate(dataset.parameter_episodes.tolist()):
        assert chosen[episode] == [column[row] for column in columns]


@pytest.mark.slow
def test_a_continued_training_keeps_what_was_chosen(tmp_path):
    _, before = trained(tmp_path, Breed())
    breed = Breed()
    _, after = trained(tmp_path, breed, resume=True, epochs=3)
    for name, then in before.parameters.items():
        assert np.array_equal(after.parameters[name][: len(then)], then)
    assert breed.updates >= 1


def test_what_was_chosen_can_be_chosen_again(tmp_path):
    breed = Breed()
    space = toys.Tuned.parameter_space
    draw = breed.parameters(space, 0)
    first = [draw(episode) for episode in range(20)]
    breed.learn(dict(enumerate(np.linspace(0, 1, 20))))
    later = [draw(episode) for episode in range(20, 40)]
    breed.save(tmp_path / "choices.json")
    again = Breed(choices=tmp_path / "choices.json").parameters(space, 0)
    assert str([again(episode) for episode in range(40)]) == str(first + later)
    assert breed.updates == 1


def test_what_is_no_record_of_choices_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is no file that Breed\.save wrote"):
        Breed(choices=tmp_path / "other.json")


def test_what_deviates_counts():
    breeding = Breeding(Breed())
    breeding._note(np.array([0, 0, 1, 2]), np.array([1.0, 1.0, 1.0, 9.0]))
    assert breeding._sums[2] > 1
    assert breeding._sums[0] == breeding._sums[1] == 0


def test_a_training_without_a_buffer_refuses_it(tmp_path):
    with SampleStream(toys.Tuned, path=tmp_path / "d", num_workers=0, parameters="breed") as stream:
        network = MLP.from_spec(stream.spec, hidden=(8,))
        with pytest.raises(ConfigError, match="by the losses of a training, and there are none here"):
            Trainer(network, source=stream, produce="always", epochs=1, batches_per_epoch=2, progress=False)


@pytest.mark.parametrize("produce", ["before", "first_epoch", "always"])
def test_a_configuration_refuses_it_too(tmp_path, produce):
    data = {
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": str(tmp_path / "d"), "produce": produce},
        "sampler": {"parameters": "breed"},
    }
    with pytest.raises(ConfigError, match=r"sampler\.parameters: breed chooses parameters by the losses"):
        generate_samples(check_config(data, "test"))
    assert not (tmp_path / "d").exists()

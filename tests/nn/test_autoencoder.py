"""Autoencoders give pictures back, and their losses have the penalties of the papers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from physgym.errors import ConfigError
from physgym.nn import Autoencoder, AutoencoderOptimization, Predictor, build, describe
from physgym.sample import Field, SampleSpec
from physgym.training import Checkpoints, Trainer, load_checkpoint
from tests.support.memory_samples import MemorySamples, spec_of

SMALL = {"latent": 4, "widths": (4, 8)}


def spec(shape=(10, 13, 3), dtype="u1"):
    return SampleSpec(
        [
            Field("picture", shape, np.dtype(dtype), "input"),
            Field("speed", (2,), np.dtype("f4"), "input"),
            Field("reward", (), np.dtype("f8"), "target"),
        ]
    )


@pytest.mark.parametrize("shape", [(8, 8), (10, 13), (10, 13, 3), (1, 5, 1)])
@pytest.mark.parametrize("regularity", ["plain", "variational", "contractive"])
def test_pictures_of_any_size_come_back_in_their_shape(shape, regularity):
    torch.manual_seed(0)
    network = Autoencoder(shape, regularity=regularity, **SMALL)
    again = build(describe(network))
    assert again.config == network.config
    pictures = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    made = network.eval()(pictures)
    assert made.shape == pictures.shape
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 255
    latent = network.encode(pictures)
    assert latent.shape == (3, 4)
    torch.testing.assert_close(network.decode(latent), made)


def test_real_numbers_are_taken_as_they_are():
    network = Autoencoder.from_spec(spec((6, 6), "f4"), **SMALL)
    assert network.levels is None
    assert Autoencoder.from_spec(spec((6, 6), "i2"), **SMALL).levels is None
    assert Autoencoder.from_spec(spec((6, 6), "u2"), **SMALL).levels == 65535
    with torch.no_grad():
        network.decoder[-1].bias.fill_(1e3)
    assert (network.decode(torch.zeros(1, 4)) > 900).all()


def test_the_divergence_is_that_of_normal_distributions():
    network = Autoencoder((8, 8), regularity="variational", **SMALL).train()
    pictures = torch.randint(0, 256, (5, 8, 8), dtype=torch.uint8)
    network(pictures)
    mean, log_variance = network.encoder(network._scaled(pictures)).chunk(2, 1)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(network.penalty(), exact)
    torch.manual_seed(1)
    first = network(pictures)
    network.penalty()
    second = network(pictures)
    network.penalty()
    assert (first != second).any()  # drawn
    network.eval()
    torch.testing.assert_close(network(pictures), network.decode(mean), rtol=0, atol=0)


def exact_contraction(network, pictures):
    total = 0.0
    for picture in pictures:
        jacobian = torch.autograd.functional.jacobian(
            lambda x: network._encoded(x)[0][0], network._scaled(picture[None])
        )
        total += jacobian.square().sum()
    return total / len(pictures)


def test_the_contraction_is_the_squared_norm_of_the_jacobian():
    torch.manual_seed(2)
    whole = Autoencoder((6, 6), regularity="contractive", activation="tanh", projections=4, **SMALL)
    pictures = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8)
    exact = exact_contraction(whole, pictures)
    for training in (True, False):
        whole.train(training)(pictures)
        torch.testing.assert_close(whole.penalty(), exact)
    one = Autoencoder((6, 6), regularity="contractive", activation="tanh", **SMALL)
    one.load_state_dict(whole.state_dict())
    estimates = []
    for _ in range(100):
        one(pictures)
        estimates.append(one.penalty().item())
    spread = np.std(estimates) / len(estimates) ** 0.5
    assert spread > 0
    assert abs(np.mean(estimates) - exact.item()) < 4 * spread


def test_the_penalty_has_a_gradient_and_changes_no_generator_in_an_evaluation():
    for regularity in ("variational", "contractive"):
        network = Autoencoder((6, 6), regularity=regularity, activation="tanh", **SMALL).train()
        network(torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8))
        network.penalty().backward()
        assert network.encoder[0].weight.grad.abs().max() > 0
        assert all(parameter.grad is None for parameter in network.decoder.parameters())
        state = torch.get_rng_state()
        with torch.no_grad():
            network.eval()(torch.zeros(2, 6, 6, dtype=torch.uint8))
            assert network.penalty().isfinite()
        assert torch.equal(state, torch.get_rng_state())


def test_a_penalty_that_nobody_uses_is_an_error():
    network = Autoencoder((6, 6), regularity="variational", **SMALL).train()
    pictures = torch.zeros(2, 6, 6, dtype=torch.uint8)
    network(pictures)
    copy.deepcopy(network)(pictures)  # which has had no pass
    with pytest.raises(ConfigError, match=r"train it with physgym\.nn\.AutoencoderOptimization"):
        network(pictures)
    network.penalty()
    with pytest.raises(ConfigError, match="none since the last one"):
        network.penalty()
    with pytest.raises(ConfigError, match=r"pictures of shape \(6, 5\)"):
        network(pictures[:, :, :5])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"shape": (5,)}, "pictures have shape"),
        ({"widths": ()}, "widths"),
        ({"widths": 8}, "widths"),
        ({"regularity": "sparse"}, "regularity must be one of"),
        ({"latent": 0}, "latent must be at least 1"),
        ({"projections": 5}, "projections must be at most 4"),
        ({"activation": "no"}, "activation"),
        ({"levels": 0}, "levels must be positive"),
    ],
)
def test_wrong_arguments(arguments, text):
    with pytest.raises(ConfigError, match=text):
        Autoencoder(**{"shape": (8, 8), **SMALL, **arguments})


def test_what_is_no_autoencoder_of_one_field():
    with pytest.raises(ConfigError, match=r"one field of pictures as input and output.*\['reward'\]"):
        Autoencoder.from_spec(spec(), outputs=["reward"])
    with pytest.raises(ConfigError, match=r"\['picture', 'speed'\]"):
        Autoencoder.from_spec(spec(), inputs=["picture", "speed"])
    with pytest.raises(ConfigError, match="is for an Autoencoder, not for a Linear"):
        AutoencoderOptimization(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="weight must be"):
        AutoencoderOptimization(Autoencoder((6, 6)), weight=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("regularity", ["plain", "variational", "contractive"])
def test_it_learns_pictures_and_comes_back_from_its_checkpoint(tmp_path, regularity):
    grey = np.random.default_rng(0).integers(0, 256, (160, 1, 1, 1)).astype(np.uint8)  # one number says it all
    pictures = np.broadcast_to(grey, (160, 8, 8, 1)).copy()
    samples = MemorySamples({"picture": pictures}, spec_of({"picture": pictures}, {"picture": "input"}))
    torch.manual_seed(0)
    network = Autoencoder.from_spec(samples.spec, regularity=regularity, latent=2, widths=(8,))
    trainer = Trainer(
        network,
        samples,
        inputs=["picture"],
        outputs=["picture"],
        epochs=10,
        optimization=AutoencoderOptimization(network, lr=2e-2),
        validation=None,
        session=tmp_path / "s",
        callbacks=[Checkpoints(tmp_path / "s" / "networks", every=10)],
        record=False,
        progress=False,
    )
    history = trainer.fit()
    last = history.epochs[-1]
    assert last["reconstruction"] < 0.03 < 0.083 < history.epochs[0]["reconstruction"]  # which the mean grey has
    if regularity == "plain":
        assert last["penalty"] == 0
    else:
        assert last["penalty"] > 0
        assert last["loss"] > last["reconstruction"]
    predictor = load_checkpoint(tmp_path / "s")
    made = predictor.predict({"picture": pictures[:5]}, batched=True)["picture"]
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, trainer.predictor.predict({"picture": pictures[:5]}, batched=True)["picture"])
    assert isinstance(predictor, Predictor)

"""Latent vectors of a frozen autoencoder are the same where an agent acts and of what was recorded."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

import physgym
from physgym.errors import CheckpointError, ConfigError
from physgym.experiment import components
from physgym.nn import MLP, Autoencoder, AutoencoderOptimization, Optimization, Predictor, Transforms
from physgym.rl import AgentTrainer, load_agent
from physgym.rl.picture_comparison import PictureComparison, compare_pictures
from physgym.rl.preprocessing import Preprocessing
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, save_checkpoint
from tests.rl.test_preprocessing import CROP, GREY, RAW, STEERING, Road, drive
from tests.support.memory_samples import MemorySamples, spec_of


def autoencoder(path, shape=(8, 8), dtype="u1", **arguments):
    """Save an autoencoder as it begins, and return it."""
    torch.manual_seed(0)
    spec = SampleSpec([Field("observation", shape, np.dtype(dtype), "input")])
    network = Autoencoder.from_spec(spec, latent=3, widths=(4, 4), **arguments)
    transforms = Transforms()
    predictor = Predictor(network, spec, inputs=["observation"], outputs=["observation"], transforms=transforms)
    save_checkpoint(path, predictor)
    return predictor


def latent(path):
    return {"type": "LatentObservation", "arguments": {"checkpoint": str(path)}}


def test_recorded_pictures_have_the_latent_vectors_that_an_agent_saw(tmp_path):
    predictor = autoencoder(tmp_path / "networks" / "epoch-0001", regularity="variational")
    steps = [CROP, GREY, latent(tmp_path)]  # a session
    preprocessing = Preprocessing(steps, RAW, STEERING)
    env = physgym.Recorder(Road(), tmp_path / "a")
    rows = drive(preprocessing.wrap(env))
    env.close()
    seen = np.stack([row[0] for row in rows])
    assert seen.dtype == np.float32
    assert preprocessing.spaces(RAW, STEERING)[0] == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    dataset = physgym.SampleDataset(tmp_path / "a")
    recorded = dataset[:]["observation"][dataset[:]["acted"]]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = Preprocessing(preprocessing.config, RAW, STEERING).observations({"observation": recorded})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(again["observation"], seen)
    small = Preprocessing([CROP, GREY], RAW, STEERING).observations({"observation": recorded})["observation"]
    with torch.no_grad():
        np.testing.assert_allclose(
            seen, predictor.network.encode(torch.from_numpy(small)).numpy(), rtol=1e-4, atol=1e-5
        )
    assert len(np.unique(seen, axis=0)) == len(seen)


@pytest.mark.slow
def test_a_worker_encodes_as_this_process(tmp_path):
    autoencoder(tmp_path / "one")
    preprocessing = Preprocessing([CROP, GREY, latent(tmp_path / "one")])
    alone, _ = preprocessing.wrap(Road()).reset(seed=5)
    with physgym.SocketVectorEnv([lambda: preprocessing.wrap(Road())], num_workers=1) as envs:
        observations, _ = envs.reset(seed=5)
        np.testing.assert_array_equal(observations[0], alone)


@pytest.mark.slow
def test_an_agent_learns_from_latent_vectors_and_its_checkpoint_names_the_autoencoder(tmp_path):
    autoencoder(tmp_path / "eye")
    trainer = AgentTrainer(
        {"type": "sac", "arguments": {"network": {"type": "MLP", "arguments": {"hidden": [8]}}}},
        Road,
        steps=64,
        num_envs=2,
        num_workers=0,
        learning_starts=20,
        batch_size=8,
        preprocessing=[CROP, GREY, latent(tmp_path / "eye")],
        stack=2,
        normalize_observations=True,
        session=tmp_path / "s",
        record=False,
        progress=False,
    )
    trainer.fit()
    policy = load_agent(tmp_path / "s")
    named = policy.preprocessing.config[-1]["arguments"]
    assert named["checkpoint"] == str(tmp_path / "eye")
    seen, _ = policy.wrap(Road()).reset(seed=3)
    assert seen.shape == (3,)
    assert STEERING.contains(policy.act_preprocessed(seen))
    shutil.rmtree(tmp_path / "eye")
    autoencoder(tmp_path / "eye", regularity="contractive")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/eye is another one than that"):
        load_agent(tmp_path / "s").wrap(Road())


@pytest.mark.slow
def test_the_example(tmp_path):
    path = Path(__file__).parents[2] / "examples" / "autoencoder.py"
    assert len(path.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("autoencoder_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    env = module.main(out=tmp_path, episodes=2, epochs=1)
    assert env.reset(seed=0)[0].shape == (32,)
    env.close()
    assert [file.name for file in (tmp_path / "compared").iterdir()] == ["epoch-0001.png"]


def test_a_configuration_trains_one():
    assert {"Autoencoder"} <= set(components.NETWORKS)
    found = components.find_class(
        "AutoencoderOptimization", components.OPTIMIZATIONS, "optimization.type", Optimization
    )
    assert found is AutoencoderOptimization


def test_the_checkpoint_is_named_with_its_digest_and_no_other_one_takes_its_place(tmp_path):
    autoencoder(tmp_path / "one")
    config = Preprocessing([CROP, GREY, latent(tmp_path / "one")]).config
    named = config[2]["arguments"]
    assert named["checkpoint"] == str(tmp_path / "one")
    assert len(named["digest"]) == 64
    assert Preprocessing(config).config == config
    Preprocessing(config, RAW, STEERING)
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(CheckpointError, match=r"preprocessing.2: LatentObservation: there is no checkpoint at .*/one"):
        Preprocessing(config, RAW, STEERING)
    autoencoder(tmp_path / "one", regularity="variational")
    with pytest.raises(CheckpointError, match=rf"one is another one than that .*not {named['digest'][:12]}"):
        Preprocessing(config, RAW, STEERING)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Preprocessing([latent(tmp_path / "none")])
    with pytest.raises(ConfigError, match="needs a checkpoint, a text, not None"):
        Preprocessing(["LatentObservation"])


def test_what_does_not_fit_is_an_error(tmp_path):
    autoencoder(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"is of pictures of shape \(8, 8\) and dtype uint8, and the observations"):
        Preprocessing([CROP, latent(tmp_path / "one")], RAW, STEERING)
    spec = SampleSpec([Field("observation", (8, 8), np.dtype("u1"), "input")])
    network = MLP((8, 8), (8, 8), hidden=(2,))
    save_checkpoint(tmp_path / "mlp", Predictor(network, spec, inputs=["observation"], outputs=["observation"]))
    with pytest.raises(ConfigError, match="is the checkpoint of a MLP, and not that of an Autoencoder"):
        Preprocessing([CROP, GREY, latent(tmp_path / "mlp")], RAW, STEERING)


def test_pictures_are_compared_side_by_side(tmp_path):
    predictor = autoencoder(tmp_path / "one", shape=(6, 5, 3))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    shown = compare_pictures(predictor, pictures)
    made = predictor.predict({"observation": pictures}, batched=True)["observation"]
    assert shown.shape == (14, 12, 3)
    assert shown.dtype == np.uint8
    for row in range(2):
        np.testing.assert_array_equal(shown[8 * row : 8 * row + 6, :5], pictures[row])
        np.testing.assert_array_equal(shown[8 * row : 8 * row + 6, 7:], made[row])
    assert (shown[6:8] == 255).all()
    assert (shown[:, 5:7] == 255).all()
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        compare_pictures(autoencoder(tmp_path / "two", shape=(6, 5, 2)), pictures[..., :2])


@pytest.mark.slow
def test_they_are_written_while_it_is_trained(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 6, 5)).astype(np.uint8)
    samples = MemorySamples({"picture": pictures}, spec_of({"picture": pictures}, {"picture": "input"}))
    network = Autoencoder.from_spec(samples.spec, latent=2, widths=(2,))
    Trainer(
        network,
        samples,
        inputs=["picture"],
        outputs=["picture"],
        epochs=3,
        optimization=AutoencoderOptimization(network),
        callbacks=[PictureComparison(pictures[:2], tmp_path / "pictures", every=2)],
        progress=False,
    ).fit()
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["epoch-0002.png", "epoch-0003.png"]
    with Image.open(files[1]) as image:
        shown = np.asarray(image)
    np.testing.assert_array_equal(shown[:6, :5, 0], pictures[0])
    with pytest.raises(ConfigError, match="no picture to compare"):
        PictureComparison(pictures[:0], tmp_path)

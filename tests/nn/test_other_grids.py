"""A network on fields of another grid than that of its training samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import physgym
from physgym.errors import ConfigError
from physgym.nn import FNO, MLP, Changes, Predictor, Transforms
from physgym.sample import Field, SampleSpec
from physgym.training import load_checkpoint, save_checkpoint
from tests.support.memory_samples import MemorySamples, spec_of


def waves(size, count=12, offset=100.0):
    """Pairs of fields that are the same functions on every grid."""
    rng, x = np.random.default_rng(0), np.arange(size) / size
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    k = offset + np.sin(2 * np.pi * x[:, None] + phases) * np.cos(2 * np.pi * x)
    return {"k": k.astype(np.float32), "p": (1e5 * (k - offset) + 3e5).astype(np.float32)}


def samples_of(arrays):
    return MemorySamples(arrays, spec_of(arrays, {"k": "input", "p": "target"}))


def operator(samples, **options):
    torch.manual_seed(0)
    network = FNO.from_spec(samples.spec, modes=3, width=4, depth=2, dimensions=2)
    transforms = Transforms.normalization(samples, network=network, **options)
    return Predictor(network, samples.spec, transforms=transforms)


def test_a_neural_operator_gives_the_same_function_on_a_finer_grid():
    coarse, fine = samples_of(waves(16)), samples_of(waves(32))
    predictor = operator(coarse, pointwise_mean=False)
    finer = predictor.on(fine.spec)
    one, other = predictor.predict(coarse[:], batched=True)["p"], finer.predict(fine[:], batched=True)["p"]
    assert other.shape == (12, 32, 32)
    assert np.abs(other[:, ::2, ::2] - one).max() < 1e-3 * one.std()
    np.testing.assert_array_equal(predictor.on(coarse.spec).predict(coarse[:], batched=True)["p"], one)
    assert finer.network is predictor.network
    assert predictor.spec["k"].shape == (16, 16)


def test_what_was_learned_and_changes_go_with_it(tmp_path):
    coarse, fine = samples_of(waves(16)), samples_of(waves(32))
    network = FNO.from_spec(coarse.spec, modes=3, width=4, depth=2, dimensions=2)
    fed = SampleSpec([dataclasses.replace(coarse.spec["k"]), dataclasses.replace(coarse.spec["p"], feeds="k")])
    changes = Changes.of(fed, ["k"], ["p"], network=network)
    changes.get_buffer("scale_0").fill_(2.0)
    predictor = Predictor(network, fed, changes=changes)
    save_checkpoint(tmp_path / "c", predictor)
    again = load_checkpoint(tmp_path / "c")
    finer = again.on(SampleSpec([fine.spec["k"], dataclasses.replace(fine.spec["p"], feeds="k")]))
    assert finer.learned is again.learned
    one, other = (p.predict(a[:], batched=True)["p"] for p, a in ((again, coarse), (finer, fine)))
    assert np.abs(other[:, ::2, ::2] - one).max() < 1e-3 * np.abs(one).max()


def test_what_does_not_fit_is_named():
    coarse, fine = samples_of(waves(16)), samples_of(waves(32))
    with pytest.raises(ConfigError, match="pointwise_mean=False"):
        operator(coarse).on(fine.spec)
    predictor = operator(coarse, pointwise_mean=False)
    with pytest.raises(ConfigError, match=r"inputs names 'k', which the samples lack"):
        predictor.on(SampleSpec([fine.spec["p"]]))
    with pytest.raises(ConfigError, match=r"knows field 'p' in '', the samples have it in 'Pa'; convert them"):
        predictor.on(SampleSpec([fine.spec["k"], dataclasses.replace(fine.spec["p"], unit="Pa")]))
    with pytest.raises(ConfigError, match="cannot hold modes=3"):
        predictor.on(samples_of(waves(4)).spec)
    dense = Predictor(MLP.from_spec(coarse.spec, hidden=(4,)), coarse.spec)
    with pytest.raises(ConfigError, match="MLP"):
        dense.on(fine.spec)


def test_the_evaluation_on_another_grid_says_how(tmp_path):
    space = {"k": "input", "p": "target"}
    fields = [Field(name, (16, 16), "float32", role) for name, role in space.items()]
    with physgym.data.SampleWriter(tmp_path / "data", SampleSpec(fields)) as writer:
        rows = np.arange(3)
        writer.append(waves(16, 3), episode=rows, step=0 * rows, seed=rows.astype("u8"))
    dataset = physgym.SampleDataset(tmp_path / "data")
    predictor = operator(samples_of(waves(32)), pointwise_mean=False)
    with pytest.raises(ConfigError, match=r"another grid, the predictor for it: predictor\.on\(dataset\.spec\)"):
        physgym.evaluate(predictor, dataset, progress=False)
    report = physgym.evaluate(predictor.on(dataset.spec), dataset, metrics=["relative_l2"], progress=False)
    assert np.isfinite(report["relative_l2/p"])

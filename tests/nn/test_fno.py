from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from physgym.errors import ConfigError
from physgym.nn import FNO, Predictor, Transforms, build, describe
from physgym.nn.fno import SpectralConv
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, load_checkpoint, save_checkpoint
from tests.support.memory_samples import MemorySamples, spec_of

F4 = np.dtype("float32")
SMALL = {"modes": 3, "width": 6, "depth": 2, "projection": 8}


def fno(dimensions: int = 1, fed: int = 1, given: int = 1, **options) -> FNO:
    torch.manual_seed(0)
    return FNO(dimensions, fed, given, **{**SMALL, **options}).double()


def wave(size: int, dimensions: int = 1, channels: int = 1, periodic: bool = True) -> torch.Tensor:
    """Samples of a smooth function, shape (2, channels, *grid), the same function on every grid."""
    axis = torch.arange(size, dtype=torch.float64) / (size if periodic else size - 1)
    mesh = torch.meshgrid(*[axis] * dimensions, indexing="ij")
    phase = 2 * torch.pi * sum((i + 1) * x for i, x in enumerate(mesh))
    fields = [torch.stack([torch.sin(phase + c + s) for c in range(channels)]) for s in range(2)]
    return torch.stack(fields)


@pytest.mark.parametrize("options", [{}, {"padding": 0.2}, {"coordinates": False}])
@pytest.mark.parametrize("grid", [(5,), (16,), (7, 5), (6, 8), (5, 6, 7)])
def test_any_size_that_holds_the_modes(grid, options):
    network = fno(len(grid), 3, 2, **options)
    fields = torch.rand(2, *grid), torch.rand(2, 2, *grid)
    y = network(*fields)
    assert (y.shape, y.dtype) == ((2, 2, *grid), torch.float64)
    other = build(json.loads(json.dumps(describe(network)))).double()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*fields), y)
    assert torch.equal(network(*fields), y)


def test_spectral_convolution_is_a_matrix_for_each_mode():
    conv = SpectralConv(3, (4,)).double()
    weight = torch.complex(*conv.weight.detach())  # (mode, in, out)
    x = torch.rand(2, 3, 9, dtype=torch.float64)
    expected = torch.zeros(2, 3, 9, dtype=torch.complex128)
    coefficients = torch.fft.fft(x)
    for k in range(4):
        filtered = torch.einsum("bi,io->bo", coefficients[..., k], weight[k])
        expected[..., k] = filtered if k else filtered.real
        expected[..., -k % 9] = expected[..., k].conj()
    torch.testing.assert_close(conv(x), torch.fft.ifft(expected).real)


def test_spectral_convolution_in_two_dimensions_has_both_signs_of_frequency():
    conv = SpectralConv(1, (3, 2)).double()
    for along_x, along_y, kept in ((2, 1, True), (-2, 1, True), (3, 1, False), (1, 2, False), (-2, 0, True)):
        weight = conv.weight.detach()
        mode = (along_x + 2) * 2 + along_y  # the modes of the first axis run from -2 to 2
        x, y = torch.meshgrid(*[torch.arange(9, dtype=torch.float64) / 9] * 2, indexing="ij")
        phase = 2 * torch.pi * (along_x * x + along_y * y)
        got = conv(torch.cos(phase)[None, None])[0, 0]
        if not kept:
            torch.testing.assert_close(got, torch.zeros_like(got))
        elif along_y:
            real, imaginary = weight[:, mode, 0, 0]
            torch.testing.assert_close(got, real * torch.cos(phase) - imaginary * torch.sin(phase))
        else:  # both signs stand for themselves: the real part of their mean
            mirrored = 4 - (along_x + 2)
            real = (weight[0, mode, 0, 0] + weight[0, 2 * mirrored, 0, 0]) / 2
            imaginary = (weight[1, mode, 0, 0] - weight[1, 2 * mirrored, 0, 0]) / 2
            torch.testing.assert_close(got, real * torch.cos(phase) - imaginary * torch.sin(phase))


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("coordinates", [True, False])
def test_a_finer_grid_gives_the_same_function(dimensions, coordinates):
    network = fno(dimensions, 2, 1, coordinates=coordinates, activation="tanh")
    coarse, fine = (network(wave(size, dimensions, 2)) for size in (48, 96))
    again = (slice(None), slice(None), *(slice(None, None, 2),) * dimensions)
    torch.testing.assert_close(fine[again], coarse, atol=1e-9, rtol=0)
    assert (coarse - coarse.mean()).abs().max() > 1e-3


def test_a_finer_grid_of_a_padded_domain_gives_nearly_the_same_function():
    network = fno(padding=0.25)
    with torch.no_grad():
        for layer in network.spectral:
            layer.weight *= 30  # the share that looks across the grid
    coarse, fine = (network(wave(size, periodic=False)) for size in (65, 129))
    error = (fine[..., ::2] - coarse).abs().max() / coarse.std()
    assert error < 0.05
    assert (network(wave(65, periodic=False)[:, :, :33])[..., :8] - coarse[..., :8]).abs().max() > 2 * error


def test_a_periodic_domain_has_no_origin_without_coordinates():
    x = wave(16, 2)
    for coordinates, same in ((False, True), (True, False)):
        network = fno(2, coordinates=coordinates)
        rolled = network(x.roll((3, -5), (2, 3)))
        assert torch.allclose(rolled, network(x).roll((3, -5), (2, 3))) is same


def test_padding_separates_the_ends():
    def reach(padding: float) -> torch.Tensor:
        network = fno(padding=padding, modes=15, depth=1, coordinates=False, activation="tanh")
        torch.nn.init.constant_(network.spectral[0].weight[0], 1.0)  # a narrow peak around each point
        torch.nn.init.constant_(network.spectral[0].weight[1], 0.0)
        x = torch.rand(1, 40, dtype=torch.float64, requires_grad=True)
        gradient = torch.autograd.grad(network(x)[0, 0], x)[0][0].abs()
        return gradient[-1] / gradient[1]

    assert reach(0.5) < 0.5 * reach(0.0)


def test_gradients():
    network = fno(2, 1, 1, modes=2, width=2, depth=1, projection=2)
    x = torch.rand(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    parameters = [value for value in network.parameters() if value.requires_grad]

    def value(x, *weights):
        named = dict(zip(dict(network.named_parameters()), weights, strict=True))
        return torch.func.functional_call(network, named, (x,))

    assert torch.autograd.gradcheck(value, (x, *parameters))
    network(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters)


@pytest.mark.slow
def test_it_learns_what_a_convolution_cannot_reach():
    """A shift by a third of the domain, which is one number for each mode."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 4, 2)))
    grid = 2 * torch.pi * torch.arange(24) / 24
    fields = sum(x[:, k, :1] * torch.cos(k * grid) + x[:, k, 1:] * torch.sin(k * grid) for k in range(4))
    network = fno(modes=4, width=8, coordinates=False)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network(fields) - fields.roll(8, 1)).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * fields.var().item()


def test_numbers_become_constant_channels():
    network = fno(1, 3, 1)
    field, number, other = torch.rand(4, 9), torch.rand(4), torch.rand(4)
    stacked = torch.stack([number[:, None].expand(4, 9), field, other[:, None].expand(4, 9)], 1)
    assert torch.equal(network(number, field, other), network(stacked).squeeze(1))
    spec = SampleSpec([Field("nu", (), F4, "input"), Field("u", (9,), F4, "input"), Field("v", (9,), F4, "target")])
    assert FNO.from_spec(spec, **SMALL)(torch.rand(3), torch.rand(3, 9)).shape == (3, 9)
    with pytest.raises(ConfigError, match="none of the fields of this FNO has a grid"):
        FNO.from_spec(spec, outputs=["nu"])
    with pytest.raises(ConfigError, match="none of the fields of this FNO has a grid"):
        fno()(torch.rand(3))


def test_on_nodes():
    on_grid, on_nodes = fno(2, 3, 2), fno(2, 3, 2, nodes=(5, 6))
    field = torch.rand(4, 5, 6, 3, dtype=torch.float64)
    expected = on_grid(field.movedim(-1, 1)).movedim(1, -1).reshape(4, 30, 2)
    assert torch.equal(on_nodes(field.reshape(4, 30, 3)), expected)


def test_a_checkpoint_holds_it(tmp_path):
    rng = np.random.default_rng(0)
    spec = spec_of({name: rng.random((1, 8, 9), np.float32) for name in "xy"}, {})
    network = fno(2, 1, 1)
    predictor = Predictor(network, spec, inputs=["x"], outputs=["y"], transforms=Transforms())
    assert not any(value.is_complex() for value in network.state_dict().values())
    loaded = load_checkpoint(save_checkpoint(tmp_path / "one", predictor))
    assert all(value.dtype == torch.float64 for value in loaded.network.parameters())
    sample = {"x": rng.random((8, 9), np.float32)}
    np.testing.assert_array_equal(loaded.predict(sample)["y"], predictor.predict(sample)["y"])


def test_training_it_twice_gives_the_same_bits():
    rng = np.random.default_rng(0)
    x = rng.random((40, 12), np.float32)
    arrays = {"x": x, "y": np.roll(x, 3, 1)}
    samples = MemorySamples(arrays, spec_of(arrays, {"x": "input", "y": "target"}))

    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        trainer = Trainer(FNO.from_spec(samples.spec, **SMALL), samples, epochs=2, progress=False)
        trainer.fit()
        return trainer.predictor.network.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_under_autocast_the_transform_keeps_its_precision():
    network = fno().float()
    x = wave(9).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    y.float().square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())
    torch.testing.assert_close(y.float(), network(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 4}, "dimensions must be 1, 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"modes": 0}, "modes, width"),
        ({"modes": (3, 3)}, "modes must be one number or 1"),
        ({"width": 0}, "modes, width"),
        ({"depth": 0}, "modes, width"),
        ({"padding": -0.1}, "padding"),
        ({"padding": float("nan")}, "padding"),
        ({"activation": "gelo"}, "activation"),
        ({"nodes": (3, 3)}, "nodes must give 1"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FNO(**{"dimensions": 1, "in_channels": 1, "out_channels": 1, **options})


def test_errors_name_what_does_not_fit():
    with pytest.raises(ConfigError, match=re.escape("a grid of 4 points along axis 1 cannot hold modes=3")):
        fno(2)(torch.rand(2, 5, 4))
    fno(padding=0.25)(torch.rand(2, 4))  # the strip helps
    with pytest.raises(ConfigError, match=r"of 3 points and 1 of padding along axis 0.* at least 5"):
        fno(padding=0.25)(torch.rand(2, 3))
    with pytest.raises(ConfigError, match=r"3 channels together; this FNO was made for in_channels=1"):
        fno()(torch.rand(2, 3, 8))
    with pytest.raises(ConfigError, match=r"shape \(8,\) .* this FNO takes 2 axes"):
        fno(2)(torch.rand(2, 8))
    spec = SampleSpec([Field("u", (4,), F4, "input"), Field("v", (4,), F4, "target")])
    with pytest.raises(ConfigError, match="a grid of 4 points along axis 0 cannot hold modes=16"):
        Predictor(FNO.from_spec(spec), spec)
    with pytest.raises(ConfigError, match=r"shape \(2, 3, 4\).* this FNO takes 1 axes"):
        FNO.from_spec(SampleSpec([Field("u", (2, 3, 4), F4, "input"), Field("v", (4,), F4, "target")]))

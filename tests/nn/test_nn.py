from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from physgym.errors import ConfigError, SampleError
from physgym.nn import MLP, Predictor, RelativeL2, Transform, Transforms, UNet, build, describe, register
from physgym.sample import Field, SampleSpec

F4, F8, I8 = (np.dtype(name) for name in ("float32", "float64", "int64"))


def rebuilt(module):
    """The module built from its description as it stands in a file, with the same weights."""
    other = build(json.loads(json.dumps(describe(module))))
    other.load_state_dict(module.state_dict())
    return other


# --- MLP


@pytest.mark.parametrize(
    ("inputs", "outputs", "fed", "wanted"),
    [
        (3, 2, [(3,)], (2,)),
        ((4, 3), (5, 2), [(4, 3)], (5, 2)),
        ([(4, 3), (2,), ()], (2, 2, 2), [(4, 3), (2,), ()], (2, 2, 2)),
        ((), (), [()], ()),
        ([3], [1], [(3,)], (1,)),
    ],
)
def test_mlp_shapes(inputs, outputs, fed, wanted):
    network = MLP(inputs, outputs, hidden=(8,))
    values = [torch.rand(6, *shape) for shape in fed]
    assert network(*values).shape == (6, *wanted)
    torch.testing.assert_close(rebuilt(network)(*values), network(*values), rtol=0, atol=0)


def test_mlp_with_several_outputs_splits_in_order():
    network = MLP(3, [(2, 2), (), (5,)], hidden=(8,))
    x = torch.rand(6, 3)
    a, b, c = network(x)
    assert (a.shape, b.shape, c.shape) == ((6, 2, 2), (6,), (6, 5))
    flat = network.head(network.layers[0](x))
    torch.testing.assert_close(torch.cat([a.flatten(1), b[:, None], c], 1), flat)
    torch.testing.assert_close(rebuilt(network)(x)[2], c)


def test_mlp_concatenates_inputs_in_order_and_takes_integers():
    network = MLP([(2,), ()], 1, hidden=())
    vector, number = torch.tensor([[1, 2]]), torch.tensor([3])
    weights = network.head.weight[0]
    expected = weights @ torch.tensor([1.0, 2.0, 3.0]) + network.head.bias
    torch.testing.assert_close(network(vector, number)[0], expected)


def test_mlp_linear_skip_starts_as_a_linear_map():
    network = MLP(3, 2, hidden=(16,), linear_skip=True)
    x, y = torch.rand(2, 5, 3)
    torch.testing.assert_close(network(x) + 2 * network(y), network(x + 2 * y))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):  # the first step moves the head, from the second on the hidden layers follow
        before = network.layers[0][0].weight.clone()
        optimizer.zero_grad()
        (network(x) ** 2).sum().backward()
        optimizer.step()
    assert not torch.equal(before, network.layers[0][0].weight)


def test_mlp_residual_layers_add_their_input():
    network = MLP(3, 2, hidden=(8, 8, 8), residual=True, layer_norm=True)
    for layer in list(network.layers)[1:]:
        for part in layer:
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.weight)
                nn.init.zeros_(part.bias)
    x = torch.rand(4, 3)
    torch.testing.assert_close(network(x), network.head(network.layers[0](x)))
    with pytest.raises(ConfigError, match="one width"):
        MLP(3, 2, hidden=(8, 4), residual=True)


def test_mlp_blocks_skip_several_layers():
    network = MLP(3, 2, hidden=(8,) * 5, residual=True, block_layers=2)
    x = torch.rand(4, 3)
    first, *others = network.layers
    h = first(x)
    for one, two in (others[:2], others[2:]):
        h = h + two(one(h))
    assert torch.equal(network(x), network.head(h))
    assert torch.equal(rebuilt(network)(x), network(x))
    for count in (3, 5, 0):
        with pytest.raises(ConfigError, match=f"5 hidden layers are not one and whole blocks of block_layers={count}"):
            MLP(3, 2, hidden=(8,) * 5, residual=True, block_layers=count)


def test_mlp_dropout_is_for_training():
    network = MLP(3, 2, hidden=(64,), dropout=0.5)
    x = torch.rand(4, 3)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_mlp_layer_norm_normalizes_hidden_layers():
    network = MLP(3, 2, hidden=(64, 64), layer_norm=True)
    assert next(type(part) for part in network.layers[1]) is nn.LayerNorm
    assert all(not isinstance(part, nn.LayerNorm) for part in network.layers[0])


@pytest.mark.parametrize(
    "options", [{"activation": "gelo"}, {"dropout": 1.0}, {"hidden": (0,)}, {"input_shapes": (0,)}]
)
def test_mlp_refuses_nonsense(options):
    with pytest.raises(ConfigError):
        MLP(**{"input_shapes": 3, "output_shapes": 2, **options})


def test_mlp_from_spec():
    spec = SampleSpec([Field("a", (2, 3), F4, "input"), Field("b", (), F4, "input"), Field("c", (4,), F4, "target")])
    network = MLP.from_spec(spec, hidden=(5,))
    assert network(torch.rand(7, 2, 3), torch.rand(7)).shape == (7, 4)
    assert MLP.from_spec(spec, inputs=["c"], outputs=["a", "b"])(torch.rand(7, 4))[1].shape == (7,)
    with pytest.raises(ConfigError, match='no field has the role "target"'):
        MLP.from_spec(SampleSpec([Field("a", (2,), F4, "input")]))


# --- UNet


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("grid", [(13,), (1,), (16,), (7, 10), (8, 8), (9, 3, 4), (1, 2, 3)])
def test_unet_keeps_any_size(grid, norm):
    network = UNet(len(grid), 3, 2, depth=2, width=4, norm=norm)
    fields = torch.rand(2, *grid), torch.rand(2, 2, *grid)
    y = network(*fields)
    assert y.shape == (2, 2, *grid)
    assert torch.isfinite(y).all()
    network.eval()
    torch.testing.assert_close(rebuilt(network).eval()(*fields), network(*fields), rtol=0, atol=0)


def test_unet_without_channel_axis():
    network = UNet(2, 2, 1, depth=1, width=4)
    assert network(torch.rand(3, 5, 6), torch.rand(3, 5, 6)).shape == (3, 5, 6)
    assert network(torch.rand(3, 2, 5, 6)).shape == (3, 1, 5, 6)


def test_unet_widths_by_level():
    network = UNet(1, 1, 1, depth=2, width=(4, 6, 5))
    assert [up.weight.shape[:2] for up in network.up] == [(6, 4), (5, 6)]
    assert network(torch.rand(2, 9)).shape == (2, 9)
    doubled, listed = UNet(1, 1, 1, depth=2, width=4), UNet(1, 1, 1, depth=2, width=[4, 8, 16])
    listed.load_state_dict(doubled.state_dict())
    x = torch.rand(2, 9)
    assert torch.equal(rebuilt(listed)(x), doubled(x))


def test_unet_without_normalization_keeps_the_magnitude():
    torch.manual_seed(0)
    network = UNet(1, 1, 1, depth=4, width=16, norm="none")
    h = network.first(torch.randn(8, 1, 64))
    for down in network.down:
        h = down(network.pool(h))
    assert 0.3 < h.square().mean().sqrt() < 10


def test_unet_spreads_numbers_over_the_grid():
    network = UNet(2, 2, 1, depth=1, width=4)
    number, field = torch.rand(3), torch.rand(3, 5, 6)
    stacked = torch.stack([number[:, None, None].expand(3, 5, 6), field], 1)
    assert torch.equal(network(number, field), network(stacked).squeeze(1))
    with pytest.raises(ConfigError, match="none of the fields of this UNet has a grid"):
        network(number)


def test_unet_residual_adds_the_input():
    network = UNet(1, 3, 2, depth=1, width=4, residual=True)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    x = torch.rand(2, 3, 7)
    assert torch.equal(network(x), x[:, :2])
    with pytest.raises(ConfigError, match="residual"):
        UNet(1, 1, 2, residual=True)


def test_unet_on_nodes_equals_unet_on_the_grid():
    torch.manual_seed(0)
    on_grid = UNet(3, 3, 2, depth=1, width=4)
    on_nodes = UNet(3, 3, 2, depth=1, width=4, nodes=(4, 3, 2))
    on_nodes.load_state_dict(on_grid.state_dict())
    field = torch.rand(5, 4, 3, 2, 3)  # (batch, x, y, z, channels)
    expected = on_grid(field.movedim(-1, 1)).movedim(1, -1).reshape(5, 24, 2)
    torch.testing.assert_close(on_nodes(field.reshape(5, 24, 3)), expected)
    assert UNet(1, 1, 1, depth=1, width=4, nodes=(6,))(torch.rand(2, 6)).shape == (2, 6)


def test_unet_is_equivariant_on_a_periodic_domain():
    network = UNet(1, 1, 1, depth=2, width=4, boundary="circular").double()
    x = torch.rand(2, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x.roll(4, -1)), network(x).roll(4, -1))
    replicated = UNet(1, 1, 1, depth=2, width=4, boundary="zeros").double()
    assert not torch.allclose(replicated(x.roll(4, -1)), replicated(x).roll(4, -1))


def test_unet_padding_repeats_the_edge_or_wraps():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert UNet(1, 1, 1, depth=3)._padded(x).flatten().tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert UNet(1, 1, 1, depth=3, boundary="circular")._padded(x).flatten().tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def test_unet_reaches_across_the_grid():
    network = UNet(1, 1, 1, depth=3, width=4, norm="none", activation="tanh")
    x = torch.rand(1, 32, requires_grad=True)
    gradient = torch.autograd.grad(network(x)[0, 0], x)[0]
    assert gradient[0, 20].abs() > 0  # five convolutions without levels would see ten points


def test_unet_passes_details_around_the_levels():
    network = UNet(1, 1, 1, depth=2, width=4, norm="none", activation="tanh", boundary="circular")
    for up in network.up:
        nn.init.zeros_(up.weight)
    x = torch.rand(1, 16)
    y = network(x)[0]
    assert (y - y[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 4}, "dimensions"),
        ({"depth": -1}, "depth"),
        ({"width": 0}, "width=0"),
        ({"depth": 2, "width": (4, 8)}, r"width=\(4, 8\) one positive number or one for each of depth \+ 1 sizes"),
        ({"norm": "layer"}, "norm"),
        ({"boundary": "reflect"}, "boundary"),
        ({"nodes": (3, 3)}, "nodes"),
    ],
)
def test_unet_refuses_nonsense(options, message):
    with pytest.raises(ConfigError, match=message):
        UNet(**{"dimensions": 1, "in_channels": 1, "out_channels": 1, **options})


def test_unet_names_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"3 channels together.*in_channels=2"):
        UNet(1, 2, 1)(torch.rand(2, 3, 8))
    with pytest.raises(ConfigError, match=r"\(8,\).*2 axes"):
        UNet(2, 1, 1)(torch.rand(2, 8))
    with pytest.raises(ConfigError, match="(12,) or (12, channels)".replace("(", r"\(").replace(")", r"\)")):
        UNet(2, 1, 1, nodes=(3, 4))(torch.rand(2, 11))


# --- losses


def test_relative_l2():
    target = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]])
    prediction = target + torch.tensor([[[0.0, 0.5]], [[1.0, 0.0]]])
    assert RelativeL2()(prediction, target).item() == pytest.approx((0.1 + 1.0) / 2)
    zero = torch.zeros(2, 3, requires_grad=True)
    loss = RelativeL2()(zero, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(zero.grad).all()


# --- registry


def test_unregistered_modules_cannot_be_described():
    assert describe(nn.Linear(2, 2))["config"] is None
    with pytest.raises(
        ConfigError,
        match=r"'Missing' is not a registered module; there are \['Autoencoder', 'CNN', 'Changes', 'Compose'",
    ):
        build({"name": "Missing", "config": {}})
    with pytest.raises(ConfigError, match="does not take"):
        build({"name": "MLP", "config": {"width": 3}})


def test_a_name_belongs_to_one_class():
    with pytest.raises(ConfigError, match=r"already names physgym.nn.mlp.MLP"):
        register(type("MLP", (nn.Module,), {}))


# --- predictor

SPEC = SampleSpec(
    [
        Field("force", (4, 3), F4, "input", "N"),
        Field("young", (), F8, "input", "Pa"),
        Field("moved", (4, 3), F8, "target", "m"),
        Field("count", (2,), I8, "target"),
        Field("other", (9,), F4, "additional"),
    ]
)


class Constant(nn.Module):
    """Returns given values for every sample."""

    def __init__(self, *values):
        super().__init__()
        self.values = values
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, first, *others):
        result = tuple(self.scale * value.expand(len(first), *value.shape) for value in self.values)
        return result[0] if len(result) == 1 else result


def test_predictor_feeds_the_inputs_and_names_the_outputs():
    network = MLP.from_spec(SPEC, hidden=(8,))
    predictor = Predictor(network, SPEC)
    assert (predictor.inputs, predictor.outputs) == (("force", "young"), ("moved", "count"))
    assert set(predictor.spec) == {"force", "young", "moved", "count"}
    assert predictor.num_parameters == 13 * 8 + 8 + 8 * 14 + 14
    assert predictor.device == torch.device("cpu")
    sample = {"force": np.ones((4, 3), np.float32), "young": 2.0, "other": "ignored"}
    result = predictor.predict(sample)
    moved, _ = network(torch.ones(1, 4, 3), torch.tensor([2.0]))
    np.testing.assert_array_equal(result["moved"], moved[0].detach().double().numpy())
    assert {name: (value.shape, value.dtype) for name, value in result.items()} == {
        "moved": ((4, 3), F8),
        "count": ((2,), I8),
    }


def test_predict_takes_a_batch_and_read_only_arrays():
    predictor = Predictor(MLP.from_spec(SPEC, hidden=(8,)), SPEC)
    rng = np.random.default_rng(0)
    force, young = rng.random((5, 4, 3), np.float32), rng.random(5).astype(">f8")
    force.flags.writeable = False
    batch = predictor.predict({"force": force, "young": young}, batched=True)
    assert batch["moved"].shape == (5, 4, 3)
    single = predictor.predict({"force": force[3], "young": young[3]})
    np.testing.assert_allclose(single["moved"], batch["moved"][3], rtol=1e-5, atol=1e-6)
    backwards = predictor.predict({"force": force[::-1], "young": young[::-1]}, batched=True)
    np.testing.assert_allclose(backwards["moved"], batch["moved"][::-1], rtol=1e-5, atol=1e-6)


def test_predict_rounds_integer_fields():
    predictor = Predictor(Constant(torch.zeros(4, 3), torch.tensor([2.9999, -1.2])), SPEC)
    count = predictor.predict({"force": np.zeros((4, 3)), "young": 0.0})["count"]
    assert count.tolist() == [3, -1]


def test_predict_evaluates_without_gradient_and_restores_the_mode():
    frozen = nn.Dropout(0.5).eval()
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Dropout(0.5), frozen, nn.Unflatten(1, (4, 3)))
    predictor = Predictor(network, SPEC, inputs=["force"], outputs=["moved"])
    frozen.eval()
    sample = {"force": np.ones((4, 3), np.float32)}
    first, second = predictor.predict(sample)["moved"], predictor.predict(sample)["moved"]
    np.testing.assert_array_equal(first, second)
    assert predictor.training
    assert network[2].training
    assert not frozen.training


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"force": np.zeros((4, 3))}, r"needs field 'young', which is missing; there are \['force'\]"),
        ({"force": np.zeros((4, 2)), "young": 0.0}, r"field 'force' has shape \(4, 2\); .* for \(4, 3\)"),
        ({"force": np.zeros((1, 4, 3)), "young": 0.0}, r"field 'force' has shape \(1, 4, 3\)"),
    ],
)
def test_predict_names_a_wrong_sample(sample, message):
    predictor = Predictor(MLP.from_spec(SPEC, hidden=(8,)), SPEC)
    with pytest.raises(SampleError, match=message):
        predictor.predict(sample)


def test_predict_names_fields_of_unequal_length():
    predictor = Predictor(MLP.from_spec(SPEC, hidden=(8,)), SPEC)
    for counts in ((5, 4), (1, 3), (0, 2)):
        batch = {"force": np.zeros((counts[0], 4, 3)), "young": np.zeros(counts[1])}
        with pytest.raises(SampleError, match=rf"equally many samples; they hold .*{counts[0]}, 'young': {counts[1]}"):
            predictor.predict(batch, batched=True)


def test_a_network_of_the_wrong_output_shape_is_an_error_at_once():
    with pytest.raises(ConfigError, match=r"network MLP predicts field 'moved' with shape \(4, 2\).* \(4, 3\)"):
        Predictor(MLP((4, 3), (4, 2)), SPEC, inputs=["force"], outputs=["moved"])
    with pytest.raises(ConfigError, match=r"shape \(4, 3\) for a batch of 2"):
        Predictor(DropsBatch(), SPEC, inputs=["force"], outputs=["moved"])


class DropsBatch(nn.Module):
    def forward(self, x):
        return x.sum(0)


def test_a_network_of_the_wrong_input_shape_is_an_error_at_once():
    with pytest.raises(ConfigError, match=r"network MLP does not accept its input fields \{'force': \(4, 3\)\}"):
        Predictor(MLP((4, 2), (4, 3)), SPEC, inputs=["force"], outputs=["moved"])


def test_a_network_of_the_wrong_number_of_outputs_is_an_error():
    with pytest.raises(ConfigError, match=r"returned a Tensor for the fields \['moved', 'count'\]"):
        Predictor(MLP([(4, 3), ()], (4, 3)), SPEC)
    with pytest.raises(ConfigError, match=r"returned 2 outputs for the fields \['moved'\]"):
        Predictor(MLP([(4, 3), ()], [(4, 3), (2,)]), SPEC, outputs=["moved"])


def test_outputs_by_name():
    class ByName(nn.Module):
        def forward(self, force):
            return {"count": force[:, 0, :2], "moved": force + 1}

    predictor = Predictor(ByName(), SPEC, inputs=["force"])
    result = predictor.predict({"force": np.full((4, 3), 4.0)})
    assert (result["moved"] == 5).all()
    assert result["count"].tolist() == [4, 4]


def test_unknown_fields_are_named():
    network = MLP((4, 3), (4, 3))
    with pytest.raises(ConfigError, match=r"inputs names 'froce', which the samples lack; they have \['force'"):
        Predictor(network, SPEC, inputs=["froce"], outputs=["moved"])
    with pytest.raises(ConfigError, match=r'no field has the role "target"'):
        Predictor(network, SampleSpec([Field("force", (4, 3), F4, "input")]))


def test_the_three_hooks_stand_at_their_places():
    class Times(Transform):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, fields):
            return {name: value * self.factor for name, value in fields.items()}

    transforms = Transforms(before_prediction=Times(10.0), before_apply=Times(100.0))
    predictor = Predictor(nn.Identity(), SPEC, inputs=["force"], outputs=["moved"], transforms=transforms)
    ones = torch.ones(1, 4, 3)
    assert (predictor({"force": ones})["moved"] == 10).all()
    assert (predictor.predict({"force": ones[0].numpy()})["moved"] == 1000).all()


def test_a_double_network_computes_in_double():
    predictor = Predictor(MLP((4, 3), (4, 3), hidden=(8,)), SPEC, inputs=["force"], outputs=["moved"]).double()
    assert predictor.dtype == torch.float64
    assert predictor({"force": torch.rand(2, 4, 3)})["moved"].dtype == torch.float64


def test_a_prediction_does_not_depend_on_where_its_input_lies():
    torch.manual_seed(0)
    spec = SampleSpec([Field("x", (10,), np.dtype("f4"), "input"), Field("y", (10,), np.dtype("f4"), "target")])
    predictor = Predictor(nn.Linear(10, 10), spec)  # small enough for products whose bits depend on it
    x = np.random.default_rng(0).standard_normal((4, 10)).astype("f4")
    room, found = np.empty(40 + 32, "f4"), set()
    for start in range(32):
        placed = room[start : start + 40].reshape(4, 10)
        placed[...] = x
        found.add(predictor.predict({"x": placed}, batched=True)["y"].tobytes())
    assert len(found) == 1


def test_what_torch_exports_is_refused_with_a_remedy():
    spec = SampleSpec([Field("x", (3,), F4, "input"), Field("y", (2,), F4, "target")])
    exported = torch.export.export(nn.Linear(3, 2), (torch.zeros(4, 3),))
    for network, name in (
        (exported, "the ExportedProgram"),
        (exported.module(), "the network"),
        (nn.Sequential(nn.Identity(), exported.module()), "its part '1'"),
    ):
        with pytest.raises(
            ConfigError, match=rf"{name} was made by torch\.export: .*Pass the network that was exported"
        ):
            Predictor(network, spec)
    Predictor(torch.fx.symbolic_trace(nn.Linear(3, 2)), spec)  # which can be trained

"""Networks on grids: how shapes are read, several fields in and out, what a residual adds to, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export

from physgym.errors import ConfigError
from physgym.nn import FNO, MLP, Predictor, Transforms, UNet, build, describe
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer
from tests.support.memory_samples import MemorySamples, spec_of

F4 = np.dtype("f4")
UNET, SPECTRAL = {"depth": 1, "width": 4}, {"modes": 2, "width": 4, "depth": 1, "projection": 4}
NETWORKS = [(UNet, UNET), (FNO, SPECTRAL)]


def spec(inputs, outputs, **dimensions):
    return SampleSpec(
        [
            Field(name, shape, F4, role, dimensions=dimensions.get(name))
            for role, shapes in (("input", inputs), ("target", outputs))
            for name, shape in shapes.items()
        ]
    )


def predicted(module, fields, value=1.0):
    found = Predictor(module, fields).predict({name: np.full(f.shape, value) for name, f in fields.items()})
    return {name: array.shape for name, array in found.items()}


# --- dimensions and channels


@pytest.mark.parametrize(("kind", "options"), NETWORKS)
@pytest.mark.parametrize(
    ("fed", "given", "more", "said"),
    [
        ((12,), (12,), {}, "1-D grid 12, 1 channel in, 1 out"),
        ((8, 8), (8, 8), {"dimensions": 2}, "2-D grid 8 x 8, 1 channel in, 1 out"),
        ((8, 8), (8, 8), {"dimensions": 1, "channel_axis": "first"}, "1-D grid 8, 8 channels in, 8 out"),
        ((8, 8, 8), (8, 8, 8), {"dimensions": 3}, "3-D grid 8 x 8 x 8, 1 channel in, 1 out"),
        ((8, 8, 8), (8, 8), {"channel_axis": "last"}, "2-D grid 8 x 8, 8 channels in, 1 out, channels last"),
        ((6, 9), (2, 6, 9), {}, "2-D grid 6 x 9, 1 channel in, 2 out"),
        ((6, 9), (6, 9, 2), {}, "2-D grid 6 x 9, 1 channel in, 2 out, channels last"),
        ((2, 9, 9), (2, 9, 9), {"dimensions": 2}, "2-D grid 9 x 9, 2 channels in, 2 out"),
        ((5, 9, 9), (5, 9, 9), {"dimensions": 3}, "3-D grid 5 x 9 x 9, 1 channel in, 1 out"),
        ((1, 6, 9), (6, 9), {}, "2-D grid 6 x 9, 1 channel in, 1 out"),
        ((6, 9), (1, 6, 9), {}, "2-D grid 6 x 9, 1 channel in, 1 out"),
        ((9, 9, 2), (9, 9, 2), {"dimensions": 2, "channel_axis": "last"}, "2-D grid 9 x 9, 2 channels in, 2 out, ch"),
        ((24, 3), (24, 2), {"nodes": (4, 6)}, "2-D grid 4 x 6, 3 channels in, 2 out, nodes listed"),
        ((24,), (24, 1), {"nodes": (4, 6)}, "2-D grid 4 x 6, 1 channel in, 1 out, nodes listed"),
        ((24, 1), (24,), {"nodes": (4, 6)}, "2-D grid 4 x 6, 1 channel in, 1 out, nodes listed"),
    ],
)
def test_what_shapes_are_read_as_is_said_and_holds(kind, options, fed, given, more, said):
    fields = spec({"x": fed}, {"y": given})
    made = kind.from_spec(fields, **more, **options)
    assert predicted(made, fields) == {"y": given}
    assert Predictor(made, fields).summary.startswith(f"{kind.__name__}: {said}")
    rebuilt = build(json.loads(json.dumps(describe(made))))
    assert predicted(rebuilt, fields) == {"y": given}


@pytest.mark.parametrize(
    ("shape", "readings"),
    [
        (
            (2, 48, 48),
            ["dimensions=2: 2-D grid 48 x 48, 2 channels in, 2 out", "dimensions=3: 3-D grid 2 x 48 x 48, 1 ch"],
        ),
        (
            (2, 100),
            ["dimensions=1: 1-D grid 100, 2 channels in, 2 out", "dimensions=2: 2-D grid 2 x 100, 1 channel in"],
        ),
        ((9, 9, 2), ["channel_axis='last': 2-D grid 9 x 9, 2 channels in, 2 out", "dimensions=3: 3-D grid 9 x 9 x 2"]),
        (
            (8, 8),
            ["dimensions=1: 1-D grid 8, 8 channels in, 8 out", "dimensions=2: 2-D grid 8 x 8, 1 channel in, 1 out"],
        ),
        ((8, 8, 8), ["dimensions=2: 2-D grid 8 x 8, 8 ch", "channel_axis='last': 2-D grid 8 x 8, 8", "3-D grid 8 x 8"]),
        (
            (3, 3, 16),
            ["dimensions=2: 2-D grid 3 x 16, 3 ch", "channel_axis='last': 2-D grid 3 x 3, 16", "3-D grid 3 x"],
        ),
    ],
)
@pytest.mark.parametrize(("kind", "options"), NETWORKS)
def test_shapes_that_can_be_read_in_several_ways_are_asked_about(kind, options, shape, readings):
    fields = spec({"uv": shape}, {"uv_next": shape})
    with pytest.raises(ConfigError, match=rf"ways by a {kind.__name__}.*Say which: dimensions=") as error:
        kind.from_spec(fields, **options)
    for reading in readings:
        assert reading in str(error.value)


def test_declared_dimensions_settle_it():
    declared = spec({"uv": (2, 9, 9)}, {"uv_next": (2, 9, 9)}, uv=2)
    assert UNet.from_spec(declared, **UNET).dimensions == 2
    with pytest.raises(ConfigError, match="'uv' is declared with dimensions=2, the UNet is made with 3"):
        UNet.from_spec(declared, dimensions=3, **UNET)
    with pytest.raises(ConfigError, match=r"'uv' is declared with dimensions=2, the UNet is made with 3"):
        UNet.from_spec(spec({"a": (2, 9, 9), "uv": (2, 9, 9)}, {"y": (2, 9, 9)}, uv=2, a=3), **UNET)
    kept = SampleSpec.from_json(json.loads(json.dumps(declared.to_json())))
    assert UNet.from_spec(kept, **UNET).in_channels == 2


@pytest.mark.parametrize(("kind", "options"), NETWORKS)
@pytest.mark.parametrize(
    ("fed", "given", "declared"),
    [
        ((8, 8, 8), (8, 8, 8), 2),
        ((3, 3, 16), (3, 3, 16), 2),
        ((16, 3, 3), (16, 3, 3), 2),
        ((3, 16, 3), (3, 16, 3), 2),
        ((8, 8), (8, 8), 1),
        ((8, 8), (8, 8, 8), None),
        ((3, 3), (3, 3, 3), None),
    ],
)
def test_as_many_channels_as_points_are_asked_about(kind, options, fed, given, declared):
    fields = spec({"x": fed}, {"y": given}, **({} if declared is None else {"x": declared}))
    with pytest.raises(ConfigError, match=r'can be read in 2 ways.*channel_axis="first" or "last"'):
        kind.from_spec(fields, **options)
    for axis, grid in (("first", given[1:]), ("last", given[:-1])):
        made = kind.from_spec(fields, channel_axis=axis, **options)
        assert made.channel_axis == axis
        assert f"{len(grid)}-D grid {' x '.join(map(str, grid))}, " in Predictor(made, fields).summary


def test_fewer_channels_than_points_are_first():
    assert UNet.from_spec(spec({"x": (2, 9, 9)}, {"y": (2, 9, 9)}, x=2), **UNET).channel_axis == "first"


def test_more_channels_than_points_are_asked_about():
    fields = spec({"x": (9, 9, 2)}, {"y": (9, 9, 2)})
    with pytest.raises(ConfigError, match=r'can be read in 2 ways.*channel_axis="first" or "last"'):
        UNet.from_spec(fields, dimensions=2, **UNET)
    assert UNet.from_spec(fields, dimensions=2, channel_axis="first", **UNET).in_channels == 9
    with pytest.raises(ConfigError, match="do not lie on one grid of 2 axes"):
        UNet.from_spec(spec({"x": (8, 9)}, {"y": (9, 8)}), dimensions=2, **UNET)


def test_channels_last_equals_channels_first():
    first, last = UNet(2, 3, 2, **UNET), UNet(2, 3, 2, channel_axis="last", **UNET)
    last.load_state_dict(first.state_dict())
    x = torch.rand(4, 3, 6, 7)
    assert torch.equal(last(x.movedim(1, -1)), first(x).movedim(1, -1))


def test_the_start_of_a_training_says_what_was_built(capsys):
    rng = np.random.default_rng(0)
    arrays = {"feed": rng.random((20, 6, 7)), "uv": rng.random((20, 2, 6, 7)), "next": rng.random((20, 2, 6, 7))}
    samples = MemorySamples(arrays, spec_of(arrays, {"feed": "input", "uv": "input", "next": "target"}))
    Trainer(UNet.from_spec(samples.spec, residual=True, **UNET), samples, epochs=1).fit()
    said = "UNet: 2-D grid 6 x 7, 3 channels in, 2 out; adds uv to next; fed by order: feed, uv\n"
    assert capsys.readouterr().err.startswith(said)
    assert Predictor(nn.Flatten(), spec({"x": (2, 3)}, {"y": (6,)})).summary == "Flatten: x (2, 3) to y (6,)"


# --- several fields


@pytest.mark.parametrize(("kind", "options"), NETWORKS)
def test_several_fields_in_and_out(kind, options):
    outputs = {"p": (6, 9), "t": (1, 6, 9), "u": (2, 6, 9)}
    fields = spec({"a": (3, 6, 9), "mask": (6, 9), "nu": ()}, outputs)
    made = kind.from_spec(fields, **options)
    assert predicted(made, fields) == outputs
    assert (made.in_channels, made.out_channels) == (5, 4)
    again = build(json.loads(json.dumps(describe(made))))
    again.load_state_dict(made.state_dict())
    x = torch.rand(2, 3, 6, 9), torch.rand(2, 6, 9), torch.rand(2)
    for one, other in zip(made(*x), again(*x), strict=True):
        assert torch.equal(one, other)
    whole = kind(2, 5, 4, **options)
    whole.load_state_dict(made.state_dict())
    assert torch.equal(torch.cat([made(*x)[0][:, None], *made(*x)[1:]], 1), whole(*x))
    nodes = spec({"x": (54, 2)}, {"u": (54, 3), "p": (54,)})
    assert predicted(kind.from_spec(nodes, nodes=(6, 9), **options), nodes) == {"u": (54, 3), "p": (54,)}


def test_channels_of_unlike_size_are_learned_together():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8, 8)).astype("f4")
    arrays = {"x": x, "y": np.stack([x, 1e5 * (1 + 0.5 * x)], 1).astype("f4")}
    samples = MemorySamples(arrays, spec_of(arrays, {"x": "input", "y": "target"}))
    torch.manual_seed(0)
    network = UNet.from_spec(samples.spec, depth=0, width=8, norm="none")
    trainer = Trainer(network, samples, epochs=15, batch_size=10, progress=False, validation=None)
    assert trainer.predictor.transforms.before_apply.transform.scale == {"y": "channel"}
    trainer.fit()
    error = trainer.predictor.predict({"x": x}, batched=True)["y"] - arrays["y"]
    relative = np.sqrt((error**2).sum((0, 2, 3)) / (arrays["y"] ** 2).sum((0, 2, 3)))
    assert relative.max() < 1  # with one scale for both channels the first one is off by hundreds


# --- residuals


def adds(module):
    """The network without anything but its residual."""
    nn.init.zeros_(module.head.weight)
    nn.init.zeros_(module.head.bias)
    return module


VALUES = {"feed": np.full((6, 7), 111.0), "kill": np.full((6, 7), 222.0), "uv": np.full((2, 6, 7), 7.0)}
REACTION = spec({name: value.shape for name, value in VALUES.items()}, {"uv_next": (2, 6, 7)})


@pytest.mark.parametrize("residual", [True, "uv", {"uv_next": "uv"}, [2, 3]])
def test_a_residual_adds_the_input_that_corresponds(residual):
    made = adds(UNet.from_spec(REACTION, residual=residual, **UNET))
    assert (Predictor(made, REACTION).predict(VALUES)["uv_next"] == 7).all()
    direct = adds(UNet(2, 4, 2, residual=True, **UNET))  # its fields resolve it
    assert (Predictor(direct, REACTION).predict(VALUES)["uv_next"] == 7).all()
    channels = [0, 1] if residual == [2, 3] else residual
    other = adds(UNet.from_spec(REACTION, inputs=["uv", "kill", "feed"], residual=channels, **UNET))
    assert (Predictor(other, REACTION).predict(VALUES)["uv_next"] == 7).all()  # whatever the order of the predictor


def test_a_residual_of_the_same_name_or_of_none():
    same = spec({"a": (6, 7), "b": (6, 7)}, {})
    made = adds(UNet.from_spec(same, inputs=["a", "b"], outputs=["b"], dimensions=2, residual=True, **UNET))
    predictor = Predictor(made, same, inputs=["a", "b"], outputs=["b"])
    assert (predictor.predict({"a": VALUES["feed"], "b": VALUES["kill"]})["b"] == 222).all()
    several = spec({"u": (2, 6, 7), "p": (6, 7)}, {"p_next": (6, 7), "q": (6, 7), "u_next": (2, 6, 7)})
    made = adds(UNet.from_spec(several, residual={"p_next": "p", "u_next": "u"}, **UNET))
    found = Predictor(made, several).predict({"u": VALUES["uv"], "p": VALUES["feed"]})
    assert [np.unique(found[name]).tolist() for name in ("p_next", "q", "u_next")] == [[111], [0], [7]]


@pytest.mark.parametrize("make", [UNet.from_spec, lambda fields, **more: Predictor(UNet(2, 2, 1, **more), fields)])
def test_a_residual_that_is_not_clear_is_asked_for(make):
    heat = spec({"source": (6, 7), "temperature": (6, 7)}, {"next": (6, 7)})
    with pytest.raises(ConfigError, match=r"'next' of shape \(6, 7\) change\? \['source', 'temperature'\] have this"):
        make(heat, residual=True, **UNET, **({"dimensions": 2} if make == UNet.from_spec else {}))


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        ("uw", r"residual names 'uw', which is none of the input fields \['feed', 'kill', 'uv'\]"),
        ({"uw_next": "uv"}, "'uw_next', which is none of the output fields"),
        ("feed", "adds field 'feed' of 1 channels to 'uv_next' of 2"),
        ([4, 0], r"from 0 to below 4, or None; not \[4, 0\]"),
        ([0], "for each of 2 output channels"),
    ],
)
def test_a_wrong_residual_is_named(residual, message):
    with pytest.raises(ConfigError, match=message):
        UNet.from_spec(REACTION, residual=residual, **UNET)


def test_without_fields_a_residual_of_several_inputs_is_not_guessed():
    with pytest.raises(ConfigError, match="does not say which of the 3 inputs is added"):
        UNet(2, 4, 2, residual=True, **UNET)(torch.rand(1, 6, 7), torch.rand(1, 6, 7), torch.rand(1, 2, 6, 7))
    made = UNet.from_spec(REACTION, residual=True, **UNET)
    renamed = spec({"feed": (6, 7), "kill": (6, 7), "vw": (2, 6, 7)}, {"uv_next": (2, 6, 7)})
    with pytest.raises(
        ConfigError, match=r"was made for the input fields .*'uv'.* its inputs are \['feed', 'kill', 'vw'"
    ):
        Predictor(made, renamed)


# --- options of the U-Net


@pytest.mark.parametrize("options", [{"boundary": "valid"}, {"boundary": "valid", "convolutions": 1}, {"merge": "add"}])
@pytest.mark.parametrize("grid", [(1,), (13,), (7, 10), (3, 4, 5)])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_valid_borders_and_added_skips_keep_any_size(options, grid, depth):
    network = UNet(len(grid), 1, 2, depth=depth, width=2, **options)
    assert network(torch.rand(2, 1, *grid)).shape == (2, 2, *grid)
    assert describe(build(json.loads(json.dumps(describe(network))))) == describe(network)


def test_with_valid_borders_the_edge_is_like_the_inside():
    torch.manual_seed(0)
    for boundary, alike in (("valid", True), ("zeros", False)):
        network = UNet(1, 1, 1, depth=2, width=4, norm="none", boundary=boundary).double()
        flat = network(torch.ones(1, 1, 64, dtype=torch.float64))  # the steps of the upsampling repeat after 2**depth
        assert torch.allclose(flat[..., 4:], flat[..., :-4]) is alike
        x = torch.rand(1, 1, 128, dtype=torch.float64)
        part = network(x[..., 32:96])[..., 24:40]
        torch.testing.assert_close(part, network(x)[..., 56:72])  # cut elsewhere, it is the same map


def test_one_convolution_a_level_and_addition_are_smaller():
    def count(**options):
        network = UNet(2, 1, 1, depth=2, width=8, **options)
        return sum(isinstance(part, nn.Conv2d) for part in network.modules())

    assert (count(), count(convolutions=1), count(convolutions=3)) == (11, 6, 16)
    added = UNet(1, 1, 1, depth=1, width=4, merge="add", norm="none")
    assert added.join[0][0].in_channels == 4
    for options, message in (({"convolutions": 0}, "convolutions"), ({"merge": "mean"}, "merge must be one of")):
        with pytest.raises(ConfigError, match=message):
            UNet(1, 1, 1, **options)


def test_mlp_without_bias_and_with_prelu():
    network = MLP(3, 2, hidden=(8, 8), bias=False, activation="prelu", linear_skip=True)
    assert not torch.any(network(torch.zeros(4, 3)))
    assert sum(isinstance(part, nn.PReLU) for part in network.modules()) == 2
    again = build(json.loads(json.dumps(describe(network))))
    again.load_state_dict(network.state_dict())
    x = torch.rand(4, 3)
    assert torch.equal(again(x), network(x))


# --- export


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (FNO(1, 1, 1, modes=8, width=4, depth=1), [(32,)]),
        (FNO(2, 3, [2, None], padding=0.2, **SPECTRAL), [(2, 6, 7), ()]),
        (FNO(2, 2, 1, nodes=(5, 6), **SPECTRAL), [(30, 2)]),
        (UNet(2, 2, [1, None], boundary="valid", merge="add", residual=[0, 1], **UNET), [(6, 7), (6, 7)]),
        (UNet(2, 1, 1, nodes=(4, 6), **UNET), [(24,)]),
        (UNet(1, 2, 1, boundary="circular", norm="batch", channel_axis="last", **UNET), [(9, 2)]),
        (MLP([(4, 3), ()], [(5,), (), (2, 2)], hidden=(8,)), [(4, 3), ()]),
    ],
)
def test_an_exported_network_takes_any_batch(network, shapes):
    network.eval()
    example = tuple(torch.zeros(3, *shape) for shape in shapes)
    dynamic = (tuple({0: Dim("b")} for _ in shapes),)
    exported = export(network, example, dynamic_shapes=dynamic).module()
    for batch in (1, 2, 7):
        values = [torch.rand(batch, *shape) for shape in shapes]
        got, want = exported(*values), network(*values)
        for one, other in zip(*((y,) if isinstance(y, torch.Tensor) else y for y in (got, want)), strict=True):
            torch.testing.assert_close(one, other)


# --- the scale of fields on grids


def test_the_scale_follows_what_is_known_of_the_grid():
    fields = spec({"x": (6, 9), "line": (2, 9), "cube": (9, 9, 9), "uv": (2, 9, 9)}, {"y": (2, 9, 9)}, line=1, uv=3)
    scale = Transforms.normalizing(fields).before_prediction.scale
    assert scale == {"x": "field", "line": "channel", "cube": "field", "uv": "field"}
    made = UNet.from_spec(spec({"x": (12,)}, {"y": (12, 3)}), dimensions=1, **UNET)
    scales = Transforms.normalizing(spec({"x": (12,)}, {"y": (12, 3)}), network=torch.compile(made, backend="eager"))
    assert scales.before_prediction.scale == {"x": "field"}
    assert scales.before_apply.transform.scale == {"y": "channel_last"}
    assert Transforms.normalizing(spec({"x": (12,)}, {"y": (12, 3)}), scale="component").before_prediction.scale == {
        "x": "component"
    }


def test_a_vector_beside_a_grid_is_named_with_what_to_do():
    fields = [Field("u", (8, 8), F4, "input"), Field("k", (1,), F4, "input"), Field("v", (8, 8), F4, "target")]
    with pytest.raises(ConfigError, match=r"field 'k' has shape \(1,\) .* takes 2 axes.*declare each .* shape \(\)"):
        UNet.from_spec(SampleSpec(fields), **UNET)


@pytest.mark.parametrize("name", ["norm", "boundary", "merge"])
def test_a_wrong_choice_of_a_unet_is_named_with_what_there_is(name):
    with pytest.raises(ConfigError, match=f"^{name} must be one of .*'periodic'"):
        UNet(2, 1, 1, **{name: "periodic"})

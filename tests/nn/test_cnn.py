"""`CNN` reads pictures in every order of axes, and says which it cannot read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from physgym.errors import ConfigError
from physgym.nn import CNN, build, describe
from physgym.sample import Field, SampleSpec

SMALL = {"layers": [[4, 3, 2]], "hidden": (8,)}


@pytest.mark.parametrize(
    ("shape", "order", "channels"),
    [
        ((9, 12), (0, 1), 1),
        ((9, 12, 3), (2, 0, 1), 3),
        ((3, 9, 12), (0, 1, 2), 3),
        ((2, 9, 12, 3), (0, 3, 1, 2), 6),
        ((2, 3, 9, 12), (0, 1, 2, 3), 6),
        ((4, 9, 12, 1), (0, 3, 1, 2), 4),
    ],
)
def test_axes_of_pictures(shape, order, channels):
    network = CNN(shape, 2, **SMALL)
    pictures = torch.randint(256, (5, *shape), dtype=torch.uint8)
    first = pictures.permute(0, *(axis + 1 for axis in order)).reshape(5, channels, 9, 12)
    wanted = network.head(network.convolutions(first / 255))
    assert wanted.shape == (5, 2)
    torch.testing.assert_close(network(pictures), wanted)


def test_pictures_of_bytes_are_scaled_and_others_are_not():
    network = CNN((9, 12, 3), 2, **SMALL)
    bytes_ = torch.randint(256, (2, 9, 12, 3), dtype=torch.uint8)
    torch.testing.assert_close(network(bytes_), network(bytes_ / 255))
    assert not torch.allclose(network(bytes_.float()), network(bytes_))


def test_vectors_join_behind_and_outputs_are_split():
    network = CNN([(9, 12, 3), (2,), (), (9, 12)], [(3,), ()], **SMALL)
    fields = torch.rand(5, 9, 12, 3), torch.rand(5, 2), torch.rand(5), torch.rand(5, 9, 12)
    a, b = network(*fields)
    assert (a.shape, b.shape) == ((5, 3), (5,))
    assert network.convolutions[0].in_channels == 4
    changed = network(fields[0], fields[1] + 1, *fields[2:])
    assert not torch.equal(changed[0], a)


def test_it_is_built_again_from_its_description():
    torch.manual_seed(0)
    network = CNN([(9, 9, 9), (2,)], 2, **SMALL, channel_axis="last", activation="elu")
    other = build(json.loads(json.dumps(describe(network))))
    other.load_state_dict(network.state_dict())
    fields = torch.rand(5, 9, 9, 9), torch.rand(5, 2)
    assert torch.equal(network(*fields), other(*fields))


def test_from_spec():
    u1, f4 = np.dtype("u1"), np.dtype("f4")
    spec = SampleSpec(
        [
            Field("camera", (40, 64, 3), u1, "input"),
            Field("speed", (), f4, "input"),
            Field("action", (2,), f4, "target"),
        ]
    )
    network = CNN.from_spec(spec)
    assert network(torch.zeros(2, 40, 64, 3, dtype=torch.uint8), torch.zeros(2)).shape == (2, 2)
    assert CNN.from_spec(spec, inputs=["camera"], hidden=()).input_shapes == [(40, 64, 3)]


@pytest.mark.parametrize(
    ("shape", "options", "text"),
    [
        ((3,), {}, "is a picture; take an MLP"),
        ((8, 8, 8), {}, "channel_axis='first' or 'last'"),
        ((9, 12, 3), {"channel_axis": "middle"}, "channel_axis is one of"),
        ((20, 30, 3), {}, "1 x 2 where they reach layer 2, whose kernel is 3 x 3"),
        ((9, 12, 3), {"layers": []}, "needs layers"),
        ((9, 12, 3), {"layers": [[4, 3]]}, r"not \[4, 3\]"),
        ((9, 12, 3), {"layers": [[4, 3, 0]]}, "stride"),
        ((1, 2, 9, 12, 3), {}, "more axes"),
        ([(9, 12, 3), (9, 13, 3)], {}, "different sizes"),
        ((0, 12), {}, "input_shapes"),
    ],
)
def test_what_it_refuses(shape, options, text):
    with pytest.raises(ConfigError, match=text):
        CNN(shape, 2, **options)


def test_another_shape_is_an_error():
    network = CNN((9, 12, 3), 2, **SMALL)
    with pytest.raises(ConfigError, match=r"\(12, 9, 3\) comes where the CNN has \(9, 12, 3\)"):
        network(torch.zeros(1, 12, 9, 3))

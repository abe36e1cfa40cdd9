"""Predictions without the calls of modules: their bits, and what a network may not have or do for them."""

import numpy as np
import pytest
import torch
from torch import nn

from physgym.data.statistics import Statistics
from physgym.nn import MLP, Predictor, Transforms
from physgym.nn.flat_mlp import ACTIVATIONS, FlatMLP
from physgym.nn.mlp import ACTIVATIONS as OF_MLP
from physgym.nn.prepared import PreparedPredictor
from physgym.nn.transforms import Compose, Normalize
from physgym.sample import Field, SampleSpec

ONE = {"x": (4, 3), "y": (5,)}
SEVERAL = {"x": (4, 3), "z": (), "w": (2,), "y": (5,), "v": (2, 3), "u": ()}
TARGETS = {"y", "v", "u"}


@pytest.fixture(autouse=True)
def on_any_machine(monkeypatch):
    monkeypatch.setattr("physgym.nn.prepared.SMALL", np.inf)  # where others compute too, a small network may take long


def predictor(shapes, *, normalized=True, seed=0, **options) -> Predictor:
    spec = SampleSpec([Field(n, s, np.float32, "target" if n in TARGETS else "input") for n, s in shapes.items()])
    rng = np.random.default_rng(seed)
    arrays = {n: (3 + 2 * rng.standard_normal((50, *s))).astype(np.float32) for n, s in shapes.items()}
    torch.manual_seed(seed)
    network = MLP.from_spec(spec, **{"hidden": (16, 16, 16), **options})
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # some begin as zero
    transforms = Transforms.normalizing(spec) if normalized else None
    if transforms is not None:
        transforms.fit({name: Statistics.of(array) for name, array in arrays.items()})
    return Predictor(network, spec, transforms=transforms).eval()


def sample(found, count=None, seed=1):
    rng, shape = np.random.default_rng(seed), () if count is None else (count,)
    return {n: rng.standard_normal((*shape, *found.spec[n].shape)).astype(np.float32) for n in found.inputs}


def check_bits(prepared, found, *counts):
    for count in counts:
        given, batched = sample(found, count), count is not None
        one, other = prepared.predict(given, batched=batched), found.predict(given, batched=batched)
        assert list(one) == list(other)
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert one[name].shape == other[name].shape
            assert one[name].tobytes() == other[name].tobytes()


class Counted:
    """Counts the predictions that are made without modules."""

    def __init__(self, monkeypatch):
        self.count = 0
        usual = FlatMLP.predict

        def predict(flat, fed):
            self.count += 1
            return usual(flat, fed)

        monkeypatch.setattr(FlatMLP, "predict", predict)


@pytest.mark.parametrize("shapes", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalized": False},
        {"hidden": ()},
        {"residual": True},
        {"residual": True, "block_layers": 2},
        {"linear_skip": True, "bias": False},
        {"layer_norm": True, "dropout": 0.5},
        *({"activation": name} for name in OF_MLP if OF_MLP[name] in ACTIVATIONS),
    ],
    ids=str,
)
def test_predictions_have_the_bits_of_the_predictor(shapes, options, monkeypatch):
    found = predictor(shapes, **options)
    prepared = PreparedPredictor(found, 3)
    counted = Counted(monkeypatch)
    check_bits(prepared, found, None, 1, 3)
    assert counted.count == 3
    check_bits(prepared, found, 2)  # of another size than was tried
    assert counted.count == 3


def test_arrays_that_torch_does_not_take_are_predicted_for_too(monkeypatch):
    found = predictor(ONE)
    prepared, counted = PreparedPredictor(found), Counted(monkeypatch)
    x = np.arange(13, dtype=np.float32)
    read_only = x[1:].reshape(4, 3).copy()
    read_only.flags.writeable = False
    for value in (x[1:].reshape(4, 3), x[:12].reshape(3, 4).T, x[:12].reshape(4, 3)[::-1], read_only):
        given = value.copy()
        assert prepared.predict({"x": value})["y"].tobytes() == found.predict({"x": value})["y"].tobytes()
        assert (value == given).all()
    assert counted.count == 4


def test_what_is_predicted_is_nobody_elses():
    found = predictor(ONE)
    prepared = PreparedPredictor(found)
    first = prepared.predict(sample(found))["y"]
    kept = first.copy()
    prepared.predict(sample(found, seed=2))
    assert (first == kept).all()
    first += 1


def weights_in_place(found):
    with torch.no_grad():
        found.network.head.weight.mul_(2)


def weights_elsewhere(found):
    found.network.head.weight.data = found.network.head.weight.data * 2


def other_parameter(found):
    found.network.head.weight = nn.Parameter(found.network.head.weight.detach() * 2)


def other_layer(found):
    found.network.head = nn.Linear(16, 5)


def other_moments(found):
    found.transforms.before_prediction.mean_0.add_(1)


def other_transform(found):
    found.transforms.before_prediction = Compose([found.transforms.before_prediction])


def other_forward(found):
    usual = found.network.layers[0].forward
    found.network.layers[0].forward = lambda x: 2 * usual(x)


def more_layers(found):
    found.network.layers.append(nn.Sequential(nn.Linear(16, 16), nn.GELU()))


def longer_layer(found):
    found.network.layers[0].append(nn.Tanh())


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def other_class(found):
    found.network.head.__class__ = Twice


def loaded(found):
    found.load_state_dict({name: value * 2 for name, value in found.state_dict().items()})


@pytest.mark.parametrize(
    "change",
    [
        weights_in_place,
        weights_elsewhere,
        other_parameter,
        other_layer,
        other_moments,
        other_transform,
        other_forward,
        more_layers,
        longer_layer,
        other_class,
        loaded,
    ],
)
def test_changes_of_a_network_are_seen_at_once(change):
    found = predictor(ONE)
    prepared = PreparedPredictor(found)
    given = sample(found)
    before = prepared.predict(given)["y"]
    change(found)
    check_bits(prepared, found, None)
    prepared.refresh()
    check_bits(prepared, found, None)
    if change is not other_transform:
        assert (prepared.predict(given)["y"] != before).any()


def test_who_wants_to_hear_of_calls_does():
    found, heard = predictor(ONE), []
    prepared = PreparedPredictor(found)
    handles = [
        found.network.layers[1][0].register_forward_hook(lambda *_: heard.append("layer")),
        nn.modules.module.register_module_forward_hook(lambda *_: heard.append("every")),
    ]
    for handle in handles:
        heard.clear()
        prepared.predict(sample(found))
        assert heard
        handle.remove()
    heard.clear()
    prepared.predict(sample(found))
    assert heard == []


def test_while_training_and_in_other_dtypes_the_network_is_called():
    found = predictor(ONE, dropout=0.5).train()
    assert FlatMLP.of(found) is None
    prepared = PreparedPredictor(found.eval())
    found.train()
    check_bits(prepared, found, None)
    assert found.training
    assert FlatMLP.of(predictor(ONE).double().eval()) is None


def test_a_dropout_that_trains_alone_drops():
    found = predictor(ONE, dropout=0.5)
    prepared = PreparedPredictor(found)
    for part in found.modules():
        if isinstance(part, nn.Dropout):
            part.train()
    given = sample(found)
    assert len({prepared.predict(given)["y"].tobytes() for _ in range(5)}) > 1


def test_in_mixed_precision_the_network_is_called():
    found = predictor(ONE, normalized=False)
    prepared = PreparedPredictor(found)
    with torch.autocast("cpu", torch.bfloat16):
        check_bits(prepared, found, None)


class Own(MLP):
    def forward(self, *inputs):
        return super().forward(*inputs) + 1


def test_other_networks_and_transforms_are_called():
    found = predictor(ONE)
    own = Own((4, 3), (5,))
    assert FlatMLP.of(Predictor(own, found.spec).eval()) is None
    assert FlatMLP.of(predictor(ONE, activation="prelu")) is None
    transforms = Transforms(before_prediction=Normalize({"x": (4, 3)}, "channel_last"))
    assert FlatMLP.of(Predictor(MLP((4, 3), (5,)), found.spec, transforms=transforms).eval()) is None
    check_bits(PreparedPredictor(Predictor(own, found.spec).eval()), Predictor(own, found.spec).eval(), None, 1)
    network = MLP((4, 3), (5,))
    network.layers[0].append(nn.Tanh())
    network.layers[1].insert(0, nn.Tanh())
    changed = Predictor(network, found.spec).eval()
    check_bits(PreparedPredictor(changed), changed, None, 1)


def test_generators_are_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    PreparedPredictor(predictor(ONE)).predict({"x": np.zeros((4, 3), np.float32)})
    torch.manual_seed(0)
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002

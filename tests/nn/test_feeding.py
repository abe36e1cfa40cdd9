"""Which field reaches which argument of a network, in training, use, checkpoints, and through wrappers."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import namedtuple
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from physgym.errors import CheckpointError, ConfigError
from physgym.nn import MLP, Predictor, Transform, Transforms, UNet, registry
from physgym.nn.feeding import Feeding
from physgym.nn.wrapped import unwrapped
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, checkpoint_files, load_checkpoint, save_checkpoint
from physgym.training.checkpoint_manifests import seal_of
from tests.support.memory_samples import MemorySamples, spec_of

F4 = np.dtype("f4")
SPEC = SampleSpec(
    [
        Field("position", (3,), F4, "input"),
        Field("velocity", (3,), F4, "input"),
        Field("next", (3,), F4, "target"),
        Field("mass", (3,), F4, "additional"),
    ]
)
SAMPLE = {"position": np.full(3, 1.0, "f4"), "velocity": np.full(3, 10.0, "f4")}


def network(signature: str, body: str = "velocity + 100 * position") -> nn.Module:
    """A network with a given ``forward``, and a weight that changes nothing."""
    space: dict = {}
    exec(f"def forward(self, {signature}): return self.one * ({body})", space)  # noqa: S102 - our own text
    made = type("Net", (nn.Module,), {"forward": space["forward"]})()
    made.one = nn.Parameter(torch.ones(()))
    return made


def fed(module: nn.Module, spec: SampleSpec = SPEC, sample=SAMPLE, **options) -> float:
    return float(Predictor(module, spec, **options).predict(sample)["next"][0])


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("velocity, position", "velocity + 100 * position"),
        ("position, velocity", "velocity + 100 * position"),
        ("velocity, position, scale=1.0", "scale * velocity + 100 * position"),
        ("velocity, scale=1.0, position=None", "scale * velocity + 100 * position"),
        ("velocity, *, position", "velocity + 100 * position"),
        ("*, velocity, position", "velocity + 100 * position"),
        ("velocity, *others", "velocity + 100 * others[0]"),
        ("velocity, **others", "velocity + 100 * others['position']"),
        ("**fields", "fields['velocity'] + 100 * fields['position']"),
        ("velocity, position, **ignored", "velocity + 100 * position"),
    ],
)
def test_fields_go_by_name_where_the_parameters_are_their_names(signature, body):
    predictor = Predictor(network(signature, body), SPEC)
    assert predictor.feeding.by == "name"
    assert set(predictor.feeding.fields) == {"velocity", "position"}
    assert predictor.predict(SAMPLE)["next"][0] == 110


@pytest.mark.parametrize("signature", ["a, b", "*fields", "a, *fields", "a, b, scale=1.0"])
def test_other_parameters_get_them_in_the_order_of_inputs(signature):
    body = {"*fields": "fields[0] + 100 * fields[1]", "a, *fields": "a + 100 * fields[0]"}.get(signature, "a + 100 * b")
    assert fed(network(signature, body)) == 1 + 100 * 10
    assert fed(network(signature, body), inputs=["velocity", "position"]) == 10 + 100 * 1


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("velocity, x", r"\['velocity'\] are names of its input fields .* \['x'\] are not"),
        ("x, velocity", r"\['x'\] are not"),
        ("velocity, x=None", r"there is none for \['position'\]"),
        ("velocity", r"there is none for \['position'\]"),
        ("mass, velocity", r"\['mass'\] are not"),
    ],
)
def test_names_of_some_but_not_all_are_an_error(signature, problem):
    with pytest.raises(ConfigError, match=rf"network Net has forward\(.*{problem}"):
        Predictor(network(signature, "velocity"), SPEC)


def test_names_of_fields_that_do_not_feed_it_are_an_error():
    with pytest.raises(ConfigError, match=r"\['mass', 'next'\] are fields of the samples that do not feed it"):
        Predictor(network("mass, next", "mass"), SPEC)


def test_a_single_field_needs_no_name():
    for signature in ("x", "position", "next", "x, scale=1.0"):
        first = signature.split(",")[0]
        assert fed(network(signature, first), inputs=["position"]) == 1
    with pytest.raises(ConfigError, match=r"\['x'\] are not"):
        fed(network("x, position=None", "x"), inputs=["position"])


def nested(*names):
    return SampleSpec([*(Field(name, (3,), F4, "input") for name in names), Field("next", (3,), F4, "target")])


@pytest.mark.parametrize("names", [("velocity", "position"), ("state_velocity", "state_position")])
def test_nested_fields_have_names_too(names):
    spec = nested("state/position", "state/velocity")
    sample = {f"state/{name}": value for name, value in SAMPLE.items()}
    assert fed(network(", ".join(names), f"{names[0]} + 100 * {names[1]}"), spec, sample) == 110
    assert fed(network("**all", "all['state/velocity'] + 100 * all['state/position']"), spec, sample) == 110
    alike = nested("a/x", "b/x")
    values = {"a/x": SAMPLE["position"], "b/x": SAMPLE["velocity"]}
    assert fed(network("b_x, a_x", "b_x + 100 * a_x"), alike, values) == 110
    assert Feeding.of(network("x, y", "x"), ["a/x", "b/x"]).by == "order"  # x would be either


def test_a_training_with_names_in_another_order_learns_what_it_should():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(64, 3)).astype("f4") for name in ("position", "velocity")}
    arrays["next"] = arrays["velocity"] + 100 * arrays["position"]
    samples = MemorySamples(arrays, spec_of(arrays, {"position": "input", "velocity": "input", "next": "target"}))
    trainer = Trainer(
        network("velocity, position"), samples, epochs=1, normalize=False, progress=False, validation=None
    )
    assert trainer.fit()["loss"][0] < 1e-6


class PassesOn(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


WRAPPERS = {
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "parallel": nn.DataParallel,
    "compiled parallel": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    "parallel compiled": lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
    "passing on": PassesOn,
    "passing on a compiled one": lambda m: PassesOn(torch.compile(m, backend="eager")),
    "averaged": AveragedModel,
    "traced": lambda m: torch.fx.symbolic_trace(m),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_looked_through(wrapper):
    assert fed(WRAPPERS[wrapper](network("velocity, position"))) == 110
    assert fed(WRAPPERS[wrapper](network("a, b", "a + 100 * b"))) == 1001


class Named(nn.Module):
    def forward(this, velocity, position):  # TorchScript lists the module under the name that it has here
        return velocity + 100 * position


class NamedAfter(nn.Module):
    def forward(self, velocity, *, position):
        return velocity + 100 * position


class Other(nn.Module):
    def forward(net, a, b):
        return a + 100 * b


def reloaded(made: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(made, file)
    file.seek(0)
    return torch.jit.load(file)


EXAMPLE = (torch.zeros(2, 3), torch.zeros(2, 3))
SCRIPTS = {
    "script": torch.jit.script,
    "trace": lambda m: torch.jit.trace(m, EXAMPLE),
    "frozen": lambda m: torch.jit.freeze(torch.jit.script(m.eval())),
    "loaded": lambda m: reloaded(torch.jit.script(m)),
    "loaded trace": lambda m: reloaded(torch.jit.trace(m, EXAMPLE)),
    "traced wrapper": lambda m: torch.jit.trace(PassesOn(m), EXAMPLE),
    "wrapped script": lambda m: nn.DataParallel(torch.jit.script(m)),
    "passed on": lambda m: PassesOn(torch.jit.script(m)),
    "compiled": lambda m: torch.compile(m, backend="eager"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("made", SCRIPTS)
def test_torchscript_is_looked_through_whatever_the_module_is_called(made):
    predictor = Predictor(SCRIPTS[made](Named()), SPEC)
    assert (predictor.feeding.by, predictor.predict(SAMPLE)["next"][0]) == ("name", 110)
    assert fed(SCRIPTS[made](Other())) == 1001


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_of_functions_keywords_and_lists():
    assert fed(torch.jit.script(NamedAfter())) == 110
    alone = nn.Module()
    alone.forward = torch.jit.script(weighted)
    assert fed(alone) == 110  # there is no module among its arguments
    listing = torch.jit.trace(MLP([(3,), (3,)], (3,), hidden=()), EXAMPLE)  # both are called "value" in there
    assert Predictor(listing, SPEC).feeding == Feeding("order", ("position", "velocity"))
    values = nested("value", "x")  # which is no field's name then
    assert Predictor(listing, values).feeding == Feeding("order", ("value", "x"))


def weighted(velocity: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return velocity + 100 * position


def test_what_passes_all_on_has_the_errors_of_what_it_wraps():
    with pytest.raises(ConfigError, match=r"\['x'\] are not"):
        Predictor(PassesOn(network("velocity, x", "velocity")), SPEC)


# --- outputs


BOTH = SampleSpec([Field("x", (3,), F4, "input"), *(Field(n, (3,), F4, "target") for n in ("flow/p", "flow/u"))])


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x, x + 1)


Swapped = namedtuple("Swapped", ["u", "p"])


class Typed(NamedTuple):
    flow_u: torch.Tensor
    flow_p: torch.Tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda u, p: (p, u),
        lambda u, p: [p, u],
        Swapped,
        Typed,
        lambda u, p: {"u": u, "p": p},
        lambda u, p: {"flow/u": u, "flow/p": p},
    ],
)
@pytest.mark.parametrize("wrap", [lambda m: m, WRAPPERS["compiled"], nn.DataParallel])
def test_outputs_with_names_are_taken_by_them(make, wrap):
    found = Predictor(wrap(Gives(make)), BOTH).predict({"x": np.zeros(3)})
    assert {name: value[0] for name, value in found.items()} == {"flow/u": 0, "flow/p": 1}


Unlike = namedtuple("Unlike", ["mean", "p"])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Unlike, r"the named tuple Unlike of \['mean', 'p'\] for the fields .*\['mean'\] are none of them and \['fl"),
        (lambda u, p: {"u": u, "p": p, "hidden": p}, r"a dictionary of .*: \['hidden'\] are none of them\. Name"),
        (lambda u, p: {"u": u}, r"a dictionary of \['u'\] for .*: \['flow/p'\] are missing"),
        (lambda u, p: {"u": u, "flow/u": u, "p": p}, "two of them name one field"),
    ],
)
def test_outputs_of_other_names_are_named(make, problem):
    with pytest.raises(ConfigError, match=problem):
        Predictor(Gives(make), BOTH)


def test_a_single_output_with_a_name_is_that_field():
    one = spec_of({"x": np.zeros((1, 3), "f4"), "y": np.zeros((1, 3), "f4")}, {"x": "input", "y": "target"})
    assert Predictor(Gives(lambda x, y: {"y": y}), one).predict({"x": np.zeros(3)})["y"][0] == 1
    with pytest.raises(ConfigError, match=r"\['z'\] are none of them and \['y'\] are missing"):
        Predictor(Gives(lambda x, y: namedtuple("Z", "z")(y)), one)


class Squares(Transform):
    """Adds a field, and returns the others in another order."""

    def forward(self, fields):
        return {"squared": fields["velocity"] ** 2, **dict(reversed(fields.items()))}


def test_a_transform_may_add_fields_and_change_their_order():
    transforms = Transforms(before_prediction=Squares())
    by_name = network("squared, velocity, position", "squared + 1000 * velocity + 100 * position")
    assert fed(by_name, transforms=transforms) == 100 + 10_000 + 100
    in_order = network("a, b, c", "a + 100 * b + 10000 * c")
    assert fed(in_order, transforms=transforms) == 1 + 1000 + 1_000_000


# --- checkpoints


def manifest_of(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text())


def without_record(path: Path) -> Path:
    """A checkpoint as versions before wrote it."""
    manifest = {name: value for name, value in manifest_of(path).items() if name not in ("feeding", "digest")}
    manifest["digest"] = seal_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_a_checkpoint_records_how_fields_are_fed(tmp_path):
    written = save_checkpoint(tmp_path / "one", Predictor(network("velocity, position"), SPEC))
    assert manifest_of(written)["feeding"] == {
        "by": "name",
        "positional": ["velocity", "position"],
        "keywords": {},
        "residual": None,
    }
    in_order = save_checkpoint(tmp_path / "two", Predictor(network("v, p", "v + 100 * p"), SPEC))
    again = load_checkpoint(in_order, network=network("velocity, position", "velocity + 100 * position"))
    assert again.predict(SAMPLE)["next"][0] == 1 + 100 * 10  # what came first comes first, whatever it is called


REORDERED = [
    ("velocity, position", "velocity + 100 * position"),
    ("position, velocity", "velocity + 100 * position"),
    ("position, *, velocity", "velocity + 100 * position"),
    ("position, scale=1.0, velocity=None", "scale * velocity + 100 * position"),
    ("**fields", "fields['velocity'] + 100 * fields['position']"),
    ("position, **others", "others['velocity'] + 100 * position"),
]


@pytest.mark.parametrize("written", REORDERED)
def test_what_was_fed_by_name_is_fed_by_name_wherever_the_parameters_stand(tmp_path, written):
    for name, wrap in {"plain": lambda m: m, "parallel": nn.DataParallel}.items():
        saved = save_checkpoint(tmp_path / name, Predictor(wrap(network(*written)), SPEC))
        for signature, body in REORDERED:
            again = load_checkpoint(saved, network=wrap(network(signature, body)))
            assert (again.feeding.by, again.predict(SAMPLE)["next"][0]) == ("name", 110)
    saved = save_checkpoint(tmp_path / "passing on", Predictor(PassesOn(network("velocity, position")), SPEC))
    again = load_checkpoint(saved, network=PassesOn(network("position, velocity")))
    assert (again.feeding.by, again.predict(SAMPLE)["next"][0]) == ("name", 110)


@pytest.mark.parametrize(
    "signature", ["v, p", "position, p", "p, velocity", "*fields", "position, v=None", "mass, next"]
)
def test_names_that_are_no_parameters_any_more_are_refused(tmp_path, signature):
    written = save_checkpoint(tmp_path / "one", Predictor(network("velocity, position"), SPEC))
    shown = re.escape(signature.replace("=None", ""))
    text = rf"\['velocity', 'position'\] were fed by name, and the network Net has forward\({shown}\)"
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(written, network=network(signature, "1"))


def test_a_single_field_may_have_another_name_by_now_if_there_is_one_place_for_it(tmp_path):
    made = Predictor(network("position", "position"), SPEC, inputs=["position"])
    written = save_checkpoint(tmp_path / "one", made)
    for signature in ("x", "x, scale=1.0"):
        assert load_checkpoint(written, network=network(signature, "x")).predict(SAMPLE)["next"][0] == 1
    with pytest.raises(CheckpointError, match=r"\['position'\] were fed by name"):
        load_checkpoint(written, network=network("scale=1.0, x=None", "scale"))


class Moved(nn.Module):
    config: ClassVar[dict] = {}

    def forward(self, velocity, position):
        return velocity + 100 * position


def test_a_registered_class_whose_parameters_changed_places_is_fed_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_CLASSES", {**registry._CLASSES, "Moved": Moved})
    written = save_checkpoint(tmp_path / "one", Predictor(Moved(), SPEC))
    monkeypatch.setattr(Moved, "forward", lambda self, position, velocity: velocity + 100 * position)
    again = load_checkpoint(written)
    assert (again.feeding.positional, again.predict(SAMPLE)["next"][0]) == (("position", "velocity"), 110)


def test_one_without_the_record_is_fed_as_it_was_with_a_warning(tmp_path):
    written = without_record(save_checkpoint(tmp_path / "one", Predictor(network("velocity, position"), SPEC)))
    with pytest.warns(UserWarning, match=r"no record of how fields are fed .* \['position', 'velocity'\] are passed"):
        old = load_checkpoint(written, network=network("velocity, position"))
    assert old.predict(SAMPLE)["next"][0] == 1 + 100 * 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = save_checkpoint(tmp_path / "two", old)
        assert load_checkpoint(saved, network=network("velocity, position")).predict(SAMPLE)["next"][0] == 1001


@pytest.mark.parametrize("record", [None, [], {"by": "luck", "positional": [], "keywords": {}, "residual": None}, {}])
def test_a_broken_record_is_an_incomplete_checkpoint(tmp_path, record):
    written = save_checkpoint(tmp_path / "one", Predictor(network("velocity, position"), SPEC))
    manifest = manifest_of(written) | {"feeding": record}
    manifest["digest"] = seal_of(manifest)
    (written / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"is not a complete checkpoint: in manifest\.json, feeding is"):
        load_checkpoint(written, network=network("velocity, position"))


def grid_spec():
    shapes = {"feed": (6,), "kill": (6,), "uv": (2, 6), "uv_next": (2, 6)}
    return SampleSpec([Field(n, s, F4, "target" if n == "uv_next" else "input") for n, s in shapes.items()])


GRID = {"feed": np.full(6, 111.0), "kill": np.full(6, 222.0), "uv": np.full((2, 6), 7.0)}


def silent(module: UNet) -> UNet:
    """A network that gives what its residual adds, and nothing else."""
    nn.init.zeros_(module.head.weight)
    nn.init.zeros_(module.head.bias)
    return module


def test_a_checkpoint_records_what_a_residual_adds_to(tmp_path):
    made = silent(UNet.from_spec(grid_spec(), dimensions=1, depth=1, width=4, residual=True))
    written = save_checkpoint(tmp_path / "one", Predictor(made, grid_spec()))
    assert manifest_of(written)["feeding"]["residual"] == [2, 3]
    for given in ({}, {"network": UNet(1, 4, 2, depth=1, width=4, residual=True)}):
        assert (load_checkpoint(written, **given).predict(GRID)["uv_next"] == 7).all()
    with pytest.raises(CheckpointError, match=r"adds the input channels \[2, 3\] there, here \(0, 1\)"):
        load_checkpoint(written, network=UNet(1, 4, 2, depth=1, width=4, residual=[0, 1]))


def test_the_residual_of_an_old_checkpoint_stays_what_it_was(tmp_path):
    made = silent(UNet(1, 4, 2, depth=1, width=4, residual=True))
    written = save_checkpoint(tmp_path / "one", Predictor(made, grid_spec()))
    manifest = manifest_of(written)
    manifest["network"]["config"]["residual"] = True  # which is what they had
    (written / "manifest.json").write_text(json.dumps(manifest))
    without_record(written)
    for given in ({}, {"network": UNet(1, 4, 2, depth=1, width=4, residual=True)}):
        with pytest.warns(UserWarning, match="a residual adds the first input channels"):
            old = load_checkpoint(written, **given)
        assert np.unique(old.predict(GRID)["uv_next"]).tolist() == [111, 222]
    again = load_checkpoint(save_checkpoint(tmp_path / "two", old))
    assert np.unique(again.predict(GRID)["uv_next"]).tolist() == [111, 222]


def training(tmp_path: Path, module: nn.Module, **options) -> Trainer:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(32, 3)).astype("f4") for name in ("position", "velocity")}
    arrays["next"] = arrays["velocity"] + 100 * arrays["position"]
    samples = MemorySamples(arrays, spec_of(arrays, {"position": "input", "velocity": "input", "next": "target"}))
    return Trainer(module, samples, session=tmp_path / "s", progress=False, validation=None, **options)


def test_a_resumed_training_feeds_as_before(tmp_path):
    first = training(tmp_path, network("velocity, position"), epochs=1)
    first.fit()
    folder = next((tmp_path / "s" / "networks").iterdir())
    assert training(tmp_path, network("velocity, position"), epochs=2, resume=True).predictor.feeding.by == "name"
    other = training(tmp_path, network("position, velocity"), epochs=2, resume=True).predictor
    assert other.feeding.positional == ("position", "velocity")
    assert other.predict(SAMPLE)["next"][0] == first.predictor.predict(SAMPLE)["next"][0]
    with pytest.raises(CheckpointError, match=r"\['velocity', 'position'\] were fed by name.*forward\(v, p\)"):
        training(tmp_path, network("v, p", "v + 100 * p"), epochs=2, resume=True)
    without_record(folder)
    with pytest.warns(UserWarning, match="no record of how fields are fed"):
        old = training(tmp_path, network("velocity, position"), epochs=2, resume=True)
    assert old.predictor.feeding == Feeding("order", ("position", "velocity"))


# --- compiled and wrapped networks


COMPILED = [name for name in WRAPPERS if name not in ("passing on", "averaged", "traced", "passing on a compiled one")]


@pytest.mark.parametrize("wrapper", COMPILED)
def test_a_wrapped_network_is_saved_as_what_it_is(tmp_path, wrapper):
    made = WRAPPERS[wrapper](MLP([(3,), (3,)], (3,), hidden=(4,)))
    assert type(unwrapped(made)) is MLP
    trainer = training(tmp_path, made, epochs=1)
    trainer.fit()
    want = trainer.predictor.predict(SAMPLE)["next"]
    bare = MLP([(3,), (3,)], (3,), hidden=(4,))
    for given in ({}, {"network": bare}, {"network": WRAPPERS[wrapper](MLP([(3,), (3,)], (3,), hidden=(4,)))}):
        loaded = load_checkpoint(tmp_path / "s", **given)
        np.testing.assert_allclose(loaded.predict(SAMPLE)["next"], want, rtol=1e-5)
    # a resume with or without the wrapper
    for again in (MLP([(3,), (3,)], (3,), hidden=(4,)), WRAPPERS[wrapper](MLP([(3,), (3,)], (3,), hidden=(4,)))):
        resumed = training(tmp_path, again, epochs=2, resume=True)
        assert resumed.step == trainer.step
        np.testing.assert_allclose(resumed.predictor.predict(SAMPLE)["next"], want, rtol=1e-5)


def test_a_compiled_part_of_a_network_is_saved_under_its_own_name(tmp_path):
    def made(compiled):
        inner = MLP([(3,), (3,)], (3,), hidden=(4,))
        return PassesOn(torch.compile(inner, backend="eager") if compiled else inner)

    predictor = Predictor(made(True), SPEC)
    written = save_checkpoint(tmp_path / "one", predictor)
    for compiled in (False, True):
        loaded = load_checkpoint(written, network=made(compiled))
        np.testing.assert_allclose(loaded.predict(SAMPLE)["next"], predictor.predict(SAMPLE)["next"], rtol=1e-5)


def test_weights_that_were_saved_with_the_names_of_wrappers_are_found(tmp_path, monkeypatch):
    predictor = Predictor(WRAPPERS["parallel compiled"](MLP([(3,), (3,)], (3,), hidden=(4,))), SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "plain_names", lambda _, names: {name: name for name in names})
        written = save_checkpoint(tmp_path / "one", predictor)
    loaded = load_checkpoint(written, network=MLP([(3,), (3,)], (3,), hidden=(4,)))
    np.testing.assert_allclose(loaded.predict(SAMPLE)["next"], predictor.predict(SAMPLE)["next"], rtol=1e-5)


def test_a_compiled_predictor_is_refused_with_the_cure(tmp_path):
    compiled = torch.compile(Predictor(MLP([(3,), (3,)], (3,)), SPEC), backend="eager")
    with pytest.raises(ConfigError, match="pass the Predictor itself, with compile=True"):
        training(tmp_path, compiled, epochs=1)


def test_all_fields_by_name_reach_a_network_of_one_layer():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))

        def forward(self, **fields):
            return self.layers(torch.cat([fields["position"], fields["velocity"]], dim=-1))

    feeding = Predictor(Affine(), SPEC).feeding
    assert (feeding.by, set(feeding.fields)) == ("name", {"position", "velocity"})
    assert np.isfinite(Predictor(Affine(), SPEC).predict(SAMPLE)["next"]).all()

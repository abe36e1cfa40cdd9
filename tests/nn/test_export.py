"""Exported networks give the predictions of torch, in batches of any size, without physgym; or there is no file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import venv

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from torch import nn

from physgym.errors import ConfigError, SampleError
from physgym.formats import registry
from physgym.nn import FNO, MLP, Compose, Hold, Inverse, Normalize, Predictor, Transforms, UNet, export_network
from physgym.nn.export.comparison import compare
from physgym.nn.export.contract import Contract
from physgym.nn.export.fourier_matrices import FourierMatrices
from physgym.nn.export.inference import Inference, as_declared, weights_digest
from physgym.nn.export.samples import samples_for
from physgym.nn.fno import SpectralConv
from physgym.sample import Field, SampleSpec

ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="pip install 'physgym[onnx]'",
)
FORMATS = ["pt2", pytest.param("onnx", marks=ONNX)]


def spec_of(*fields):
    return SampleSpec([Field(name, shape, np.dtype(dtype), role, unit) for name, shape, dtype, role, unit in fields])


STATE = spec_of(("x", (3,), "f4", "input", "m"), ("y", (3,), "f4", "target", "m/s"))
MIXED = spec_of(
    ("state/x", (3,), "f8", "input", "m"),
    ("state_x", (2, 2), "f4", "input", ""),
    ("count", (), "i4", "input", ""),
    ("on", (2,), "?", "input", ""),
    ("state/next", (3, 2), "f8", "target", "m"),
    ("number", (), "i2", "target", ""),
    ("flag", (4,), "?", "target", ""),
)
GRID = spec_of(
    ("uv", (2, 6, 5), "f4", "input", "m/s"), ("nu", (), "f8", "input", ""), ("next", (2, 6, 5), "f8", "target", "m/s")
)


class Moments:
    def __init__(self, shape, rng):
        self.mean, self.std = rng.normal(5, 3, shape), rng.uniform(0.5, 2, shape)


def predictor_of(network, spec, transforms=None, **options):
    """A network with a normalization that changes much."""
    rng = np.random.default_rng(0)
    if transforms is None:
        transforms = Transforms.normalizing(spec, network=network)
        transforms.fit({name: Moments(field.shape, rng) for name, field in spec.items()})
    return Predictor(network, spec, transforms=transforms, **options).eval()


class Named(nn.Module):
    """Is fed by name, and gives its outputs by name."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 6)
        self.embedding = nn.Embedding(2, 6)

    def forward(self, on, count, state_x, **fields):
        h = self.linear(fields["state/x"]) + self.embedding(count.long()) + on.sum(1, keepdim=True)
        h = torch.tanh(h + state_x.sum((1, 2))[:, None])
        return {"flag": h[:, :4] > 0, "number": 100 * h[:, 0], "state/next": h.reshape(h.shape[0], 3, 2)}


class Multiplied(nn.Module):
    """Repeats a single sample without a word."""

    def forward(self, a, b):
        return a * (b + 1)


MULTIPLIED = spec_of(("p", (3,), "f4", "input", ""), ("q", (3,), "f4", "input", ""), ("y", (3,), "f4", "target", ""))


class SomeSizes(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] < 5 else x * 3


class OneSize(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3) if len(x) == 2 else x


class DependsOnData(nn.Module):
    def forward(self, x):
        return x * 2 if x.mean() > 0 else x * 3


def torch_run(file):
    """Run a program as one does who has only torch."""
    return torch.export.load(file).module()


def onnx_run(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda fed: session.run(None, fed)


# --- what needs no export


def test_matrices_are_the_fourier_layer():
    torch.manual_seed(0)
    for grid, modes in (((9,), (5,)), ((8, 7), (3, 4)), ((5, 6, 8), (3, 2, 4))):
        layer = SpectralConv(3, modes).double()
        x = torch.randn(2, 3, *grid, dtype=torch.float64)
        torch.testing.assert_close(FourierMatrices(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


def test_what_is_exported_is_a_copy_that_gives_declared_dtypes():
    torch.manual_seed(0)
    predictor = predictor_of(MLP.from_spec(MIXED, hidden=(8,)), MIXED).train()
    samples, kind = samples_for(predictor, 4)
    assert kind == "random samples"
    given = Inference(predictor)({name: torch.from_numpy(value) for name, value in samples.items()})
    for name, want in predictor.predict(samples, batched=True).items():
        np.testing.assert_array_equal(given[name].numpy(), want, strict=True)
    assert predictor.training
    assert all(weight.requires_grad for weight in predictor.parameters())


def test_predicted_integers_are_rounded():
    assert as_declared(torch.tensor([2.9999, -0.6]), torch.int16).tolist() == [3, -1]


def test_random_samples_have_the_moments_of_the_normalization_and_fit_flags_and_indices():
    spec = SampleSpec(
        [
            Field("x", (50,), np.dtype("f4"), "input"),
            Field("one", (3,), np.dtype("f4"), "input", kind="one-hot"),
            Field("on", (), np.dtype("f4"), "input", kind="flag"),
            Field("index", (), np.dtype("i8"), "input"),
            Field("y", (50,), np.dtype("f4"), "target"),
        ]
    )

    class Picks(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1, 50)  # any index but 0 is an error

        def forward(self, x, one, on, index):
            return x + self.table(index) + one.sum(1, keepdim=True) + on[:, None]

    normalize = Normalize({"x": (50,)})
    normalize.mean_0.fill_(1000.0)
    normalize.fitted = True
    predictor = predictor_of(Picks(), spec, Transforms(normalize))
    samples, _ = samples_for(predictor, 7)
    assert abs(samples["x"].mean() - 1000) < 1
    assert (samples["one"].sum(1) == 1).all()
    assert set(samples["on"]) <= {0, 1}
    assert not samples["index"].any()


def test_an_output_of_an_inputs_name_gets_another_one_where_it_must():
    predictor = Predictor(nn.Identity(), STATE, inputs=["x"], outputs=["x"])
    assert [port.tensor for port in Contract.of(predictor, distinct=True).outputs] == ["x_predicted"]
    assert [port.tensor for port in Contract.of(predictor, distinct=False).outputs] == ["x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 1e-3, r"predicts field 'y' with a difference of 0\.001 to torch, for a batch of 1"),
        (lambda y: y.astype(np.float64), r"gives field 'y' as float64 of shape \(1, 3\) for a batch of 1 instead"),
        (
            lambda y: y[:1] if len(y) == 7 else y,
            r"shape \(1, 3\) for a batch of 7 instead of float32 of shape \(7, 3\)",
        ),
        (lambda y: np.where(y == y.max(), np.nan, y), "values that are not finite where torch has others"),
    ],
)
def test_whatever_differs_is_an_error(change, message):
    torch.manual_seed(0)
    predictor = Predictor(nn.Linear(3, 3), STATE).eval()
    contract, (samples, _) = Contract.of(predictor, distinct=False), samples_for(predictor, 7)

    def run(sample):
        return {"y": change(predictor.predict(sample, batched=True)["y"])}

    with pytest.raises(ConfigError, match=message):
        compare(run, predictor, contract, samples, None)


def test_the_same_is_no_difference():
    predictor = Predictor(nn.Linear(3, 3), STATE).eval()
    contract, (samples, _) = Contract.of(predictor, distinct=False), samples_for(predictor, 7)
    found = compare(lambda sample: predictor.predict(sample, batched=True), predictor, contract, samples, None)
    assert found["batches"] == [1, 2, 7]
    assert found["differences"]["y"]["largest"] == 0 < found["differences"]["y"]["allowed"]


def test_nothing_finite_is_nothing_to_compare():
    predictor = Predictor(nn.Linear(3, 3), STATE, transforms=Transforms(before_apply=NoNumber())).eval()
    samples, _ = samples_for(predictor, 7)
    with pytest.raises(ConfigError, match=r"no finite value of field 'y'.*name samples for it"):
        compare(lambda sample: {}, predictor, Contract.of(predictor, distinct=False), samples, None)


class NoNumber(Inverse):
    def __init__(self):
        super().__init__(Compose([]))

    def forward(self, fields):
        return {name: value * torch.nan for name, value in fields.items()}


def test_what_cannot_be_right_is_refused_before_anything_is_written(tmp_path):
    predictor = Predictor(nn.Linear(3, 3), STATE)
    for out, message in (
        (tmp_path / "a", r"a does not say to what a network is to be exported: let it end in \.onnx or \.pt2"),
        (tmp_path / "a.csv", r"let it end in \.onnx or \.pt2"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_network(predictor, out)
    with pytest.raises(ConfigError, match="a network is exported to onnx or pt2, not 'csv'"):
        export_network(predictor, tmp_path / "a.csv", to="csv")
    with pytest.raises(ConfigError, match=r"a\.onnx is to be a program of torch.export: let its name end in \.pt2"):
        export_network(predictor, tmp_path / "a.onnx", to="pt2")
    for taken in ("b.pt2", "c.pt2.json"):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(ConfigError, match=f"{taken} exists; choose another name"):
            export_network(predictor, tmp_path / taken.removesuffix(".json"))
    unfitted = Predictor(nn.Linear(3, 3), STATE, transforms=Transforms.normalizing(STATE))
    with pytest.raises(ConfigError, match="a normalization of this network has no moments yet"):
        export_network(unfitted, tmp_path / "a.pt2")
    diverged = Predictor(nn.Linear(3, 3), STATE)
    with torch.no_grad():
        diverged.network.bias[1] = torch.nan
    with pytest.raises(ConfigError, match=r"the weights \['network.bias'\] hold numbers that are not finite"):
        export_network(diverged, tmp_path / "a.pt2")
    with pytest.raises(SampleError, match="has shape"):
        export_network(predictor, tmp_path / "a.pt2", samples={"x": np.zeros((2, 4), np.float32)})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.pt2", "c.pt2.json"]


def test_a_network_that_cannot_be_copied_is_refused(tmp_path):
    network = nn.Linear(3, 3)
    network.generator = (one for one in ())
    with pytest.raises(ConfigError, match="the network Linear cannot be exported, since it cannot be copied: "):
        export_network(Predictor(network, STATE), tmp_path / "a.pt2")


def test_the_command_line_knows_both_kinds_of_formats():
    assert registry.network_names() == ("onnx", "pt2")
    assert not set(registry.network_names()) & set(registry.names())
    with pytest.raises(ConfigError, match=r"there is no format 'csv'.*parquet.*, and for a network onnx and pt2"):
        registry.find("csv")


def test_the_lack_of_a_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("importlib.import_module", lambda name: _missing(name) if name == "onnx" else __import__(name))
    form = __import__("physgym.nn.export.onnx_model", fromlist=["x"]).NETWORK_FORMAT
    with pytest.raises(ConfigError, match=r"an export to ONNX needs onnx: pip install 'physgym\[onnx\]'"):
        form.write(Predictor(nn.Linear(3, 3), STATE), tmp_path / "a.onnx")


def _missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# --- exports, of which each takes seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to"),
    [
        *((name, "pt2") for name in ("mlp", "named", "unet", "fno")),
        *(pytest.param(name, "onnx", marks=ONNX) for name in ("mlp", "unet", "fno")),
    ],
)
def test_networks_and_dtypes(tmp_path, name, to):
    torch.manual_seed(0)
    if name in ("mlp", "named"):
        spec = MIXED
        network = MLP.from_spec(spec, hidden=(8, 8), residual=True, layer_norm=True) if name == "mlp" else Named()
    else:
        spec = GRID
        network = (
            UNet.from_spec(spec, dimensions=2, width=4, depth=1, boundary="circular", residual="uv")
            if name == "unet"
            else FNO.from_spec(spec, dimensions=2, width=4, modes=(2, 3), depth=1, padding=0.2)
        )
    predictor = predictor_of(network, spec)
    if name == "unet":
        hold = Hold.where({"next": np.arange(5) == np.zeros((2, 6, 1))}, {"next": 3.0})
        predictor.transforms.before_apply = Compose([predictor.transforms.before_apply, hold])
    out = tmp_path / f"net.{to}"
    line = export_network(predictor, out)
    assert line.startswith(f"written: {out} and net.{to}.json; largest difference to torch in batches of 1, 2, 7: ")
    assert sorted(file.name for file in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]
    said = json.loads((tmp_path / f"net.{to}.json").read_text())
    assert said["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert said["weights_sha256"] == weights_digest(predictor)
    for role, names in (("inputs", predictor.inputs), ("outputs", predictor.outputs)):
        assert [one["name"] for one in said[role]] == list(names)
        for one in said[role]:
            field = spec[one["name"]]
            assert one["shape"] == ["batch", *field.shape]
            assert (one["dtype"], one["unit"]) == (field.dtype.name, field.unit)
    samples, _ = samples_for(predictor, 5)
    want = predictor.predict(samples, batched=True)
    if to == "pt2":
        given = torch_run(out)({name: torch.from_numpy(samples[name]) for name in predictor.inputs})
        got = {name: value.numpy() for name, value in given.items()}
    else:
        values = onnx_run(out)({one["tensor"]: samples[one["name"]] for one in said["inputs"]})
        got = {one["name"]: value for one, value in zip(said["outputs"], values, strict=True)}
    for one in want:
        assert (got[one].dtype, got[one].shape) == (want[one].dtype, want[one].shape)
        np.testing.assert_allclose(got[one].astype(float), want[one].astype(float), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_wrong_shapes_and_dtypes_are_errors_of_whoever_runs_the_file(tmp_path, to):
    predictor = Predictor(Multiplied(), MULTIPLIED).eval()
    export_network(predictor, tmp_path / f"net.{to}")
    run = (torch_run if to == "pt2" else onnx_run)(tmp_path / f"net.{to}")
    right = {name: np.ones((4, 3), np.float32) for name in "pq"}
    wrong = {
        "another shape": {**right, "p": np.ones((4, 5), np.float32)},
        "no batch axis": {**right, "p": np.ones(3, np.float32)},
        "another dtype": {**right, "p": np.ones((4, 3))},
        "one sample of the other": {**right, "q": np.ones((1, 3), np.float32)},
        "missing": {"p": right["p"]},
        "unknown": {**right, "r": right["p"]},
    }
    messages = {
        "pt2": {
            "another shape": r"Expected input at \*args\[0\]\['p'\]\.shape\[1\] to be equal to 3, but got 5",
            "no batch axis": r"number of dimensions in input at \*args\[0\]\['p'\]",
            "another dtype": "dtype mismatch! Expected: Float, Got: double",
            "one sample of the other": r"input at \*args\[0\]\['q'\]\.shape\[0\] to be equal to 4, but got 1",
            "missing": r"exported input tree spec.*'p', 'q'",
            "unknown": r"exported input tree spec.*'p', 'q'",
        },
        "onnx": {
            "another shape": "invalid dimensions for input: p",
            "no batch axis": "Invalid rank for input: p",
            "another dtype": r"Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)",
            "one sample of the other": "as many samples of p and q",
            "missing": "missing from input feed",
            "unknown": "Invalid input name: r",
        },
    }[to]
    as_fed = torch.from_numpy if to == "pt2" else np.asarray
    got = run({name: as_fed(value) for name, value in right.items()})
    assert (got["y"] if to == "pt2" else got[0]).shape == (4, 3)
    other_order = {"q": as_fed(3 * right["q"]), "p": as_fed(right["p"])}
    assert (run(other_order)["y"] if to == "pt2" else run(other_order)[0])[0, 0] == 4
    for what, fed in wrong.items():
        with pytest.raises(Exception, match=f"(?s){messages[what]}"):
            run({name: as_fed(value) for name, value in fed.items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SomeSizes(), "the network SomeSizes cannot be exported: it takes batches of some sizes only"),
        (OneSize(), "the network OneSize cannot be exported: it takes batches of some sizes only"),
        (DependsOnData(), "the network DependsOnData cannot be exported: Python code in it depends on the values"),
    ],
)
def test_what_cannot_be_followed_is_one_error_and_no_file(tmp_path, network, message):
    with pytest.raises(ConfigError, match=message):
        export_network(Predictor(network, STATE), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_difference_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.nn.export.inference.as_declared", lambda value, dtype: (value + 1).to(dtype))
    with pytest.raises(ConfigError, match="predicts field 'y' with a difference of 1 to torch"):
        export_network(Predictor(nn.Linear(3, 3), STATE), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wrappers_are_left_out(tmp_path):
    inner = nn.Linear(3, 3)
    network = nn.Sequential(nn.DataParallel(inner), torch.compile(nn.Tanh(), backend="eager"))
    export_network(Predictor(network, STATE), tmp_path / "net.pt2")
    x = torch.randn(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(torch_run(tmp_path / "net.pt2")({"x": x})["y"], torch.tanh(inner(x)))


ALONE = """
import json, sys
import numpy as np
said = json.load(open(sys.argv[1] + ".json"))
samples = np.load(sys.argv[2])
if said["file"].endswith(".pt2"):
    import torch
    module = torch.export.load(sys.argv[1]).module()
    given = module({one["name"]: torch.from_numpy(samples[one["name"]]) for one in said["inputs"]})
    given = {name: value.detach().numpy() for name, value in given.items()}
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1])
    values = session.run(None, {one["tensor"]: samples[one["name"]] for one in said["inputs"]})
    given = {one["name"]: value for one, value in zip(said["outputs"], values)}
    assert "torch" not in sys.modules
assert "physgym" not in sys.modules
np.savez(sys.argv[3], **given)
"""


def run_alone(python, tmp_path, to):
    """Export a network, and run the file in a process that imports no physgym; return predictions of both."""
    torch.manual_seed(0)
    predictor = predictor_of(MLP.from_spec(GRID, hidden=(4,)), GRID)
    out = tmp_path / f"net.{to}"
    export_network(predictor, out)
    samples, _ = samples_for(predictor, 3)
    np.savez(tmp_path / "samples.npz", **samples)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, "-c", ALONE, str(out), str(tmp_path / "samples.npz"), str(tmp_path / "given.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "given.npz") as given:
        return given["next"], predictor.predict(samples, batched=True)["next"]


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_files_run_in_a_process_without_physgym(tmp_path, to):
    given, want = run_alone(sys.executable, tmp_path, to)
    np.testing.assert_allclose(given, want, rtol=1e-5, atol=1e-5)


def link_packages(site, *names):
    """Have a folder of packages hold some of those that are installed here, and what they need."""
    waiting, seen = [*names], set()
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
        needed = [Requirement(text) for text in distribution.requires or ()]
        found = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})} - seen
        waiting += found
        seen |= found


@pytest.mark.slow
@ONNX
def test_onnx_runs_where_there_are_onnxruntime_and_numpy_alone(tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    link_packages(site, "onnxruntime", "numpy")
    listed = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('physgym'))"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["None", "None"]
    given, want = run_alone(str(python), tmp_path, "onnx")
    np.testing.assert_allclose(given, want, rtol=1e-5, atol=1e-5)

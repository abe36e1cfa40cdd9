"""Engines: programs made of a network, compared with it, that take over changed weights."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

from physgym.errors import ConfigError, SampleError
from physgym.nn import MLP, Normalize, Predictor, Transforms, engines
from physgym.nn.export.contract import Contract
from physgym.nn.export.onnx_model import OnnxModel
from physgym.nn.prepared import PreparedPredictor
from physgym.runner import Runner, SurrogateEnv
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (3,), np.float32, "input"), Field("y", (2,), np.float32, "target", "mm")])
SAMPLE = {"x": np.arange(3, dtype=np.float32)}


def predictor() -> Predictor:
    torch.manual_seed(0)
    shift = Normalize({"x": (3,)})
    shift.fitted = True
    shift.get_buffer("mean_0").fill_(2.0)
    return Predictor(MLP.from_spec(SPEC, hidden=(8, 8)), SPEC, transforms=Transforms(shift)).eval()


def built(found, *_, threads):
    """In place of an engine, what it would be made of: the network in torch, with the weights of now."""
    copied = engines.Inference(found).predictor
    run = lambda fed: copied.predict(fed, batched=True)  # noqa: E731
    return engines.BuiltEngine(run, engines.network_digest(found), f"of {threads}")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "compiled"])
def test_an_engine_predicts_what_torch_does_to_rounding(engine):
    found, threads = predictor(), torch.get_num_threads()
    # a compiler of one program: nothing is made for later ones, and the processor is not tried
    with inductor.patch({"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False}):
        prepared = PreparedPredictor(found, engine=engine)
    assert "largest difference to torch: y " in prepared.choice.reason
    assert prepared.choice.reason.endswith(" mm")
    np.testing.assert_allclose(prepared.predict(SAMPLE)["y"], found.predict(SAMPLE)["y"], rtol=1e-5)
    for count in (1, 5):
        batch = {"x": np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)}
        got, want = (one.predict(batch, batched=True)["y"] for one in (prepared, found))
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    first = prepared.predict(SAMPLE)["y"]
    kept = first.copy()
    prepared.predict({"x": SAMPLE["x"] + 1})
    np.testing.assert_array_equal(first, kept)  # what was handed out is not written again
    with pytest.raises(SampleError, match="has shape"):
        prepared.predict({"x": np.zeros(4, np.float32)})
    assert torch.get_num_threads() == threads


def test_a_program_that_predicts_something_else_is_an_error(monkeypatch):
    wrong = lambda program, contract, folder, threads: lambda fed: {"y": np.zeros((len(fed["x"]), 2), np.float32)}  # noqa: E731
    monkeypatch.setattr(engines, "_in_onnx", wrong)
    with pytest.raises(
        ConfigError, match=r"engine 'onnx' predicts field 'y' with a difference of .* Use engine='torch'"
    ):
        PreparedPredictor(predictor(), engine="onnx")


def test_weights_that_have_changed_are_taken_over(monkeypatch):
    monkeypatch.setattr("physgym.nn.prepared.build_engine", built)
    found = predictor()
    prepared = PreparedPredictor(found, engine="onnx")
    before = prepared.predict(SAMPLE)["y"]
    for tensor in found.parameters():
        tensor.data.mul_(2.0)  # of which torch counts no version
    np.testing.assert_array_equal(prepared.predict(SAMPLE)["y"], before)
    prepared.refresh()
    np.testing.assert_array_equal(prepared.predict(SAMPLE)["y"], found.predict(SAMPLE)["y"])
    assert not np.array_equal(prepared.predict(SAMPLE)["y"], before)


class Scaled(nn.Module):
    """Holds numbers that are no weights."""

    def __init__(self):
        super().__init__()
        self.linear, self.factor = nn.Linear(3, 2), 1.0
        self.register_buffer("shift", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.linear(x) * self.factor + self.shift


class Other(Scaled):
    def forward(self, x):
        return self.linear(-x)


def exchange(found):
    other = Other()
    other.load_state_dict(found.network.state_dict())
    found.network = other


@pytest.mark.parametrize(
    "change",
    [
        lambda found: setattr(found.network, "factor", 3.0),
        lambda found: found.network.shift.fill_(1.0),
        exchange,
    ],
)
def test_what_has_changed_in_a_network_besides_weights_is_taken_over(monkeypatch, change):
    made = []
    monkeypatch.setattr(
        "physgym.nn.prepared.build_engine", lambda *given, **more: made.append(1) or built(*given, **more)
    )
    found = Predictor(Scaled(), SPEC)
    prepared = PreparedPredictor(found, engine="onnx")
    before = prepared.predict(SAMPLE)["y"]
    prepared.refresh()
    assert len(made) == 1
    change(found)
    prepared.refresh()
    np.testing.assert_array_equal(prepared.predict(SAMPLE)["y"], found.predict(SAMPLE)["y"])
    assert not np.array_equal(prepared.predict(SAMPLE)["y"], before)


def test_a_network_that_predicts_nothing_finite_is_not_said_to_need_an_argument_of_an_export(monkeypatch):
    for name in ("traced", "_in_onnx"):
        monkeypatch.setattr(engines, name, lambda *_: None)
    found = predictor()
    found.predict = lambda given, **_: {"y": np.full((len(given["x"]), 2), np.nan, np.float32)}
    with pytest.raises(ConfigError, match=r"no finite value of field 'y' .*; use engine='torch'"):
        PreparedPredictor(found, engine="onnx")


def test_what_onnx_cannot_compute_is_left_to_another_engine(tmp_path):
    """An export to another file is no way out of a run."""
    file = tmp_path / "network.onnx"
    file.write_bytes(b"nothing of ONNX")
    for form, advice in ((OnnxModel(), r"--to pt2"), (OnnxModel("use engine='torch'"), "or use engine='torch'")):
        with pytest.raises(ConfigError, match=advice) as raised:
            form.open(file, Contract.of(predictor(), distinct=True))
        assert ("pt2" in str(raised.value)) is (advice == "--to pt2")


def test_the_engine_onnx_names_other_engines_where_it_fails(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operation")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ConfigError, match=r"no such operation.* use engine='torch' or engine='compiled'$"):
        PreparedPredictor(predictor(), engine="onnx")


def test_what_no_engine_can_be_made_of_is_an_error_that_says_what_to_do():
    with pytest.raises(ConfigError, match="engine='fast' must be one of torch, compiled, onnx"):
        PreparedPredictor(predictor(), engine="fast")
    found = predictor()
    found.recurrent = True
    with pytest.raises(ConfigError, match="the network is recurrent; use engine='torch'"):
        PreparedPredictor(found, engine="onnx")
    none = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
    with none, pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and torch finds none"):
        PreparedPredictor(predictor(), engine="compiled")
    with pytest.raises(ConfigError, match="engine='onnx' is made of a physgym"):
        SurrogateEnv(lambda: gymnasium.make("physgym/Spring-v0"), lambda fields: fields, engine="onnx")


def test_a_run_by_an_engine_says_so_and_its_record_is_not_continued_by_another(tmp_path, monkeypatch):
    from physgym.errors import DatasetError
    from tests.running.test_runner import spring_predictor

    monkeypatch.setattr("physgym.nn.prepared.build_engine", built)
    with Runner("physgym/Spring-v0", spring_predictor(), engine="onnx", record=tmp_path / "run") as runner:
        report = runner.run(5, progress=False)
    assert "network alone" in str(report)
    assert report.computing.startswith("of ")
    with (
        Runner("physgym/Spring-v0", spring_predictor(), record=tmp_path / "run", resume=True) as runner,
        pytest.raises(DatasetError, match=r"engine='onnx', .* than those by engine='torch'; continue .*--engine onnx"),
    ):
        runner.run(5, progress=False)


def test_a_surrogate_predicts_by_an_engine(monkeypatch):
    from tests.running.test_runner import spring_predictor

    made = []
    monkeypatch.setattr(
        "physgym.nn.prepared.build_engine", lambda *given, **more: made.append(1) or built(*given, **more)
    )
    network = spring_predictor()
    plain, fast = (SurrogateEnv("physgym/Spring-v0", network, engine=engine) for engine in ("torch", "onnx"))
    for one in (plain, fast):
        one.reset(seed=1)
    action = plain.action_space.sample()
    np.testing.assert_array_equal(plain.step(action)[0], fast.step(action)[0])
    assert fast.predictor is network
    for tensor in network.parameters():
        tensor.data.mul_(1.5)
    fast.reset(seed=2)
    assert len(made) == 2
    with Runner(lambda: fast, network) as runner:  # whose own engine goes before that of its environment
        runner.run(2, progress=False)
    assert len(made) == 2

"""The state of a training in files: it comes back bit for bit, and what was damaged or forged is refused by name."""

from __future__ import annotations

import collections
import copy
import enum
import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load, save

from physgym.errors import CheckpointError
from physgym.nn import MLP, Optimization, Predictor, register
from physgym.training import (
    Callback,
    Checkpoints,
    Trainer,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from physgym.training.checkpoint_files import save_checkpoint
from physgym.training.checkpoint_manifests import digest_of, seal_of
from physgym.training.random_state import generator_states, seed_generators, set_generator_states
from physgym.training.state_codec import DEPTH, decode, encode
from tests.support.memory_samples import linear_samples
from tests.support.weights import copied_weights

quietly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def through_files(tree):
    """A tree as it comes back from the files of a checkpoint."""
    data, tensors = encode(tree)
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text, parse_constant=pytest.fail) == data
    return decode(json.loads(text), load(save(tensors)))


def same_bits(one, other) -> bool:
    """Equal in type and bits, NaN of the same kind included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        # NaN is a key that finds nothing
        return len(one) == len(other) and all(
            same_bits(*pair)
            for items in zip(one.items(), other.items(), strict=True)
            for pair in zip(*items, strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_bits, one, other))
    if isinstance(one, torch.Tensor):
        memory = [value.clone(memory_format=torch.contiguous_format).untyped_storage() for value in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and memory[0].tolist() == memory[1].tolist()
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return one.hex() == other.hex()
    return one == other


# --- what there is comes back

numbers = st.one_of(st.integers(-(2**200), 2**200), st.floats(), st.booleans())
scalars = st.one_of(st.none(), numbers, st.text(st.characters(), max_size=8))
keys = st.one_of(st.sampled_from(["a", "b", "a/b", "", "dict", "tensor", "__metadata__"]), scalars)
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
kinds = st.sampled_from(["?", *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"), *("f2", "f4", "f8")])
ndarrays = kinds.flatmap(lambda kind: arrays.arrays(np.dtype(kind), shapes))
tensors = st.one_of(
    ndarrays.map(lambda array: torch.from_numpy(array.copy())),
    st.sampled_from([torch.bfloat16, torch.complex64]).map(lambda dtype: torch.arange(6.0).to(dtype).view(2, 3).T),
)
leaves = st.one_of(scalars, ndarrays, tensors)


def branches(children):
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(st.one_of(keys, st.tuples(scalars, scalars)), children, max_size=4),
    )


@given(st.recursive(leaves, branches, max_leaves=12))
@quietly
def test_a_tree_comes_back_bit_for_bit(tree):
    assert same_bits(through_files(tree), tree)


def test_tensors_of_the_same_path_are_told_apart():
    one, two, three, four = (torch.full((2,), float(i)) for i in range(4))
    tree = {"a/b": one, "a": {"b": two, 1: three, "1": four}}
    assert same_bits(through_files(tree), tree)


def test_what_only_looks_different_is_the_same():
    base = torch.arange(24.0).view(2, 3, 4)
    array = np.arange(12, dtype=">i4").reshape(3, 4)[::-1, ::2]
    tree = {
        "view": base[:, 1:, ::2],
        "shared": [base, base],
        "expanded": torch.ones(1).expand(3),
        "grad": torch.ones(2, requires_grad=True),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "foreign": array,
        "scalars": [np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("text"), -0.0],
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict(a=1),
    }
    back = through_files(tree)
    assert torch.equal(back["view"], tree["view"])
    assert all(torch.equal(value, base) for value in back["shared"])
    assert torch.equal(back["expanded"], tree["expanded"])
    assert not back["grad"].requires_grad
    assert torch.equal(back["conjugate"], tree["conjugate"])
    assert back["foreign"].tolist() == array.tolist()
    assert same_bits(back["scalars"], [float(np.float32(0.1)), -3, True, "text", -0.0])
    assert same_bits(back["counter"], {"a": 2, "b": 1})
    assert same_bits(back["ordered"], {"a": 1})


class Colour(enum.IntEnum):
    RED = 1


OTHERS = {
    "set": {1},
    "bytes": b"1",
    "complex": 1j,
    "object": object(),
    "function": len,
    "enumeration": Colour.RED,
    "dtype": torch.float32,
    "generator": np.random.default_rng(0),
    "date": np.datetime64("2020-01-01", "ns"),
    "long double": np.longdouble(1),
    "long doubles": np.zeros(2, np.longdouble),
    "texts": np.array(["a"]),
    "objects": np.array([None]),
    "complex array": np.zeros(2, complex),
    "masked": np.ma.masked_array([1.0], [True]),
    "wide complex": torch.zeros(2, dtype=torch.complex128),
    "sparse": torch.eye(2).to_sparse(),
    "nowhere": torch.zeros(2, device="meta"),
    "huge": 10**5000,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_data_is_refused_with_its_place(name):
    value = OTHERS[name]
    with pytest.raises(CheckpointError, match=r"state/callbacks/1/mine is a .*Leave it out of state_dict"):
        encode({"callbacks": [None, {"mine": value}]})
    with pytest.raises(CheckpointError, match=r"state/x/0 is a"):
        encode({"x": (value,)})
    if name != "set" and getattr(value, "__hash__", None) is not None:
        with pytest.raises(CheckpointError, match=r"state/x, key is a|state/x, key/0 is a"):
            encode({"x": {value: 1}})
        with pytest.raises(CheckpointError, match=r"state/x, key is a|state/x, key/0 is a"):
            encode({"x": {(value,): 1}})


def test_what_has_no_end_is_refused():
    endless: dict = {}
    endless["again"] = [endless]
    with pytest.raises(CheckpointError, match="the state state contains itself, or more than"):
        encode(endless)
    deep: list = []
    for _ in range(DEPTH):
        deep = [deep]
    assert same_bits(through_files(deep), deep)
    with pytest.raises(CheckpointError, match="contains itself, or more than"):
        encode([deep])


FORGED = {
    "an unknown word": {"pickle": "gASVHAAA"},
    "two words": {"dict": {}, "tuple": []},
    "no word": {},
    "a dictionary of a list": {"dict": []},
    "a tuple of a text": {"tuple": "ab"},
    "a number that is none": {"float": "1.0"},
    "a number of code": {"float": "__import__('os')"},
    "pairs of three": {"items": [[1, 2, 3]]},
    "a key of a list": {"items": [[[1], 2]]},
    "a key of a tuple with a list": {"items": [[{"tuple": [[]]}, 2]]},
    "a key twice": {"items": [[1, 2], [1, 3]]},
    "no tensor": {"tensor": "gone"},
    "a tensor by number": {"tensor": 3},
    "an array that NumPy does not know": {"array": "half"},
}


@pytest.mark.parametrize("name", FORGED)
def test_what_encode_does_not_write_is_refused(name):
    with pytest.raises(CheckpointError, match=r"state/x.* is not as a checkpoint writes it"):
        decode({"dict": {"x": FORGED[name]}}, {"half": torch.zeros(2, dtype=torch.bfloat16)})


def test_too_many_levels_are_refused():
    deep: object = 1
    for _ in range(300):
        deep = {"tuple": [deep]}
    with pytest.raises(CheckpointError, match="contains itself, or more than"):
        decode(deep, {})


json_values = st.recursive(
    st.one_of(scalars, st.sampled_from(["state", "nan"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["dict", "items", "tuple", "float", "tensor", "array", "x"]), inner, max_size=2
        ),
    ),
    max_leaves=8,
)


@given(json_values)
@quietly
def test_any_json_is_decoded_or_refused(data):
    problem = "state"
    try:
        decode(data, {"state": torch.zeros(2)})
    except CheckpointError as error:
        problem = str(error)
    assert problem.startswith(("state", "the state"))


@given(st.integers(0, 2**64), st.integers(0, 5))
@quietly
def test_generators_go_on_where_they_were(seed, drawn):
    def draw():
        return (
            [random.gauss(0, 1), random.random()],
            np.random.normal(size=1).tolist(),  # noqa: NPY002 - one, so that its other half waits
            [np.random.randint(2**31)],  # noqa: NPY002
            torch.randn(17).tolist(),
        )

    before = generator_states()
    try:
        seed_generators(seed % 2**63)
        for _ in range(drawn):
            draw()
        states = through_files(generator_states())
        wanted = draw(), draw()
        seed_generators(1)
        set_generator_states(states)
        assert (draw(), draw()) == wanted
    finally:
        set_generator_states(before)


# --- checkpoints that were damaged, or written by somebody else


class Tally(Callback):
    """Has a state of its own."""

    def __init__(self):
        self.kept = {"count": 0, "seen": np.arange(3), ("a", 1): torch.ones(2)}

    def batch_end(self, trainer, values):
        self.kept["count"] += 1

    def state_dict(self):
        return dict(self.kept)

    def load_state_dict(self, state):
        self.kept = state


def trainer(folder, **options):
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(8,), dropout=0.1)
    optimization = Optimization(network, lr=1e-2, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2))
    saving = [Tally(), Checkpoints(folder, steps=3, keep=None)]
    given_options = {
        "epochs": 2,
        "batch_size": 32,
        "validation": 0.2,
        "callbacks": saving,
        "progress": False,
        **options,
    }
    return Trainer(network, linear_samples(128), optimization=optimization, **given_options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("whole")
    run = trainer(folder)
    run.fit()
    for path in list_checkpoints(folder):
        if path.name != "epoch-0001-step-00000006":
            shutil.rmtree(path)
    return folder


@pytest.fixture
def broken(whole, tmp_path):
    """A checkpoint to be damaged."""
    shutil.copytree(whole, tmp_path / "broken")
    return find_checkpoint(tmp_path / "broken")


def refused(path: Path) -> str:
    """What whoever uses a damaged checkpoint is told; the network in training is left alone."""
    with pytest.raises(CheckpointError) as by_loading:
        load_checkpoint(path)
    with pytest.raises(CheckpointError) as by_resuming:
        trainer(path.parent, resume=path)
    assert str(path) in str(by_loading.value)
    assert str(path) in str(by_resuming.value)
    return str(by_resuming.value)


def reseal(path: Path, name: str | None = None, data=None) -> None:
    """Write a JSON file anew, and make the manifest agree."""
    if name is not None:
        (path / name).write_text(data if isinstance(data, str) else json.dumps(data))
    manifest = json.loads((path / "manifest.json").read_text())
    if name != "manifest.json":
        manifest["files"] = {file: digest_of(path / file) for file in manifest["files"]}
    manifest["digest"] = seal_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


FILES = ["manifest.json", "network.safetensors", "training.json", "training.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_a_cut_and_a_gap_are_found(broken, name):
    rng, file = random.Random(name), broken / name
    data = file.read_bytes()
    for _ in range(25):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        if name == "manifest.json":
            with pytest.raises(CheckpointError, match=r"manifest|format"):
                load_checkpoint(broken)
            if json_of(file) != json.loads(data):
                refused(broken)
        else:
            with pytest.raises(CheckpointError, match=f"{name} was changed after it was written"):
                trainer(broken.parent, resume=broken)
    for cut in (0, 1, len(data) // 2, len(data) - 2):
        file.write_bytes(data[:cut])
        assert name in refused(broken)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing|there is no checkpoint"):
        trainer(broken.parent, resume=broken)


def json_of(file: Path):
    try:
        return json.loads(file.read_text())
    except ValueError:
        return None


@pytest.mark.parametrize("name", ["manifest.json", "training.json"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "nul", "[]", "null", "3", '"text"', "{}", "\x00", '{"a": 1}', "{" * 10**5),
        "[" * 10**5 + "]" * 10**5,
        '{"dict": ' * 5000 + "1" + "}" * 5000,
        "1" * 5000,
        '{"format": 1' + ', "x": 1' * 10**5,
    ],
    ids=lambda text: f"{text[:10]!r} of {len(text)}",
)
def test_another_text_is_refused(broken, name, text):
    if name == "manifest.json":
        (broken / name).write_text(text)
        assert name in refused(broken)
    else:
        reseal(broken, name, text)
        with pytest.raises(CheckpointError, match=rf"{broken.name}.*"):
            trainer(broken.parent, resume=broken)


def test_a_foreign_file_is_refused(broken):
    for name in ("network.safetensors", "training.safetensors"):
        data = (broken / name).read_bytes()
        for content in (b"", b"\x80\x04K*.", b"\xff" * 100, (10**6).to_bytes(8, "little") + b"{}", save({})):
            (broken / name).write_bytes(content)
            reseal(broken)
            with pytest.raises(CheckpointError, match=str(broken)):
                trainer(broken.parent, resume=broken)
        (broken / name).write_bytes(data)
    reseal(broken)
    trainer(broken.parent, resume=broken)


def test_what_does_not_fit_is_named_with_both_shapes(broken):
    run = trainer(broken.parent)
    before = copied_weights(run)
    tensors = load((broken / "network.safetensors").read_bytes())
    for change, message in (
        ({"network.head.bias": torch.zeros(5)}, r"network\.head\.bias has shape \(5,\) in the file and \(4,\) in the"),
        (
            {"network.head.bias": torch.zeros(4).double()},
            r"head\.bias has dtype torch\.float64 .* and torch\.float32 in",
        ),
        ({"more": torch.zeros(1)}, "more is not known"),
    ):
        (broken / "network.safetensors").write_bytes(save({**tensors, **change}))
        reseal(broken)
        with pytest.raises(CheckpointError, match=f"(?s){broken.name} do not fit the network MLP.*{message}"):
            run._resumable.resume(broken, None)
        assert all(torch.equal(value, before[name]) for name, value in copied_weights(run).items())


def test_a_refused_checkpoint_leaves_the_network_as_it_was(broken):
    torch.manual_seed(1)
    network = MLP((3, 2), 4, hidden=(8,), dropout=0.1)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match="batch_size was 32, now it is 16"):
        Trainer(network, linear_samples(128), epochs=2, batch_size=16, validation=0.2, resume=broken, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# --- every entry of its files replaced

WRONG = [None, True, -1, 2.5, "text", [], {}, [1, 2], {"dict": {}}, {"dict": {"x": 1}}, {"float": "nan"}, 10**30]


def places(data, path=()):
    """The places in JSON data, leaves and branches."""
    yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


def replaced(data, path, value):
    data = copy.deepcopy(data)
    if not path:
        return value
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


def kind(value):
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.slow
def test_any_entry_of_the_manifest_may_be_of_another_kind(broken):
    manifest, rng, problems = json.loads((broken / "manifest.json").read_text()), random.Random(0), []
    for path in [place for place in places(manifest) if place]:
        for value in rng.sample(WRONG, 4):
            reseal(broken, "manifest.json", replaced(manifest, path, value))
            for use in (lambda: load_checkpoint(broken), lambda: trainer(broken.parent, resume=True)):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of torch, about layers without width
                        use()
                except CheckpointError as error:
                    problems.append(str(error))
    assert len(problems) > 100
    assert all(str(broken.parent) in problem for problem in problems)


# what users put there, what only they know, and what is not known before the first step
FREE = {"history", "versions", "source", "Tally-1", "gauss", "run", "state", "foreach", "fused"}


@pytest.mark.slow
def test_any_entry_of_the_training_may_be_of_another_kind(broken):
    state, rng, problems = json.loads((broken / "training.json").read_text()), random.Random(0), []
    for path in places(state):
        now = state
        for key in path:
            now = now[key]
        for value in rng.sample(WRONG, 2):
            if kind(value) == kind(now):
                continue
            reseal(broken, "training.json", replaced(state, path, value))
            try:
                trainer(broken.parent, resume=True)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                counts = kind(now) == "number" and (value is True or value == {"float": "nan"})
                assert counts or now is None or FREE & set(path), f"{path}: {value!r} in place of {now!r}"
    assert len(problems) > 150
    assert all(str(broken) in problem for problem in problems)


# --- what is in the folder


def standard(file: Path):
    """JSON as any reader takes it."""
    return json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is in {file}"))


def test_the_files_are_standard_json_whatever_the_values(tmp_path):
    class Odd(Callback):
        def epoch_end(self, trainer, values):
            values |= {"validation_loss": float("nan"), "mine": np.float32(0.5), "yours": torch.tensor(3)}
            values["theirs"] = float("inf")

        def state_dict(self):
            return {"worst": -float("inf")}

    trainer(tmp_path, callbacks=[Odd(), Checkpoints(tmp_path)], epochs=1).fit()
    path = find_checkpoint(tmp_path)
    manifest = standard(path / "manifest.json")
    assert "score" not in manifest
    told = {name: manifest["values"][name] for name in ("validation_loss", "mine", "yours", "theirs")}
    assert told == {"validation_loss": None, "mine": 0.5, "yours": 3, "theirs": None}
    standard(path / "training.json")
    again = trainer(tmp_path, callbacks=[Odd()], epochs=1, resume=path)
    assert np.isnan(again.history["validation_loss"][0])
    assert again.history["theirs"] == [float("inf")]


def test_what_is_no_json_is_refused_with_its_name(tmp_path):
    run = trainer(tmp_path)
    for value in ({1}, np.zeros(2), object()):
        with pytest.raises(CheckpointError, match="the entry mine/0 of the manifest is no JSON data"):
            save_checkpoint(tmp_path / "one", run.predictor, mine=[value])
    assert not list(tmp_path.iterdir())


def test_arguments_that_are_no_json_leave_the_network_to_the_caller(tmp_path):
    class Unusual(MLP):
        config = property(lambda self: {"shape": (3, 2), "limit": float("inf")})

    register(Unusual)
    samples = linear_samples(64)
    path = save_checkpoint(tmp_path / "one", Predictor(Unusual((3, 2), 4), samples.spec))
    standard(path / "manifest.json")
    with pytest.raises(CheckpointError, match=r"cannot be built from its description. Pass network="):
        load_checkpoint(path)
    load_checkpoint(path, network=Unusual((3, 2), 4))


def test_all_files_may_be_read_by_the_same_people(whole):
    files = list(find_checkpoint(whole).iterdir())
    assert len(files) == len(FILES)
    assert len({file.stat().st_mode for file in files}) == 1


def test_one_training_at_a_time_saves_in_a_folder(tmp_path):
    class Second(Callback):
        def epoch_end(self, run, values):
            with pytest.raises(CheckpointError, match=f"another training saves its checkpoints in {tmp_path}"):
                trainer(tmp_path).fit()
            child = os.fork()  # as of a loader or a simulation; what it does to the lock is no matter
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            with pytest.raises(CheckpointError, match="another training"):
                trainer(tmp_path, resume=True).fit()

    trainer(tmp_path, callbacks=[Second(), Checkpoints(tmp_path)]).fit()
    assert find_checkpoint(tmp_path).name == "epoch-0002"
    trainer(tmp_path).fit()
    assert find_checkpoint(tmp_path).name == "epoch-0004"
    run = trainer(tmp_path / "file" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"cannot save checkpoints in {tmp_path / 'file' / 'folder'}"):
        run.fit()


@pytest.mark.parametrize("keep", [1, None])
def test_a_training_that_goes_on_from_an_earlier_checkpoint_leaves_the_later_ones(tmp_path, keep):
    """They may be what it is to replace: with all of them of one training, resume=True would take the old one."""

    def run(**options):
        return trainer(tmp_path, **{"callbacks": [Checkpoints(tmp_path, keep=keep, best=False)], **options})

    trainer(tmp_path, epochs=3, callbacks=[Checkpoints(tmp_path, keep=None)]).fit()
    first, _, third = list_checkpoints(tmp_path)
    old = third.stat().st_ino
    anew = run(epochs=2, resume=first)
    anew.fit()
    assert third.stat().st_ino == old
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"epoch-000{n}" for n in (1, 2, 3, 4)]
    longer = run(epochs=3, resume=True)
    assert longer.epoch == 2
    assert all(torch.equal(value, copied_weights(anew)[name]) for name, value in copied_weights(longer).items())
    longer.fit()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == [f"epoch-000{n}" for n in ((1, 2, 3, 5) if keep else (1, 2, 3, 4, 5))]

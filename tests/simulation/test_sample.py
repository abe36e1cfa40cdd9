from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import physgym
from physgym.errors import ConfigError, SampleError
from physgym.sample import Field, RecordTransition, SampleSpec, present


def env_with(**declaration: Any) -> Any:
    env = gym.Env()
    for name, value in declaration.items():
        setattr(env, name, value)
    return env


def box(shape: tuple[int, ...], dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(0, 100, shape, dtype)


FIELDS = spaces.Dict(
    {
        "force": box((2, 3)),
        "mesh": spaces.Dict({"nodes": box((4,), np.float64), "count": spaces.Discrete(1000, dtype=np.int32)}),
        "pair": spaces.Tuple([box((1,)), spaces.MultiBinary(2)]),
    }
)


@pytest.fixture
def spec() -> SampleSpec:
    env = env_with(
        sample_space=FIELDS,
        sample_roles={"force": "input", "mesh/nodes": "target"},
        sample_units={"force": "N"},
    )
    found = SampleSpec.from_env(env)
    assert found is not None
    return found


def value() -> dict[str, Any]:
    return {
        "force": np.ones((2, 3), np.float32),
        "mesh": {"nodes": np.arange(4.0), "count": 7},
        "pair": (np.zeros(1, np.float32), np.ones(2, np.int8)),
    }


SAID = {
    "sample_dimensions": {"uv": 2},
    "sample_kinds": {"wall": "flag", "material": "one-hot"},
    "sample_masks": {"nodes": "there", "uv": "wall", "listed": "count"},
}
SAID_SPACE = spaces.Dict(
    uv=box((2, 4, 5)),
    wall=box((4, 5)),
    material=box((3,)),
    nodes=box((6, 3)),
    there=spaces.MultiBinary(6),
    listed=box((7,)),
    count=spaces.Discrete(8),
)


def test_what_is_said_about_fields_travels_and_changes_no_stored_byte_where_nothing_is_said():
    found = SampleSpec.from_env(env_with(sample_space=SAID_SPACE, **SAID))
    assert (found["uv"].dimensions, found["wall"].kind, found["nodes"].mask) == (2, "flag", "there")
    again = SampleSpec.from_json(json.loads(json.dumps(found.to_json())))
    assert [repr(field) for field in again.values()] == [repr(field) for field in found.values()]
    plain = SampleSpec.from_env(env_with(sample_space=SAID_SPACE))
    assert {key for item in plain.to_json() for key in item} == {"name", "shape", "dtype", "role", "unit"}
    assert plain == found  # so that a dataset goes on after something was declared


def test_a_mask_says_what_is_there():
    found = SampleSpec.from_env(env_with(sample_space=SAID_SPACE, **SAID))
    for name, mask, value, want in (
        ("nodes", "there", [1, 0, 1, 0, 0, 1], (slice(None), [0, 2, 5])),
        (
            "uv",
            "wall",
            np.arange(20).reshape(4, 5) % 3,
            (slice(None), slice(None), np.arange(20).reshape(4, 5) % 3 > 0),
        ),
        ("listed", "count", 3, (slice(None), slice(3))),
    ):
        values = np.asarray(value)[None]
        flags = np.broadcast_to(present(found[name], found[mask], values), (1, *found[name].shape))
        expected = np.zeros_like(flags)
        expected[want] = True
        np.testing.assert_array_equal(flags, expected)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"sample_dimensions": {"uv": 1}}, r"'uv' has 1 axes of a grid; with a shape of \(2, 4, 5\)"),
        ({"sample_dimensions": {"uw": 2}}, r"sample_dimensions names \['uw'\]"),
        ({"sample_kinds": {"wall": "flags"}}, "the kind of field 'wall' is 'flags'"),
        ({"sample_masks": {"nodes": "wall"}}, r"'wall' tells which values of 'nodes'.* not of shape \(4, 5\)"),
        ({"sample_masks": {"nodes": "thre"}}, r"names \['thre'\] as masks"),
    ],
)
def test_what_is_said_wrongly_is_named(said, message):
    with pytest.raises(SampleError, match=message):
        SampleSpec.from_env(env_with(sample_space=SAID_SPACE, **said))


def test_a_declaration_becomes_fields_in_the_order_of_travel(spec):
    assert list(spec) == ["force", "mesh/count", "mesh/nodes", "pair/0", "pair/1"]
    assert spec["force"] == Field("force", (2, 3), np.dtype(np.float32), "input", "N")
    assert spec["mesh/count"] == Field("mesh/count", (), np.dtype(np.int32), "additional", "")
    assert spec.names("input") == ("force",)
    assert spec.names("target") == ("mesh/nodes",)
    assert spec.names("additional") == ("mesh/count", "pair/0", "pair/1")
    assert spec["force"].nbytes == 24
    assert spec.nbytes == 24 + 4 + 32 + 4 + 2
    assert len(spec) == 5
    assert "force: (2, 3) float32 input [N]" in repr(spec)


def test_an_environment_without_declaration_has_no_spec():
    assert SampleSpec.from_env(env_with()) is None


@pytest.mark.parametrize(
    ("declaration", "text"),
    [
        ({"sample_space": box((2,))}, "must be a gymnasium.spaces.Dict of fields, not Box"),
        ({"sample_space": FIELDS, "sample_roles": {"farce": "input"}}, r"sample_roles names \['farce'\]"),
        ({"sample_space": FIELDS, "sample_units": {"nodes": "m"}}, r"sample_units names \['nodes'\]"),
        ({"sample_space": FIELDS, "sample_roles": {"force": "output"}}, "'output'"),
        ({"sample_space": spaces.Dict()}, "at least one field"),
        (
            {"sample_space": spaces.Dict({"a/b": box((1,)), "a": spaces.Dict({"b": box((1,))})})},
            "two fields of a sample share a name",
        ),
    ],
)
def test_a_contradictory_declaration_is_an_error(declaration, text):
    with pytest.raises(SampleError, match=text):
        SampleSpec.from_env(env_with(**declaration))


def test_fields_survive_json(spec):
    again = SampleSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert list(again.values()) == list(spec.values())


def test_a_good_sample_becomes_flat_with_the_declared_dtypes(spec):
    flat = spec.check(value())
    assert list(flat) == list(spec)
    assert {name: (array.shape, array.dtype) for name, array in flat.items()} == {
        name: (field.shape, field.dtype) for name, field in spec.items()
    }
    assert flat["mesh/count"] == 7
    assert list(spec.check(flat)) == list(spec)  # flat names are as good as nested ones


def test_values_convert_within_their_kind(spec):
    sample = value()
    sample["force"] = [[1, 2, 3], [4.5, 5, 6]]
    sample["mesh"]["nodes"] = np.arange(4, dtype=np.int64)
    flat = spec.check(sample)
    assert flat["force"].dtype == np.float32
    assert flat["force"][1, 0] == 4.5
    assert flat["mesh/nodes"].dtype == np.float64


def broken(path: str, new: Any) -> dict[str, Any]:
    sample: Any = value()
    *keys, last = path.split("/")
    inner = sample
    for key in keys:
        inner = inner[key]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return sample


@pytest.mark.parametrize(
    ("path", "new", "text"),
    [
        ("force", None, "field 'force' is missing"),
        ("mesh/nodes", None, "field 'mesh/nodes' is missing"),
        ("mesh/edges", 1, "field 'mesh/edges' is not in sample_space"),
        ("force", np.zeros((3, 2)), r"\['force'\] has shape \(3, 2\); sample_space says \(2, 3\)"),
        ("force", 1.0, r"\['force'\] has shape \(\)"),
        ("force", [[1.0, 2.0, 3.0], [4.0]], r"\['force'\] is not an array"),
        ("mesh/count", 1.5, r"\['mesh/count'\] has dtype float64"),
        ("mesh/count", 2**40, r"\['mesh/count'\] has values that int32 cannot hold"),
        ("force", np.full((2, 3), "x"), r"\['force'\] has dtype <U1"),
        ("force", np.full((2, 3), np.inf), r"\['force'\] holds 6 non-finite values, the first at index \(0, 0\)"),
        ("force", np.full((2, 3), 1e300), r"\['force'\] has values that float32 cannot hold"),
        ("mesh/nodes", [0, 0, np.nan, 0], r"\['mesh/nodes'\] holds 1 non-finite values, the first at index \(2,\)"),
    ],
)
def test_a_bad_sample_is_an_error_that_names_place_and_field(spec, path, new, text):
    with pytest.raises(SampleError, match="episode 3, step 7: .*" + text):
        spec.check(broken(path, new), "episode 3, step 7")


@given(
    st.sampled_from([np.float16, np.float32, np.float64, np.complex64, np.int64, np.int8, np.bool_]),
    st.sampled_from([np.float16, np.float32, np.float64, np.complex128, np.int32]),
    st.lists(st.sampled_from([0, 1, -2, 300, 70000.5, 1e39, 1e300, np.inf, np.nan]), min_size=2, max_size=2),
    st.booleans(),
)
def test_arrays_of_floats_are_checked_as_all_others(given_as, wanted, values, finite):
    spec = SampleSpec([Field("x", (2,), np.dtype(wanted), "input")])
    with np.errstate(all="ignore"):
        array = np.array(values).astype(given_as)

    def outcome(value):
        try:
            checked = spec.check({"x": value}, finite=finite)["x"]
        except SampleError as error:
            return str(error)
        return checked.dtype, checked.tobytes()

    class Other(np.ndarray):
        pass

    assert outcome(array) == outcome(array.view(Other))
    if not isinstance(outcome(array), str):
        assert not np.shares_memory(spec.check({"x": array}, finite=finite)["x"], array)


def test_a_sample_must_be_a_dictionary(spec):
    with pytest.raises(SampleError, match="must be a dictionary of fields, not ndarray"):
        spec.check(np.zeros(3))  # type: ignore[arg-type]


@pytest.mark.slow
def test_any_environment_becomes_a_sample_source(tmp_path):
    def make():
        return RecordTransition(gym.make("CartPole-v1"))

    dataset = physgym.generate(make, tmp_path / "d", samples=300, num_workers=2, seed=4, progress=False)
    same = physgym.generate(make, tmp_path / "e", samples=300, num_workers=1, num_envs=3, seed=4, progress=False)
    stored = dataset[:]
    for name, values in same[:].items():
        np.testing.assert_array_equal(stored[name], values)
    assert dataset.spec["action"].role == "input"
    assert dataset.spec["next_observation"].role == "target"
    ended = (stored["terminated"] | stored["truncated"]).astype(bool)
    following = dataset.index("step")[1:] > 0
    np.testing.assert_array_equal(following, ~ended[:-1])
    np.testing.assert_array_equal(stored["observation"][1:][following], stored["next_observation"][:-1][following])
    env = gym.make("CartPole-v1").unwrapped
    env.reset()
    env.state = stored["observation"][0].astype(np.float64)
    np.testing.assert_allclose(env.step(stored["action"][0])[0], stored["next_observation"][0], rtol=1e-5)


def test_nested_spaces_give_a_field_per_array():
    class Nested(gym.Env):
        observation_space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,)))
        action_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))])

    names = list(SampleSpec.from_env(RecordTransition(Nested())))
    assert {"observation/a", "observation/b", "action/0", "action/1", "next_observation/b", "reward"} <= set(names)
    Nested.observation_space = spaces.Text(3)
    with pytest.raises(ConfigError, match="no fixed byte layout"):
        RecordTransition(Nested())

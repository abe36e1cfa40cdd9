from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from physgym.errors import SampleError
from physgym.sample import Field, SampleSpec


def env_with(**declaration: Any) -> Any:
    env = SimpleNamespace(**declaration)
    env.unwrapped = env
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
        ("force", np.full((2, 3), 1e300), r"\['force'\] holds 6 non-finite"),
        ("mesh/nodes", [0, 0, np.nan, 0], r"\['mesh/nodes'\] holds 1 non-finite values, the first at index \(2,\)"),
    ],
)
def test_a_bad_sample_is_an_error_that_names_place_and_field(spec, path, new, text):
    with pytest.raises(SampleError, match="episode 3, step 7: .*" + text):
        spec.check(broken(path, new), "episode 3, step 7")


def test_a_sample_must_be_a_dictionary(spec):
    with pytest.raises(SampleError, match="must be a dictionary of fields, not ndarray"):
        spec.check(np.zeros(3))  # type: ignore[arg-type]

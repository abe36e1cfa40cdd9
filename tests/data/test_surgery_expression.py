"""Conditions on samples: what they mean, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data.surgery.expression import LONGEST, Expression
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec

N = 5
SPEC = SampleSpec(
    [
        Field("x", (3,), np.dtype("f4"), "input"),
        Field("both", (), np.dtype("f8"), "input"),
        Field("group/pixels", (2, 2), np.dtype("u1"), "input"),
        Field("ok", (), np.dtype("?"), "additional"),
        Field("wave", (2,), np.dtype("c8"), "additional"),
        Field("name", (), np.dtype("U4"), "additional"),
        Field("count", (), np.dtype("i4"), "additional"),
        Field("padded", (3, 2), np.dtype("f4"), "input", mask="count"),
        Field("flags", (4,), np.dtype("?"), "additional"),
        Field("some flags", (3,), np.dtype("?"), "additional", mask="count"),
        Field("half", (), np.dtype("f2"), "additional"),
        Field("\N{MICRO SIGN}", (), np.dtype("f8"), "additional"),
    ]
)
PARAMETERS = SampleSpec([Field("k", (), np.dtype("f8"), "input"), Field("both", (), np.dtype("f8"), "input")])
COUNT = np.array([0, 1, 2, 3, 1], "i4")
FIELDS = {
    "x": np.arange(N * 3, dtype="f4").reshape(N, 3) / 10,
    "both": np.arange(N) / 2,
    "group/pixels": np.full((N, 2, 2), 200, "u1"),
    "ok": np.arange(N) % 2 == 0,
    "wave": np.full((N, 2), 3 + 4j, "c8"),
    "name": np.array(["a"] * N, "U4"),
    "count": COUNT,
    "padded": np.where(np.arange(3)[:, None] < COUNT[:, None, None], 1, -7).repeat(2, -1).astype("f4"),
    "flags": np.arange(N * 4).reshape(N, 4) % 5 == 0,
    "some flags": np.ones((N, 3), bool),
    "half": np.array([np.inf, 1, 2048, np.nan, -1], "f2"),
    "\N{MICRO SIGN}": np.arange(N) * 1.0,
}
VALUES = {
    "field": FIELDS,
    "parameter": {"k": np.arange(N) * 1.0, "both": np.ones(N)},
    "index": {"episode": np.arange(N) // 2, "step": np.arange(N) % 2},
}


def evaluate(text):
    found = Expression(text)
    found.check(SPEC, PARAMETERS)
    return found.evaluate(SPEC, PARAMETERS, lambda kind, name: VALUES[kind][name])


X, K, EPISODE, STEP = FIELDS["x"], np.arange(N) * 1.0, np.arange(N) // 2, np.arange(N) % 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max(x) < 0.6", X.max(1) < 0.6),
        ("min(x) == 0.3", X.min(1) == np.float32(0.3)),  # compared in the precision of the field
        ("norm(x - mean(x)) > 0.1", np.linalg.norm(X - X.mean(1, keepdims=True), axis=1) > 0.1),
        ("x[-1] > 0.5 and x[0] >= 0", X[:, -1] > 0.5),
        ("0 < k < 3", (K > 0) & (K < 3)),
        ("not ok or k ** 2 // 2 % 3 == 2", ~FIELDS["ok"] | (K**2 // 2 % 3 == 2)),
        ("episode == 1 and step != 0", (EPISODE == 1) & (STEP != 0)),
        ("field(both) + parameter(both) > 2", FIELDS["both"] + 1 > 2),
        ('max("group/pixels" + 100) == 300', np.ones(N, bool)),  # no overflow of 8 bits
        ('mean("group/pixels") / -2 == -100', np.ones(N, bool)),
        ("norm(wave) > 7 and abs(wave[0]) == 5", np.ones(N, bool)),
        ("isfinite(x / k)", K > 0),
        ("min(k, 2) == k", K <= 2),
        ("max(k, norm(x)) > 2", np.maximum(K, np.linalg.norm(X, axis=1)) > 2),
        ("min(flags) or max(flags)", FIELDS["flags"].any(1)),
        ("mean(flags) == 0.25", FIELDS["flags"].mean(1) == 0.25),
        ("min(padded) == 1 and max(padded - 0) == 1", COUNT > 0),  # what is there; nothing compares as false
        ("mean(padded) == 1", COUNT > 0),
        ("norm(padded) ** 2 < 3 and isfinite(padded)", COUNT <= 1),
        ("k / 0 > 1", K > 0),
        ("episode\n> 0", EPISODE > 0),
        ("padded[1, 0] < 5", COUNT > 1),  # padding compares as false
        ("padded[1, 0] != 5", COUNT > 1),
        ("0 < 5 > padded[1, 0] + 1", COUNT > 1),
        ("not padded[1, 0] >= 5", np.ones(N, bool)),
        ("max(padded[1, 0], 0) < 5", COUNT > 1),
        ("norm(padded[1, 0]) < 9", COUNT > 1),
        ("abs(padded[1, 0]) < 9 or mean(padded[1, 0]) < 9", COUNT > 1),
        ("mean(padded) != 5 and min(padded) != 5", COUNT > 0),
        ("'some flags'[1]", COUNT > 1),
        ("'some flags'[1] or k < 0", COUNT > 1),
        ("half <= 70000", [False, True, True, False, True]),  # as of half + 0
        ("70000 >= half", [False, True, True, False, True]),
        ("half == 2049", np.zeros(N, bool)),
        ("half != 1", [True, False, True, False, True]),
        ("x[0] / 0 <= 1e39", np.zeros(N, bool)),
        ("\N{MICRO SIGN} > 1", K > 1),
        ("field(\N{MICRO SIGN}) > 1 and '\N{MICRO SIGN}' > 1", K > 1),
    ],
)
def test_an_expression_tells_which_samples_fulfil_it(text, wanted):
    found = evaluate(text)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x < 3", r"x is an array of shape \(3,\); take one value of it: min\(x\), max\(x\)"),
        ("x - 1 < 3", r"x - 1 is an array"),
        ("flags", "flags is an array"),
        ("not flags", "flags is an array"),
        ("speed > 3", r"no field or parameter 'speed'; there are the fields 'x'.* parameters 'k', 'both', and episode"),
        ("field(k) > 3", "no field 'k'"),
        ("both > 1", r"'both' is the name of a field and of a parameter; write field\(both\) or parameter\(both\)"),
        ("wave[0] > 1", r"wave\[0\] is complex; take norm"),
        ("name == 1", "'name' is a text"),
        ("k == 'b'", "no field or parameter 'b'"),
        ("k", "k is no condition"),
        ("k and ok", "k is no condition, and stands where one is wanted"),
        ("ok + 1 > 1", "ok is a flag, and stands where numbers are wanted"),
        ("1 < 2", "compares numbers with numbers"),
        ("x[3] > 1", r"x has shape \(3,\)"),
        ("x[0:2] > 1", "an index of an array is an integer"),
        ("k ** k > 1", "a power is a number of at most 16"),
        ("2 ** 9 ** 9 ** 9 > k", "a power is a number of at most 16"),
        ("9 ** 16 * 1e300 ** 2 > k", "no finite number"),
        ("k > 1e999", "too large"),
        ("k > " + "9" * 1900, "too large"),
        ("k > " + "9" * LONGEST, f"{LONGEST} are the most"),
        ("-" * 900 + "k > 1", "nested"),
        ("(" * 900 + "k" + ")" * 900, "is no expression"),
        ("+".join(["k"] * 300) + " > 1", "nested"),
        ("x + padded > 1", r"x has shape \(3,\) and padded \(3, 2\)"),
        ("sum(x) > 1", "no function 'sum' in expressions; there are min, max, mean, norm, isfinite"),
        ("norm(x, 1) > 1", "norm takes one argument"),
        ("norm(x=x) > 1", "norm takes one argument"),
        ("min(x, 3) > 1", "x is an array"),
        ("norm(5) > 1", "takes the values of samples"),
        ("field(1) > 1", "field takes a name"),
        ("k & 1", "write and and or in place of & and |"),
        ("~ok", "write not in place of ~"),
        ("k is 3", "compares by"),
        ("k in k", "compares by"),
        ("x.shape > 1", "has no Attribute"),
        ("__import__('os').system('true')", "no function"),
        ("(lambda: 1)() > 1", "no function"),
        ("[k for k in x]", "has no ListComp"),
        ("ok if ok else ok", "has no IfExp"),
        ("f'{k}' > 1", "has no JoinedStr"),
        ("(k := 3) > 1", "has no NamedExpr"),
        ("True", "is no number"),
        ("k > None", "is no number"),
        ("k > 1j", "is no number"),
        ("k >", "is no expression: invalid syntax"),
        ("k = 3", "is no expression"),
        ("import os", "is no expression"),
        ("'\0' > 1", "is no expression"),
        ("  ", "the expression is empty"),
    ],
)
def test_what_is_no_condition_is_refused(text, problem):
    with pytest.raises(ConfigError, match=problem):
        evaluate(text)


def test_a_single_precision_value_is_compared_with_what_it_cannot_hold():
    spec = SampleSpec([Field("x", (), np.dtype("f4"), "input")])
    values = np.array([np.inf, -np.inf, 3e38], "f4")
    for text in ("-1e39 <= x <= 1e39", "-1e39 <= x + 0 <= 1e39"):
        assert Expression(text).evaluate(spec, None, lambda kind, name: values).tolist() == [False, False, True]


def test_a_name_of_which_python_makes_another_stands_in_quotes():
    names = ["\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}", "\N{LATIN SMALL LIGATURE ST}ep"]
    spec = SampleSpec([Field(name, (), np.dtype("f8"), "input") for name in names])
    with pytest.raises(ConfigError, match=f"may be each of the names {names[0]!r}, {names[1]!r}; write it in quotes"):
        Expression(f"{names[0]} > 1").check(spec)
    read = []
    for text in (f"'{names[0]}' > 1", "step > 1"):
        Expression(text).evaluate(spec, None, lambda kind, name: read.append((kind, name)) or np.zeros(1))
    assert read == [("field", names[0]), ("index", "step")]


def test_the_index_and_a_field_of_its_name_are_told_by_a_function():
    spec = SampleSpec([Field("step", (), np.dtype("f8"), "input")])
    with pytest.raises(
        ConfigError, match=r"'step' is the name of the index of samples and of a field; write field\(step\)"
    ):
        Expression("step > 1").check(spec)
    Expression("field(step) > 1").check(spec)


def test_large_integers_are_compared_exactly():
    spec = SampleSpec([Field("n", (), np.dtype("u8"), "input")])
    values = np.array([2**63 - 2, 2**63 - 1, 2**64 - 1], np.uint64)
    for text, wanted in ((f"n > {2**63 - 2}", [0, 1, 1]), (f"n == {2**64 - 1}", [0, 0, 1])):
        assert Expression(text).evaluate(spec, None, lambda kind, name: values).tolist() == [bool(w) for w in wanted]

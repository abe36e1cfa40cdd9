"""Declarations of options, and functions that take them."""

from __future__ import annotations

import inspect
from typing import Annotated, Required, TypedDict, Unpack

import pytest

from physgym.options import REQUIRED, Flag, Option, complete, options_of, takes

Limit = Annotated[int, Option(3, "limit of something, in metres", at_least=1)]


class Few(TypedDict, total=False):
    limit: Annotated[Limit, Flag("limit")]
    name: Annotated[str | None, Option(None, "name of it")]


class More(Few, total=False):
    size: Required[Annotated[int, Option(REQUIRED, "size of it", configured=5)]]


@takes(More)
def function(first: int, *, own: bool = True, **options: Unpack[More]) -> More:
    """Return the options.

    Args:
        first: The first argument.
        **options: See `More`,
            on two lines.

    Raises:
        TypeError: One is missing.
    """
    return complete(More, options, "function")


@takes(Few)
class Class:
    """An object that takes options.

    Args:
        **options: See `Few`.
    """

    def __init__(self, **options: Unpack[Few]) -> None:
        self.options = complete(Few, options, "Class.__init__")


def test_a_declaration_has_names_types_defaults_and_flags():
    found = options_of(More)
    assert {name: (one.type, one.option.default) for name, one in found.items()} == {
        "limit": (int, 3),
        "name": (str | None, None),
        "size": (int, REQUIRED),
    }
    assert found["limit"].option.at_least == 1
    assert [one.flag for one in found.values()] == [Flag("limit"), None, None]
    assert [one.option.in_configuration for one in found.values()] == [3, None, 5]


def test_a_key_without_an_option_is_refused():
    class Bare(TypedDict):
        limit: int

    with pytest.raises(TypeError, match="limit: <class 'int'> is not annotated with an Option"):
        options_of(Bare)


def test_options_that_are_not_given_have_their_defaults():
    assert function(1, size=2) == {"limit": 3, "name": None, "size": 2}
    assert function(1, size=2, limit=4, name="a", own=False) == {"limit": 4, "name": "a", "size": 2}
    assert Class(name="b").options == {"limit": 3, "name": "b"}


def test_wrong_options_are_errors_of_the_call():
    with pytest.raises(TypeError, match=r"^function\(\) got an unexpected keyword argument 'other'$"):
        function(1, size=2, other=3)
    with pytest.raises(TypeError, match=r"^function\(\) misses the keyword arguments 'size'$"):
        function(1)
    with pytest.raises(TypeError, match=r"^Class.__init__\(\) got an unexpected keyword argument 'other'$"):
        Class(other=3)


def test_signatures_show_options_with_types_and_defaults():
    assert str(inspect.signature(Class)) == "(*, limit: int = 3, name: str | None = None) -> None"
    shown = inspect.signature(function).parameters
    assert list(shown) == ["first", "own", "limit", "name", "size"]
    assert shown["size"].default is inspect.Parameter.empty
    assert shown["first"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert inspect.signature(function).return_annotation is More


def test_docstrings_list_options():
    assert inspect.getdoc(function) == (
        "Return the options.\n\nArgs:\n    first: The first argument.\n    limit: Limit of something, in metres.\n"
        "    name: Name of it.\n    size: Size of it.\n\nRaises:\n    TypeError: One is missing."
    )
    assert "    limit: Limit of something, in metres.\n" in inspect.getdoc(Class)

"""What texts import: read once, remembered by the hash of the text."""

import json
import os

import pytest

from physgym.code import imports, syntax
from physgym.code.search import code_of

TEXT = b"""
import solver, numpy as np, importlib
from . import near
from ..far import *
if TYPE_CHECKING:
    import types_alone
try:
    from pack import one, two
except ImportError:
    pass
def __getattr__(name):
    return importlib.import_module("by.call"), solver.fast, np.zeros, "a text"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "made" / "cache"))
    syntax._memory.cache_clear()
    yield tmp_path / "made" / "cache"
    syntax._memory.cache_clear()


@pytest.fixture
def parsed(monkeypatch):
    """Counts the texts that are parsed; others parse as well, such as plug-ins of pytest."""
    texts, parse = [], syntax.ast.parse

    def counting(data, *args, **kwargs):
        if isinstance(data, bytes):
            texts.append(data)
        return parse(data, *args, **kwargs)

    monkeypatch.setattr(syntax.ast, "parse", counting)
    return texts


def read(data=TEXT):
    text = syntax.Text(data)
    return text.imports, text.uses, text.lazy


def again():
    """As in the next process."""
    syntax.remember()
    syntax._memory.cache_clear()


def test_what_a_text_imports_and_binds(folder):
    imports, uses, lazy = read()
    assert sorted(imports.modules) == [
        *[(0, "importlib", ""), (0, "numpy", ""), (0, "pack", "one"), (0, "pack", "two"), (0, "solver", "")],
        *[(1, "", "near"), (2, "far", "")],
    ]
    assert imports.aliases == {"solver": "solver", "np": "numpy", "importlib": "importlib"}
    assert imports.by_call
    assert {("solver", "fast"), ("np", "zeros"), ("", "by.call")} <= set(uses)
    assert "one" in lazy.bound
    assert "by.call" in lazy.texts
    assert "a text" not in lazy.texts
    assert read(b"import a")[2] is None


def test_the_next_process_parses_no_text_that_is_as_it_was(folder, parsed):
    first = read()
    assert len(parsed) == 1
    again()
    assert read() == first
    assert len(parsed) == 1
    assert read(TEXT + b"import more\n") != first
    assert len(parsed) == 2
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "content",
    [
        *["", "[", "[]", "5", '{"texts": 5}'],
        *['{"texts": {"KEY": 5}}', '{"texts": {"KEY": {"imports": 5, "uses": {}}}}'],
        '{"texts": {"KEY": {"imports": [[[0, 1, "x"]], {}, false], "uses": [["a"]], "lazy": [["a"], [5]]}}}',
        '{"texts": {"KEY": {"imports": [[], {"a": 1}, false], "uses": [[1, "a"]], "lazy": "ab"}}}',
        "[" * 100_000,
    ],
)
def test_whatever_is_wrong_with_the_file_is_read_anew(folder, content):
    want = read()
    again()
    (file,) = folder.iterdir()
    (key,) = json.loads(file.read_bytes())["texts"]
    file.write_text(content.replace("KEY", key))
    syntax._memory.cache_clear()
    assert read() == want
    again()
    assert read() == want


def test_a_cache_that_cannot_be_written_or_is_of_another_user_is_left_out(folder, monkeypatch, parsed):
    folder.parent.mkdir()
    folder.write_text("no folder")
    want = read()
    again()
    assert read() == want
    folder.unlink()
    again()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert read() == want
    assert len(parsed) == 3


def test_the_memory_does_not_grow_without_end(folder, monkeypatch):
    monkeypatch.setattr(syntax, "MOST_TEXTS", 3)
    for name in "abcde":
        read(f"import {name}".encode())
        again()
    read(b"import d")
    read(b"import f")
    again()
    (file,) = folder.iterdir()
    texts = json.loads(file.read_bytes())["texts"]
    assert [found["imports"][0][0][1] for found in texts.values()] == ["e", "d", "f"]


def test_a_text_that_is_no_python_imports_nothing(folder):
    assert read(b"def (") == (((), {}, False), [], None)


@pytest.mark.slow
def test_the_code_of_a_simulation_is_the_same_whether_texts_are_remembered_or_not(folder, parsed):
    forget = (imports._read_once.cache_clear, imports._lazy.cache_clear)  # what this process has read of files
    for clear in forget:
        clear()
    first = code_of("physgym/Spring-v0")
    many = len(parsed)
    again()
    for clear in forget:
        clear()
    assert code_of("physgym/Spring-v0").to_json() == first.to_json()
    assert len(parsed) == many > 50

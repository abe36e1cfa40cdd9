"""The code of a simulation: what belongs to it, and what of it is noticed when it changes."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from physgym.code.env_description import describe_env
from physgym.code.record import Code, check_same, differences
from physgym.code.search import code_of
from physgym.errors import ChangedCode, ConfigError, DatasetError
from tests.support import toys


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules that can be imported, and forgets them afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write_one(name: str, text: str = "") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return file

    yield write_one
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


SIMULATION = """
    import gymnasium as gym
    {imports}
    class Sim(gym.Env):
        pass
"""


def own(code: Code) -> set[str]:
    return {name for name in code.modules if not name.startswith(("physgym", "tests"))}


def test_it_is_the_module_of_the_class_and_all_that_this_imports(write):
    write("csim.py", SIMULATION.format(imports="import csolver"))
    write("csolver.py", "from cpack.inner import constants")
    write("cpack/__init__.py", "from . import first")
    write("cpack/first.py", "K = 1")
    write("cpack/inner/__init__.py")
    write("cpack/inner/constants.py", "def late():\n    from ..last import K\n    return K")
    write("cpack/last.py", "K = 2")
    write("cpack/unused.py", "K = 3")
    before = code_of("csim:Sim")
    assert own(before) == {
        *("csim", "csolver", "cpack", "cpack.first", "cpack.inner", "cpack.inner.constants", "cpack.last")
    }
    assert before.packages["gymnasium"] == gym.__version__
    write("cpack/unused.py", "K = 4")
    assert code_of("csim:Sim").hash == before.hash
    write("cpack/last.py", "K = 22")
    (text,) = differences(before, code_of("csim:Sim"))
    assert "module cpack.last has changed" in text


def test_nothing_is_imported_to_look_at_it(write):
    write("dsim.py", SIMULATION.format(imports="").replace("pass", "def step(self, a):\n            import dtroubled"))
    write("dtroubled/__init__.py", "raise RuntimeError('imported')\nfrom .more import K")
    write("dtroubled/more.py")
    assert own(code_of("dsim:Sim")) == {"dsim", "dtroubled", "dtroubled.more"}
    assert "dtroubled" not in sys.modules


def test_lazy_packages_namespaces_and_imports_by_name(write):
    write(
        "esim.py",
        """
        import elazy, espace.part, importlib
        import gymnasium as gym
        TYPE_CHECKING = False
        if TYPE_CHECKING:
            import etypes
        class Sim(gym.Env):
            def step(self, action):
                return elazy.Thing, importlib.import_module("eby_name")
        """,
    )
    write(
        "elazy/__init__.py",
        """
        _LAZY = {"Thing": "thing", "Other": "elazy.other"}
        def __getattr__(name):
            import importlib
            return importlib.import_module("elazy." + _LAZY[name].split(".")[-1])
    """,
    )
    write("elazy/thing.py")
    write("elazy/other.py")
    write("elazy/unnamed.py")
    write("espace/part.py")
    write("eby_name.py")
    write("etypes.py")
    assert own(code_of("esim:Sim")) == {"esim", "elazy", "elazy.thing", "elazy.other", "espace.part", "eby_name"}


def test_a_compiled_module_counts_by_its_file(write, tmp_path):
    write("fsim.py", SIMULATION.format(imports="def late():\n        import fcompiled"))
    from importlib.machinery import EXTENSION_SUFFIXES

    file = tmp_path / f"fcompiled{EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"\x7fELF one")
    before = code_of("fsim:Sim")
    file.write_bytes(b"\x7fELF two!")
    assert "module fcompiled has changed" in differences(before, code_of("fsim:Sim"))[0]


def test_a_package_that_is_installed_to_be_edited_is_own_code(write):
    assert "physgym.simulation" in code_of("physgym/Spring-v0").modules
    assert "numpy" not in code_of("physgym/Spring-v0").modules


@pytest.mark.parametrize("form", ["class", "function", "lambda", "partial", "registered", "wrapped", "callable"])
def test_whatever_makes_the_environment(write, form):
    write("gsim.py", SIMULATION.format(imports="import gsolver"))
    write("gsolver.py", "K = 1")
    write("gfactory.py", "def make():\n    from gsim import Sim\n    return Sim()")
    cls = importlib.import_module("gsim").Sim
    gym.register("prov-g-v0", entry_point="gfactory:make")

    class Maker:
        def __init__(self):
            self.kind = cls

        def __call__(self):
            return self.kind()

    env = {
        "class": cls,
        "function": importlib.import_module("gfactory").make,
        "lambda": lambda: cls(),
        "partial": functools.partial(cls),
        "registered": "prov-g-v0",
        "wrapped": lambda: gym.wrappers.TimeLimit(cls(), 3),
        "callable": Maker(),
    }[form]
    try:
        before = code_of(env)
        assert {"gsim", "gsolver"} <= set(before.modules), before
        write("gsolver.py", "K = 12")
        assert "module gsolver has changed" in differences(before, code_of(env))[0]
    finally:
        del gym.registry["prov-g-v0"]


@pytest.mark.slow
def test_what_a_factory_brings_along():
    def make(stiffness, array):
        return lambda: toys.Line() if stiffness else array

    before = code_of(make(1.0, np.zeros(3)))
    assert not differences(before, code_of(make(1.0, np.zeros(3))))
    assert "stiffness was 1.0, is 2.0" in differences(before, code_of(make(2.0, np.zeros(3))))[0]
    assert "array" in differences(before, code_of(make(1.0, np.ones(3))))[0]
    assert differences(
        code_of(functools.partial(toys.Flaky, reject_above=1)), code_of(functools.partial(toys.Flaky, 2))
    )
    first, second = (lambda: toys.Flaky(reject_above=-2)), (lambda: toys.Flaky(reject_above=2))
    assert differences(code_of(first), code_of(second))


def test_files_that_a_simulation_reads(write, tmp_path):
    write(
        "hsim.py",
        """
        from pathlib import Path
        import gymnasium as gym
        class Sim(gym.Env):
            files_read = (Path(__file__).parent / "mesh.msh", "sh")
    """,
    )
    sim = importlib.import_module("hsim").Sim
    made = describe_env(gym.wrappers.OrderEnforcing(sim()))
    with pytest.raises(ConfigError, match=r"reads .*mesh\.msh.*no such file"):
        code_of(sim, None, made)
    (tmp_path / "mesh.msh").write_text("1")
    before = code_of(sim, None, made)
    assert set(before.files) == {"mesh.msh", "sh"}
    (tmp_path / "mesh.msh").write_text("2")
    assert "file mesh.msh has changed" in differences(before, code_of(sim, None, made))[0]


RUN = """
import gymnasium as gym, json
from physgym.code.search import code_of
STIFFNESS = {value}
class Base(gym.Env):
    k = STIFFNESS
    def step(self, action): return helper()
def helper():
    import csolver2
class Sim(Base):
    def reset(self): pass
print(json.dumps(code_of(Sim).to_json()))
"""


def program(tmp_path, how, value):
    (tmp_path / "csolver2.py").write_text("")
    text, command, stdin = RUN.format(value=value), [sys.executable], None
    if how == "script":
        (tmp_path / "script.py").write_text(text)
        command += ["script.py"]
    elif how == "-c":
        command += ["-c", text]
    elif how == "pipe":
        stdin = text
    (tmp_path / "given").write_text(text)
    with (tmp_path / "given").open() as file:
        more = {"input": stdin} if stdin is not None else {"stdin": file}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True, **more)
    return Code.from_json(json.loads(done.stdout))


@pytest.mark.slow
def test_a_script_is_a_module(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    script = program(tmp_path, "script", 1)
    assert {"script", "csolver2"} <= set(script.modules)
    assert differences(script, program(tmp_path, "script", 2))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-c", "file"])
def test_the_text_of_a_program_that_is_no_file_of_its_own(tmp_path, monkeypatch, how):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    given = program(tmp_path, how, 1)
    assert given.hash is not None
    assert "csolver2" in given.modules
    assert given.hash == program(tmp_path, how, 1).hash
    assert "STIFFNESS was 1, is 2" in differences(given, program(tmp_path, how, 2))[0]


@pytest.mark.slow
def test_what_stands_nowhere_is_unknown_and_as_good_as_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    piped = program(tmp_path, "pipe", 1)
    assert piped.hash is None
    assert piped.to_json()["hash"] == "unknown"
    with pytest.raises(ChangedCode, match="unknown"):
        check_same(piped.to_json(), piped, "the dataset")
    assert check_same(piped.to_json(), piped, "the dataset", allow=True)


def test_cells_of_a_notebook(monkeypatch):
    import linecache
    import types

    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    count = [0]

    def cell(text):
        name = f"<ipython-input-{count[0]}>"
        count[0] += 1
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), vars(main))  # noqa: S102 - as a notebook does

    cell("import gymnasium as gym\nK = 1.0")
    cell("class Sim(gym.Env):\n    def step(self, action): return K, helper()\n\ndef helper(): return 3")
    before = code_of(main.Sim)
    assert not before.unknown
    assert set(before.texts) == {"__main__.Sim", "__main__.helper"}
    cell("other = 5")
    assert not differences(before, code_of(main.Sim))
    cell("K = 2.0")
    assert "K was 1.0, is 2.0" in differences(before, code_of(main.Sim))[0]
    cell("K = 1.0")
    cell("def helper(): return 4")
    assert "helper has changed" in differences(before, code_of(main.Sim))[0]
    for number in range(count[0]):
        linecache.cache.pop(f"<ipython-input-{number}>")


def test_a_change_is_refused_with_both_named(write):
    write("isim.py", SIMULATION.format(imports=""))
    before = code_of("isim:Sim")
    write("isim.py", SIMULATION.format(imports="K = 1"))
    now = code_of("isim:Sim")
    with pytest.raises(ChangedCode) as caught:
        check_same(before.to_json(), now, "the dataset")
    assert isinstance(caught.value, DatasetError)
    assert isinstance(caught.value, ConfigError)
    assert before.hash[:12] in str(caught.value)
    assert now.hash[:12] in str(caught.value)
    assert "--allow-changed-code" in str(caught.value)
    assert check_same(before.to_json(), now, "the dataset", allow=True)
    assert Code.from_json(json.loads(json.dumps(before.to_json()))).hash == before.hash


def test_what_is_from_before_is_accepted_with_a_warning():
    with pytest.warns(UserWarning, match="does not say which code"):
        check_same(None, code_of(toys.Line), "the dataset")

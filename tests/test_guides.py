"""The code of the pages in docs/ runs as it stands there, or, where it is a sketch, names what there is."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import torch

import physgym
from physgym.nn import MLP
from physgym.training import Trainer
from tests.guides import ELSEWHERE, ROWS, guide, pages
from tests.guides.guide import DOCS, blocks
from tests.support.commands import ROOT, run_command
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

WITH_PEERS = {  # modules that need a package
    "physgym.adapters.tianshou": "tianshou",
    "physgym.adapters.sb3": "stable_baselines3",
}
PYTHON, BASH = "python", "bash"


def wanted(page):
    """The blocks of a page that a reader runs, or puts into files."""
    chosen, found = guide(page), []
    for block in blocks(page):
        python = block.language == PYTHON and block.number not in chosen.sketches
        typed = block.language == BASH and chosen.commands and block.number not in chosen.typed
        if block.file or python or typed:
            found.append(block)
    return found


WITH_CODE = [page for page in pages() if page not in ELSEWHERE and wanted(page)]


def test_rows_and_numbers_are_of_pages_and_blocks():
    assert {*ROWS, *ELSEWHERE} <= set(pages())
    for page, row in ROWS.items():
        python, bash = len(blocks(page, PYTHON)), len(blocks(page, BASH))
        assert {*row.sketches, *row.files} <= set(range(python)), page
        assert set(row.typed) <= set(range(bash)), page
        code = "".join(block.code for block in blocks(page))
        assert [text for text in row.smaller if text not in code] == [], page
    for page, test in ELSEWHERE.items():
        assert f'"{page.rpartition("/")[2]}.md"' in (ROOT / test).read_text()


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page, PYTHON)])
def test_names_that_a_page_imports_exist(page):
    for block in blocks(page, PYTHON):
        for node in imports(block.code):
            for alias in node.names:
                where = f"docs/{page}.md:{block.line}: {ast.unparse(node)}"
                name = alias.name if isinstance(node, ast.Import) else node.module
                if name in WITH_PEERS and importlib.util.find_spec(WITH_PEERS[name]) is None:
                    continue
                module = importlib.import_module(name)
                inner = hasattr(module, "__path__") and importlib.util.find_spec(f"{name}.{alias.name}")
                assert isinstance(node, ast.Import) or hasattr(module, alias.name) or inner, where


def imports(code):
    """Yield the imports of physgym in a block, whose other lines need not be whole."""
    for match in re.finditer(r"^\s*((?:from physgym[.\w]*|import physgym[.\w]*)\b.*)$", code, re.M):
        with contextlib.suppress(SyntaxError):
            yield from (
                node for node in ast.parse(match[1].strip()).body if isinstance(node, ast.Import | ast.ImportFrom)
            )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with a dataset of beams, and sessions of networks for the beam and the spring."""
    folder = tmp_path_factory.mktemp("guides")
    for name, samples in (("Beam", 104), ("Spring", 50)):
        small = name.lower()
        data = physgym.generate(
            f"physgym/{name}-v0", folder / "data" / small, samples=samples, max_steps=20, progress=False
        )
        physgym.generate(
            f"physgym/{name}-v0", folder / "data" / small, samples=3, max_steps=20, mode="validation", progress=False
        )
        network = MLP.from_spec(data.spec, hidden=(4,))
        session = folder / "sessions" / small
        Trainer(network, data, epochs=1, batch_size=16, session=session, progress=False).fit()
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in a folder, with the variables of a reader; what a guide registers or sets is undone."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment().items():  # programs that a block of Python starts have them too
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # certificates of runs that listen
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    threads, registered, sync = torch.get_num_threads(), set(gymnasium.registry), gymnasium.vector.SyncVectorEnv
    loaded = set(sys.modules)
    yield tmp_path
    gymnasium.vector.SyncVectorEnv = sync
    torch.set_num_threads(threads)
    for name in set(gymnasium.registry) - registered:
        del gymnasium.registry[name]
    for name in set(sys.modules) - loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def python(page, block, code, names):
    """Run a block of Python with the names of those before it."""
    exec(compile("\n" * block.line + code, str(DOCS / f"{page}.md"), "exec"), names)  # noqa: S102


def commands(page, code):
    """Run commands as a shell would; those of physgym are forked from a process that has imported it."""
    for line in code.replace("\\\n", " ").splitlines():
        where = f"docs/{page}.md: {line}"
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "cd":
            os.chdir(words[1])
        elif words[0] == "physgym" and not set("|&;<>$*") & set(" ".join(words)):
            done = run_command(Path.cwd(), *words[1:], env=environment())
            assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        else:
            done = subprocess.run(["bash", "-euc", line], env=environment(), timeout=100, check=False)
            assert done.returncode == 0, where


def environment():
    """The variables of a reader's shell, in which this physgym is the one that is installed."""
    binaries = str(Path(sys.executable).parent)
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    person = {
        f"GIT_{who}_{what}": "reader@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {
        **os.environ,
        **person,
        "PATH": os.pathsep.join([binaries, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
@pytest.mark.filterwarnings("ignore:the code of the simulation is unknown")  # it stands in no file here
def test_the_code_of_a_page_runs(page, place, request):
    chosen = guide(page)
    for package in chosen.packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    if chosen.prepared:
        shutil.copytree(request.getfixturevalue("kept"), place, dirs_exist_ok=True)
    names = {"__name__": "guide_of_" + page.replace("/", "_")}
    exec(chosen.before, names)  # noqa: S102
    ran = 0
    for block in wanted(page):
        code = block.code
        for text, replacement in chosen.smaller.items():
            code = code.replace(text, replacement)
        name = block.file or (chosen.files.get(block.number) if block.language == PYTHON else "")
        try:
            if name:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_text(code)
            elif block.language == PYTHON:
                python(page, block, code, names)
            else:
                commands(page, code)
        except ModuleNotFoundError as error:
            if not chosen.optional or str(error.name).startswith("physgym"):
                raise
            continue
        ran += not name
    assert ran or chosen.files or not [block for block in wanted(page) if not block.file]
    for value in names.values():  # what a page leaves open
        if isinstance(getattr(value, "close", None), type(imports)):
            continue
        if hasattr(type(value), "close") and type(value).__module__.startswith("physgym"):
            value.close()
    names.clear()
    gc.collect()

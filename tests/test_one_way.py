"""One way to do a thing: what many modules need is done in one of them, and the others call it.

Each test reads the syntax of all modules, and names those that may do the thing themselves, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_architecture import modules, tree


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of a module with what is called, such as "os.replace" or ".rename" of an object."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                yield called.id, node
            elif isinstance(called, ast.Attribute):
                name = ast.unparse(called.value)
                yield (f"{name}.{called.attr}" if name.isidentifier() else f".{called.attr}"), node


def users(*names: str) -> set[str]:
    """Return the modules that call a function of a module, such as "os.replace", or import it."""
    found = set()
    for module in modules():
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        if imported & set(names) or any(name in names for name, _ in calls(module)):
            found.add(module)
    return found


def renames(call: ast.Call, name: str) -> bool:
    """Return whether a call gives a file another name: `Path.replace` takes one argument, `str.replace` two."""
    method = name.rpartition(".")[2]
    if method in ("rename", "hardlink_to", "symlink_to"):
        return True
    return method == "replace" and "." in name and len(call.args) == 1 and not call.keywords


def test_files_get_their_names_in_one_module():
    found = {module for module in modules() for name, call in calls(module) if renames(call, name)}
    assert found | users("os.replace", "os.rename", "os.link", "os.symlink", "shutil.move") == {"physgym.files"}


def test_files_are_flushed_and_locked_in_one_module():
    assert users("os.fsync", "fcntl.flock", "fcntl.lockf") == {"physgym.files"}
    # between the rows of a partition and the count that commits them
    assert users("os.fdatasync") == {"physgym.data.partition_file"}


TEMPORARY_FOLDERS = {
    "physgym.training.checkpoint_files": "what is uploaded, kept where that fails",
    "physgym.experiment.repository": "an index of git's that nobody else reads",
    "physgym.experiment.search.study": "a search that is only tried",
    "physgym.experiment.runs": "a training that keeps nothing",
    "physgym.experiment.reproduce": "the code of a run, which may be kept",
    "physgym.formats.numpy_arrays": "an archive unpacked to be read",
}


def test_temporary_folders_elsewhere_are_for_nothing_that_gets_a_name():
    made = users("tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.TemporaryDirectory", "tempfile.NamedTemporaryFile")
    assert made == set(TEMPORARY_FOLDERS)

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


# what tells integers from others for its own reason
INTEGERS = {
    "physgym.checks": "the checks of arguments",
    "physgym.casting": "values keep their dtype: a flag is no number, an integer of Python has no dtype",
    "physgym.data.indices": "an index may be an array or a mask as well",
    "physgym.data.sample_buffer": "names of samples, for each sample: converting alone is the check",
    "physgym.samplers.breed": "entries of a file",
    "physgym.vector.quota": "a number, or who decides it",
    "physgym.vector.calls": "Gymnasium's arguments: a seed, or one for each environment",
    "physgym.sample": "sides of a shape, where converting alone is the check",
    "physgym.protocol.msgpack_values": "kinds of values on the wire",
    "physgym.code.syntax": "kinds of values in a cache",
    "physgym.experiment.config": "kinds of values in a configuration",
    "physgym.experiment.record": "kinds of values in a record",
    "physgym.experiment.search.section": "kinds of values in a configuration",
    "physgym.experiment.search.space": "kinds of values in a configuration",
    "physgym.launch.fork": "what a program gave to sys.exit",
    "physgym.scene.style": "kinds of values in a declaration",
    "physgym.nn.grid": "an argument that may be a flag or a list",
    "physgym.nn.optimization": "kinds of values in the state of an optimizer",
    "physgym.training.argument_checks": "a fraction, or samples",
    "physgym.training.resume": "an argument that may be a flag or a path",
}
WHOLE = {"int", "bool", "np.integer", "np.bool_", "numbers.Integral"}


def asks_for_integers(call: ast.Call, name: str) -> bool:
    """Return whether a call looks at a value for being an integer or a flag, or makes one an integer."""
    if name == "operator.index":
        return True
    if name != "isinstance":
        return False
    kinds = call.args[1].elts if isinstance(call.args[1], ast.Tuple) else [call.args[1]]
    return {ast.unparse(kind) for kind in kinds} <= WHOLE


def test_arguments_are_checked_for_being_integers_in_one_module():
    found = {module for module in modules() for name, call in calls(module) if asks_for_integers(call, name)}
    assert found == set(INTEGERS)


# what compares with a number of its own: no argument that must be an integer
BOUNDS = {
    "physgym.adapters.tianshou": "seconds",
    "physgym.data.episode_split": "the episodes that there are",
    "physgym.data.surgery.merging": "the datasets that are given",
    "physgym.envs.spring": "masses, which are real numbers",
    "physgym.nn.optimization": "a norm, which is a real number",
    "physgym.nn.physics": "the points of a grid that there are",
    "physgym.nn.scales": "the axes that there are",
    "physgym.running.episode_memory": "the batch that a predictor has checked already",
    "physgym.samplers.breed": "losses, which are real numbers",
    "physgym.samplers.independent": "deviations, which are real numbers",
    "physgym.training.foreign": "the episodes that there are",
    "physgym.vector.vector_env": "for each step: comparing alone is the check",
}


def bounds(test: ast.expr) -> bool:
    """Return whether a condition asks for a value to be below a number, such as ``steps < 1``."""
    compared = (node for node in ast.walk(test) if isinstance(node, ast.Compare) and len(node.ops) == 1)
    return any(
        isinstance(one.ops[0], (ast.Lt, ast.LtE))
        and isinstance(one.comparators[0], ast.Constant)
        and isinstance(one.comparators[0].value, int)
        for one in compared
    )


def refuses(branch: ast.If) -> bool:
    """Return whether a branch begins with the error of a wrong argument."""
    first = branch.body[0]
    return isinstance(first, ast.Raise) and ast.unparse(first).startswith(("raise ConfigError", "raise WrongValue"))


def test_the_range_of_an_integer_is_checked_together_with_its_being_one():
    found = {
        module
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.If) and bounds(node.test) and refuses(node)
    }
    assert found - {"physgym.checks"} == set(BOUNDS), found ^ set(BOUNDS)


# `physgym.spaces` has a table of the classes, and asks nobody; these do for their own reason
SPACES = {
    "physgym.sample": "the fields of samples have names, so that their space is a Dict",
    "physgym.adapters.tianshou": "Tianshou takes no tuples",
    "physgym.protocol.msgpack_values": "a space among values on the wire",
    "physgym.vector.spaces": "a pair of spaces, or one",
}


def asks_for_spaces(call: ast.Call, name: str) -> bool:
    """Return whether a call asks for the class of a space."""
    return name == "isinstance" and "spaces." in ast.unparse(call.args[1])


def test_classes_of_spaces_are_told_apart_in_one_module():
    found = {module for module in modules() for name, call in calls(module) if asks_for_spaces(call, name)}
    assert found == set(SPACES)


# torch's own, which reads in other processes, and the one for the data of others
LOADERS = {"physgym.loading.gather_processes", "physgym.training.foreign"}


def test_mini_batches_are_divided_in_one_module():
    assert {module for module in modules() for name, _ in calls(module) if name == "DataLoader"} == LOADERS
    divided = {module for module in modules() for name, _ in calls(module) if name == "EpochDivision"}
    assert divided == {"physgym.loading.loader", "physgym.training.batches", "physgym.loading.batching"}


def test_the_description_of_a_dataset_has_one_form():
    texts = {"physgym-dataset", "dataset.json"}
    named = {
        module
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in texts
    }
    assert named == {"physgym.data.description"}


GIT = {"physgym.git"}


def test_git_is_run_in_one_module():
    found = set()
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, (ast.List, ast.Tuple)) and node.elts and ast.unparse(node.elts[0]) == "'git'":
                found.add(module)
    assert found == GIT


SIGNALS = {
    "physgym.interrupt": "what Ctrl-C and the signals that end a program do",
    "physgym.launch.fork": "a forked worker has the handlers of its parent until it drops them",
}


def test_handlers_of_signals_are_set_in_one_module():
    assert users("signal.signal", "signal.set_wakeup_fd", "signal.siginterrupt") == set(SIGNALS)


TEMPORARY_FOLDERS = {
    "physgym.adapters.mpi": "the pipes of a program, and what its ranks print",
    "physgym.training.checkpoint_files": "what is uploaded, kept where that fails",
    "physgym.experiment.repository": "an index of git's that nobody else reads",
    "physgym.experiment.search.study": "a search that is only tried",
    "physgym.experiment.runs": "a training that keeps nothing",
    "physgym.experiment.reproduce": "the code of a run, which may be kept",
    "physgym.formats.numpy_arrays": "an archive unpacked to be read",
    "physgym.adapters.held_folder": "files of a program, an unpacked FMU: as long as the environment is there",
    "physgym.scene.sample_view": "a film that becomes a cell of a notebook",
    "physgym.testing.dialled_programs": "the token of a program that is tried, and what it writes",
    "physgym.nn.engines": "the file of a network between being made and being loaded",
    "physgym.doctor.machine": "a folder in which a file system is tried",
    "physgym.running.rollout_episodes": "episodes that a network is compared with, and nobody keeps",
}


def test_temporary_folders_elsewhere_are_for_nothing_that_gets_a_name():
    made = users("tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.TemporaryDirectory", "tempfile.NamedTemporaryFile")
    assert made == set(TEMPORARY_FOLDERS)

"""Classes that a configuration names: by a registered name, or as ``module:attr``.

Nothing is evaluated, and nothing is called but classes of the wanted kind and functions marked as factories. To look
for a name its module is imported, which runs the code of that module.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError
from physgym.factories import makes
from physgym.marked_classes import marked_classes
from physgym.object_references import with_objects

# what short names stand for; strings, so that checking a configuration imports nothing
NETWORKS = marked_classes("physgym.nn", "named_network")
TRANSFORMS = marked_classes("physgym.nn", "named_transform")
LOSSES = {
    "mse": "torch.nn:MSELoss",
    "l1": "torch.nn:L1Loss",
    "huber": "torch.nn:HuberLoss",
    "relative_l2": "physgym.nn:RelativeL2",
}
OPTIMIZERS = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "sgd": "torch.optim:SGD",
    "lbfgs": "torch.optim:LBFGS",
}
SCHEDULES = {
    "constant": "torch.optim.lr_scheduler:ConstantLR",
    "cosine": "torch.optim.lr_scheduler:CosineAnnealingLR",
    "one_cycle": "torch.optim.lr_scheduler:OneCycleLR",
    "step": "torch.optim.lr_scheduler:StepLR",
    "exponential": "torch.optim.lr_scheduler:ExponentialLR",
    "plateau": "torch.optim.lr_scheduler:ReduceLROnPlateau",
}
OPTIMIZATIONS = {
    "Optimization": "physgym.nn:Optimization",
    "AutoencoderOptimization": "physgym.nn:AutoencoderOptimization",
}
LOGGERS = {name.lower(): place for name, place in marked_classes("physgym.training", "named_logger").items()}
AGENTS = {name.lower(): place for name, place in marked_classes("physgym.rl", "named_agent").items()}
CALLBACKS = {"LearningRateMonitor": "physgym.training:LearningRateMonitor"}

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def check_name(name: str, known: Sequence[str]) -> str:
    """Check that a name is registered or ``module:attr``, and return it; `find` looks for the latter.

    Raises:
        ValueError: It is neither; the text names the nearest registered one.
    """
    if name in known or REFERENCE.fullmatch(name):
        return name
    near = difflib.get_close_matches(name.partition(":")[0], known, 1, cutoff=0.5)
    if not known:
        raise ValueError("unknown name; give your own as module:attr")
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)};"
    raise ValueError(f"unknown name; {hint} your own as module:attr")


def check_sampler(name: str, known: Sequence[str]) -> str:
    """Check the name of a sampler, which may have an argument such as "lhs:16" or "network:sessions/beam"."""
    return name if name.partition(":")[0] in known else check_name(name, known)


def find_class(name: str, known: Mapping[str, str], key: str, *wanted: type, instead: str = "") -> Any:
    """Return what a configuration names to have something made: a class of a kind, or a function that makes one.

    Args:
        name: A name in `known`, or ``module:attr``.
        known: ``module:attr`` by registered name.
        key: Key of the configuration, for errors.
        wanted: The class must be a subclass of one of these, what the function makes too.
        instead: What else would do, for the error.

    Raises:
        ConfigError: The module cannot be imported, has nothing of that name, or something else.
    """
    found = find(name, known, key)
    if makes(found, wanted):
        return found
    kind = " or ".join(f"{one.__module__.split('.')[0]}'s {one.__name__}" for one in wanted)
    other = "a function" if callable(found) else "no class"
    what = f"the class {found.__qualname__}" if inspect.isclass(found) else other
    raise ConfigError(
        f"{key}: {name} is {what}, and nothing else is called than a subclass of {kind} or a function that makes one. "
        f"Mark such a function with @physgym.factory, or annotate what it returns{instead}"
    )


def find(name: str, known: Mapping[str, str], key: str) -> Any:
    """Return what a configuration names; it is not called.

    Args:
        name: A name in `known`, or ``module:attr``.
        known: ``module:attr`` by registered name.
        key: Key of the configuration, for errors.

    Raises:
        ConfigError: The module cannot be imported, or has nothing of that name.
    """
    module, _, attributes = known.get(name, name).partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"{key}: importing {module!r} failed: {type(error).__name__}: {error}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            public = [other for other in dir(found) if not other.startswith("_")]
            near = difflib.get_close_matches(attribute, public, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{key}: {module} has no {attributes!r}{hint}") from None
    return found


def make(found: Any, key: str, *given: Any, **arguments: Any) -> Any:
    """Call what `find` found; references to objects among the arguments become the objects.

    Raises:
        ConfigError: It does not take the arguments.
    """
    if not callable(found):
        raise ConfigError(f"{key}: {found!r} is not a class or a function")
    arguments = with_objects(arguments, key)
    try:
        return found(*given, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {_place(error)}{error}{_nearest(found, str(error))}") from error


def _place(error: Exception) -> str:
    """Return where an error of a type arose in the code of what was called; empty where the arguments do not fit it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, ValueError) or "argument" in str(error) or last.filename == __file__:
        return ""
    return f"{last.name} in {Path(last.filename).name}, line {last.lineno}, raised {type(error).__name__}: "


def _nearest(found: Any, problem: str) -> str:
    """Return the nearest argument where Python says that there is none of that name."""
    name = re.search(r"unexpected keyword argument '(\w+)'", problem)
    if name is None:
        return ""
    called = found.func if isinstance(found, functools.partial) else found
    owner = getattr(called, "__self__", called)  # of from_spec, which passes on what it does not know
    with contextlib.suppress(TypeError, ValueError):  # some have no signature
        near = difflib.get_close_matches(name[1], inspect.signature(owner).parameters, 1)
        return f"; did you mean {near[0]!r}?" if near else ""
    return ""

"""Factories that `functools` has decorated reach workers, wherever they were written."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap

import cloudpickle
import pytest

from physgym.code.search import code_of
from physgym.launch.pickling import dump
from tests.support import toys

SCRIPT = """
    import functools
    import gymnasium as gym, numpy as np, physgym
    class Env(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (), np.float64)
        action_space = gym.spaces.Discrete(2)
        def __init__(self, k=0):
            self.k = k
        def reset(self, *, seed=None, options=None):
            return 0.0, {}
        def step(self, action):
            return 0.0, self.k + self.tenth(10) + self.half, False, False, {}
        @functools.lru_cache
        def tenth(self, n):
            return fibonacci(n)
        @functools.cached_property
        def half(self):
            return 0.5
    def decorated(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)
        return inner
    @functools.lru_cache(maxsize=8)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
    @functools.cache
    def cached(k=1):
        return Env(k)
    @decorated
    @decorated
    def twice():
        return Env(3)
    @decorated
    @functools.lru_cache
    def both():
        return Env(fibonacci(5))
    class Factory:
        def __init__(self, k):
            self.k = k
        def __call__(self):
            return Env(self.k)
        @functools.cached_property
        def unused(self):
            return 0
        @classmethod
        def of_class(cls):
            return Env(8)
    @functools.singledispatch
    def dispatching(k):
        return Env(k)
    @dispatching.register(str)
    def _(k):
        return Env(int(k))
    factories = [
        cached, functools.partial(cached, 2), twice, both, Factory(6), functools.partial(Factory(7)), Factory.of_class,
        functools.partial(dispatching, "9"), Factory(10).__call__, Env, lambda: Env(fibonacci(6)),
    ]
    if __name__ == "__main__":
        for context in CONTEXTS:
            with physgym.SocketVectorEnv(factories, num_workers=2, context=context) as envs:
                envs.reset()
                print((envs.step(np.zeros(len(factories), int))[1] - 55.5).astype(int).tolist())
"""
WANTED = [1, 2, 3, 5, 6, 7, 8, 9, 10, 0, 8]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "command", "stdin"])
def test_decorated_factories_of_main_reach_workers(way, tmp_path):
    contexts = ["spawn", "fork"] if way != "script" else ["spawn", "fork", "forkserver"]
    text = f"CONTEXTS = {contexts}\n{textwrap.dedent(SCRIPT)}"
    (tmp_path / "script.py").write_text(text)
    arguments = {"script": ["script.py"], "command": ["-c", text], "stdin": ["-"]}[way]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=tmp_path,
        input=text if way == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.splitlines() == [str(WANTED)] * len(contexts), done.stderr


@functools.lru_cache(maxsize=4)
def importable():
    return 1


def test_what_can_be_imported_travels_by_its_name():
    assert cloudpickle.loads(dump(importable)) is importable


def test_a_cache_keeps_its_size_and_names_and_is_empty():
    @functools.lru_cache(maxsize=3, typed=True)
    def local(n):
        """Of a test."""
        return n + local(n - 1) if n else 0

    local.more = "an attribute"
    local(5)
    found = cloudpickle.loads(dump([local]))[0]
    assert (found.__name__, found.__doc__, found.more) == ("local", "Of a test.", "an attribute")
    assert found.cache_parameters() == {"maxsize": 3, "typed": True}
    assert found.cache_info().currsize == 0
    assert found(5) == 15
    assert found.cache_info().currsize == 3


@functools.lru_cache
def cached_spring():
    return toys.NoSamples()


def test_the_code_of_a_cached_factory_is_that_of_its_function():
    assert "tests.launch.test_pickling" in code_of(cached_spring).modules

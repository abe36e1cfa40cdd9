"""The tests that ``pytest --physgym-env ID`` collects."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from physgym.registration import Registered, find_spec
from physgym.testing.conformance import EnvConformance


class TestEnvironment(EnvConformance):
    """The conformance suite on the environment that the command line names."""

    @pytest.fixture(autouse=True)
    def _choose(self, physgym_env: str) -> None:
        self.spec = find_spec(physgym_env)

    def make_env(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Return the registered environment."""
        return Registered(self.spec)(**kwargs)

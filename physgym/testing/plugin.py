"""The pytest plug-in: ``pytest --physgym-env ID`` runs the conformance suite on a registered environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--physgym-env",
        action="append",
        default=[],
        metavar="ID",
        help='run the physgym conformance suite on this registered environment ("module:id" imports a module first); '
        "may be given several times",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the suite if environments are named: alone, or with the files that the user names."""
    if not config.getoption("--physgym-env"):
        return
    sys.path.insert(0, str(Path.cwd()))  # "module:id" means a module in the user's working folder
    from physgym.errors import ConfigError
    from physgym.registration import find_spec

    for env_id in config.getoption("--physgym-env"):
        try:
            find_spec(env_id)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
    suite = str(Path(__file__).with_name("suite.py"))
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    config.args = [*config.args, suite] if named else [suite]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the suite once per environment."""
    if "physgym_env" in metafunc.fixturenames:
        metafunc.parametrize("physgym_env", metafunc.config.getoption("--physgym-env"), scope="class")

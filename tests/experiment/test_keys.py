"""The keys of configuration files as text: `physgym keys`."""

from __future__ import annotations

import pytest

from physgym import cli
from physgym.errors import ConfigError
from physgym.experiment.config import known_keys
from physgym.experiment.keys import key_text


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]


def test_all_keys_are_listed_once():
    assert sorted(names(key_text())) == sorted(known_keys())


def test_a_key_has_type_default_and_meaning():
    assert key_text("training.epochs") == (
        "training.epochs  integer (>= 1)  default 10\n    passes over the training samples"
    )
    assert key_text("environment.id").startswith("environment.id  string  required\n    ")


def test_a_section_has_its_keys_and_those_in_it(capsys):
    assert not cli.app(["keys", "training.early_stopping"], standalone_mode=False)
    text = capsys.readouterr().out
    assert names(text)[:2] == ["training.early_stopping", "training.early_stopping.monitor"]
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith(" "))


@pytest.mark.parametrize(
    ("wrong", "near"), [("epochs", "near: training.epochs"), ("trainin", "near: training"), ("?", "see physgym keys")]
)
def test_an_unknown_key_is_an_error_that_names_near_ones(wrong, near):
    with pytest.raises(ConfigError, match=near):
        key_text(wrong)

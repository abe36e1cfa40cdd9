"""Times as SLURM's manual of sbatch lists them."""

from __future__ import annotations

import pytest

from physgym.errors import ConfigError
from physgym.slurm.times import as_words, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("4:30", 270),
        ("4:00:00", 14400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-00:00:05", 172805),
    ],
)
def test_forms(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "4h", "4:00:00:00", "1-", "-1", "4.5", "UNLIMITED", "0:00:00", " 4", "٤"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="--time"):
        seconds_of(text)


def test_words():
    assert [as_words(seconds_of(text)) for text in ("4:00", "4:00:00", "1-00:30")] == ["4 min", "4 h", "1 d 30 min"]

"""Times as SLURM writes them."""

from __future__ import annotations

import re

from physgym.errors import ConfigError

# of sbatch's manual: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, and with seconds
_FORMS = (
    re.compile(r"(?P<minutes>[0-9]+)(:(?P<seconds>[0-9]+))?"),
    re.compile(r"(?P<hours>[0-9]+):(?P<minutes>[0-9]+):(?P<seconds>[0-9]+)"),
    re.compile(r"(?P<days>[0-9]+)-(?P<hours>[0-9]+)(:(?P<minutes>[0-9]+)(:(?P<seconds>[0-9]+))?)?"),
)
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def seconds_of(text: str) -> int:
    """Return the seconds of a time limit.

    Args:
        text: Such as 4:00:00, which is four hours; 4:00 is four minutes.

    Raises:
        ConfigError: SLURM does not know that form, or it is no time at all.
    """
    found = next((match for form in _FORMS if (match := form.fullmatch(text)) is not None), None)
    if found is None:
        raise ConfigError(
            f"--time {text!r}: write HOURS:MINUTES:SECONDS, such as 4:00:00, or DAYS-HOURS, or minutes alone"
        )
    total = sum(int(number) * _SECONDS[unit] for unit, number in found.groupdict().items() if number is not None)
    if not total:
        raise ConfigError(f"--time {text!r} leaves no time")
    return total


def as_words(seconds: int) -> str:
    """Return a time in words, such as "4 h 30 min"."""
    parts = []
    for unit, letters in (("days", "d"), ("hours", "h"), ("minutes", "min"), ("seconds", "s")):
        number, seconds = divmod(seconds, _SECONDS[unit])
        if number:
            parts.append(f"{number} {letters}")
    return " ".join(parts)

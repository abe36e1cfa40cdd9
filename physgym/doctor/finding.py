"""One thing that was looked at, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FindingState = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: Its name, such as "locks".
        state: "ok"; "note" where something optional is missing or slower; "problem" where physgym does not work.
        text: What was found.
        remedy: What to do; empty where there is nothing to do.
        values: The same for programs, as JSON data.
    """

    subject: str
    state: FindingState
    text: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> str:
        """Return it as lines of text, with the remedy below."""
        first, *more = self.text.splitlines() or [""]
        lines = [f"{self.state:<7}  {self.subject:<13}  {first}", *(f"{'':24}{line}" for line in more)]
        if self.remedy:
            lines.append(f"{'':24}-> {self.remedy}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "subject": self.subject,
            "state": self.state,
            "text": self.text,
            "remedy": self.remedy,
            "values": dict(self.values),
        }

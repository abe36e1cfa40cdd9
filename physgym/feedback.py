"""`Feedback`: which output of a step is which input of the next one.

It is declared once, as ``sample_feedback`` with the other declarations of samples, or where a dataset that says
nothing is opened (``SampleDataset(..., feedback=...)``), in one of two forms:

- ``"next_state -> state"``, or ``{"next_state": "state"}``: a sample holds both fields;
- ``"state"``: a sample holds the state before its step alone, and the output is the state of the next sample, here
  called ``next_state``.

A list holds several of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from physgym.errors import SampleError

Declaration: TypeAlias = str | Mapping[str, str] | Sequence[str]

ARROW = "->"
NEXT = "next_"  # before the name of an input: its output, where samples do not hold that


class Feedback(Mapping[str, str]):
    """The outputs of a step that are inputs of the next one: output to input, in the order of the fields.

    Args:
        stored: Outputs that samples hold, each with the input that it is at the next step.
        once: Inputs that samples hold alone: the output is the input of the next sample. Each with the output's name.

    Raises:
        SampleError: Two outputs have one name, or an output has that of an input.
    """

    def __init__(self, stored: Mapping[str, str] | None = None, once: Mapping[str, str] | None = None) -> None:
        self._stored, self._once = dict(stored or {}), dict(once or {})
        fields = [*self._stored, *self._stored.values(), *self._once]  # that samples hold
        outputs = list(self._once.values())
        if taken := sorted({name for name in outputs if name in fields or outputs.count(name) > 1}):
            raise SampleError(
                f"an output needs a name of its own, and {', '.join(map(repr, taken))} is that of another output or of "
                f"a stored field: {self._once}; give it another one"
            )
        self._inputs = {**self._stored, **{output: name for name, output in self._once.items()}}

    def __getitem__(self, output: str) -> str:
        return self._inputs[output]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def __repr__(self) -> str:
        return f"Feedback({self})"

    def __str__(self) -> str:
        forms = [f"{output} {ARROW} {name}" for output, name in self._stored.items()]
        forms += [
            name if output == following(name) else f"{name} (next: {output})" for name, output in self._once.items()
        ]
        return ", ".join(forms)

    @property
    def stored(self) -> dict[str, str]:
        """Return the outputs that samples hold, each with its input."""
        return dict(self._stored)

    @property
    def once(self) -> dict[str, str]:
        """Return the inputs that samples hold alone, each with the name of its output."""
        return dict(self._once)

    @property
    def declaration(self) -> dict[str, str]:
        """Return it as it can be declared, without the names of outputs that samples do not hold."""
        return {**self._stored, **{name: name for name in self._once}}

    def named(self, names: Mapping[str, str], fields: Collection[str] = ()) -> Feedback:
        """Return the same with other names for outputs that samples do not hold.

        Args:
            names: Input to the name of its output.
            fields: All stored fields, whose names are taken.

        Raises:
            SampleError: It is no such input, or the name is that of another output or of a stored field.
        """
        if unknown := [name for name in names if name not in self._once]:
            raise SampleError(
                f"names of outputs are for fields that are stored once, {list(self._once)}; {unknown} are none of these"
            )
        if taken := [output for output in names.values() if output in fields]:
            raise SampleError(f"the dataset has fields {taken} already; give the outputs of windows other names")
        return Feedback(self._stored, {**self._once, **names})

    def inputs(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the next step that some outputs are, by the input's name.

        Args:
            outputs: Values by name; those that feed nothing are left out.
        """
        return {name: outputs[output] for output, name in self.items() if output in outputs}


def following(name: str) -> str:
    """Return the name of the output of a field that samples hold alone."""
    return f"{NEXT}{name}"


def parse_feedback(declared: Declaration | None, label: str = "feedback") -> dict[str, str]:
    """Return a declaration as field to the input that it feeds; a field that is stored once feeds itself.

    Args:
        declared: A text, a mapping, or a list of texts; None for nothing.
        label: What an error calls it.

    Raises:
        SampleError: It is none of these, or says two things of a field.
    """
    if declared is None:
        return {}
    if isinstance(declared, Mapping):
        pairs = [(str(output), str(name)) for output, name in declared.items()]
    else:
        texts = [declared] if isinstance(declared, str) else declared
        if not isinstance(texts, Iterable) or not all(isinstance(text, str) for text in texts):
            raise SampleError(
                f"{label} is {declared!r}; write 'next_state -> state' where a sample holds both fields, 'state' where "
                "it holds that alone, or a list of these"
            )
        pairs = []
        for text in texts:
            parts = [part.strip() for part in text.split(ARROW)]
            if len(parts) > 2 or not all(parts):
                raise SampleError(f"{label}: {text!r} is neither 'output -> input' nor the name of one field")
            pairs.append((parts[0], parts[-1]))
    for place, what in enumerate(("says twice what {} feeds", "feeds two fields to {}")):
        names = [pair[place] for pair in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SampleError(f"{label} {what.format(', '.join(map(repr, twice)))}; say it once")
    return dict(pairs)


def feedback_of(fields: Mapping[str, Any]) -> Feedback:
    """Return what fields declare by their ``feeds``, the name of the input that each is at the next step."""
    feeds = {name: field.feeds for name, field in fields.items() if field.feeds}
    return Feedback(
        {output: name for output, name in feeds.items() if output != name},
        {name: following(name) for output, name in feeds.items() if output == name},
    )


def unequal_units(fields: Mapping[str, Any], feeds: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the pairs of an output and the input that it feeds whose units are both declared, and differ.

    Args:
        fields: The fields, with their ``unit``.
        feeds: Output to input; a part of the fields may lack one.
    """
    units = {name: "".join(field.unit.split()) for name, field in fields.items()}
    pairs = [(one, other) for one, other in feeds.items() if units.get(one) and units.get(other)]
    return [(one, other) for one, other in pairs if units[one] != units[other]]

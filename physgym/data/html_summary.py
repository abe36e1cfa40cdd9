"""A dataset as a table in HTML, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from physgym.sample import SampleSpec

COLUMNS = ("field", "role", "shape", "dtype", "unit")


def html_table(spec: SampleSpec, title: str, where: str) -> str:
    """Return the fields of a dataset with roles, shapes, dtypes, units and feedback as HTML; all texts are escaped.

    Args:
        spec: The fields.
        title: Line above them.
        where: Folders of the dataset.
    """
    rows = [[field.name, field.role, str(field.shape), str(field.dtype), field.unit] for field in spec.values()]
    lines = [f"<b>SampleDataset</b> {html.escape(title)}<br><code>{html.escape(where)}</code>", "<table>"]
    lines += [_row("th", COLUMNS), *(_row("td", row) for row in rows), "</table>"]
    if spec.feedback:
        lines.append(f"feedback: {html.escape(str(spec.feedback))}")
    return "\n".join(lines)


def _row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"

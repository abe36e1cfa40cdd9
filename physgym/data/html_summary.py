"""A dataset as a table in HTML, for notebooks."""

from __future__ import annotations

import html

from physgym.html_parts import html_table, html_title
from physgym.sample import SampleSpec

COLUMNS = ("field", "role", "shape", "dtype", "unit")


def dataset_html(spec: SampleSpec, title: str, where: str) -> str:
    """Return the fields of a dataset with roles, shapes, dtypes, units and feedback as HTML; all texts are escaped.

    Args:
        spec: The fields.
        title: Line above them.
        where: Folders of the dataset.
    """
    rows = [[field.name, field.role, str(field.shape), str(field.dtype), field.unit] for field in spec.values()]
    heading = f"{html_title('SampleDataset', title)}<br><code>{html.escape(where)}</code>"
    lines = [heading, html_table(COLUMNS, rows, texts=True)]
    if spec.feedback:
        lines.append(f"feedback: {html.escape(str(spec.feedback))}")
    return "\n".join(lines)

"""Tables and pictures as HTML, for notebooks; all texts are escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence


def html_title(kind: str, text: str) -> str:
    """Return the line above a table: a class or a file in bold, and what is to be said of it."""
    return f"<b>{html.escape(kind)}</b> {html.escape(text)}"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: bool = False) -> str:
    """Return a table in a box that scrolls where it is wider than the page.

    Args:
        header: Names of the columns; empty for none.
        rows: Their cells.
        texts: Whether cells begin at the left, as texts do. Notebooks let numbers end at the right.
    """
    style = ' style="text-align: left"' if texts else ""
    lines = [_row("th", header, style)] if header else []
    lines += [_row("td", row, style) for row in rows]
    return "\n".join(['<div style="overflow-x: auto"><table>', *lines, "</table></div>"])


def html_image(data: bytes, kind: str = "png") -> str:
    """Return a picture that is part of the page.

    Args:
        data: Its file.
        kind: Format of the file, such as "png" and "gif".
    """
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _row(kind: str, cells: Sequence[str], style: str) -> str:
    return f"<tr>{''.join(f'<{kind}{style}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"

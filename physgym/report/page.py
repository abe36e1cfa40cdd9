"""`Page`: a report as one HTML file, in which everything lies that it shows."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from physgym._version import __version__
from physgym.data.sizes import size_text
from physgym.errors import ConfigError
from physgym.files import absolute, write_atomically
from physgym.report.charts import Chart
from physgym.report.look import DRAW, STYLE

LARGEST = 10_000_000  # bytes of a page
PICTURES = 3_500_000  # bytes of its pictures, as the page holds them
CHARTS = 60  # on a page
ROWS = 200  # of a table
LONG = 50  # letters of a cell, from which on it has several lines
WRAPPED = ' class="w"'
SCRIPT = "plotly.min.js"
# of the page, which fetches nothing and sends nothing, whatever it holds
POLICY = {
    "default-src": "'none'",
    "script-src": "'unsafe-inline'",
    "style-src": "'unsafe-inline'",
    "img-src": "data: blob:",
}


def plotly_script() -> str:
    """Return the JavaScript of plotly, from its package, of which nothing is imported.

    Raises:
        ConfigError: It is not installed.
    """
    found = importlib.util.find_spec("plotly")
    places = [] if found is None else list(found.submodule_search_locations or [])
    for place in places:
        file = Path(place, "package_data", SCRIPT)
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ConfigError("a report needs plotly: pip install 'physgym[report]'")


class Page:
    """A page that is being written, from the top down. Every text is escaped.

    Args:
        title: What it is about.
        kind: What kind of thing that is, a word or two above the title.
        text: A line below the title.
    """

    def __init__(self, title: str, kind: str, text: str = "") -> None:
        self._title, self._kind, self._text = title, kind, text
        self._headline: dict[str, str] = {}
        self._parts: list[str] = []
        self._sections: list[str] = []
        self._charts: list[Chart] = []
        self._drawn = 0  # bytes of pictures

    # --- parts

    def headline(self, figures: Mapping[str, str]) -> None:
        """Add figures to those at the top, the most important ones, by what they are; empty ones are left out."""
        self._headline |= {name: value for name, value in figures.items() if value}

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self._sections.append(title)
        self._parts.append(f'<h2 id="s{len(self._sections)}">{_text(title)}</h2>')
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def remark(self, text: str) -> None:
        """Add a sentence that must not be missed."""
        self._parts.append(f'<p class="remark">{_text(text)}</p>')

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Add names with values, one a line; those without a value are left out."""
        rows = [f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items() if value]
        self._parts.append(f"<dl>{''.join(rows)}</dl>")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
        """Add a table: of a long one the first rows, without columns that are empty.

        Columns whose cells are all numbers are set to the right.
        """
        rows = [list(map(str, row)) for row in rows]
        filled = [i for i in range(len(columns)) if not rows or any(row[i] for row in rows)]
        columns, rows = [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]
        if len(rows) > ROWS:
            note = f"{note} The first {ROWS} of {len(rows):,} rows.".strip()
        rows = rows[:ROWS]
        right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
        kinds = [' class="n"' if number else "" for number in right]
        head = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, columns, strict=True))
        lines = [
            "".join(
                f"<td{WRAPPED if len(cell) > LONG else kind}>{_text(cell)}</td>"
                for kind, cell in zip(kinds, row, strict=True)
            )
            for row in rows
        ]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        self._parts.append(f'<div class="table"><table><tr>{head}</tr>{body}</table></div>{_note(note)}')

    def charts(self, charts: Iterable[Chart]) -> None:
        """Add small plots next to each other; where a page has many, those that follow are named in their place."""
        drawn, left_out = [], []
        for chart in charts:
            if len(self._charts) >= CHARTS:
                left_out.append(chart.title)
                continue
            drawn.append(self._chart(chart))
        if drawn:
            self._parts.append(f'<div class="charts">{"".join(drawn)}</div>')
        if left_out:
            self.text(f"Not drawn, since the page has {CHARTS} plots already: {', '.join(left_out)}.")

    def _chart(self, chart: Chart) -> str:
        notes = "".join(_note(text) for text in chart.notes)
        wide = " wide" if chart.wide else ""
        if chart.empty:
            said = notes or _note("no values")
            return f'<figure class="chart"><figcaption>{_text(chart.title)}</figcaption>{said}</figure>'
        self._charts.append(chart)
        return (
            f'<figure class="chart{wide}"><figcaption>{_text(chart.title)}</figcaption>'
            f'<div class="plot" id="p{len(self._charts)}" style="height:{chart.height}px"></div>{notes}</figure>'
        )

    def picture(self, png: bytes, title: str, note: str = "") -> None:
        """Add a picture; one for which there is no room on the page is named in its place.

        Args:
            png: The picture as PNG.
            title: Text above it.
            note: Text below it.
        """
        data = base64.b64encode(png).decode()
        if self._drawn + len(data) > PICTURES:
            self.text(f"{title}: not shown, for the page would be too large.")
            return
        self._drawn += len(data)
        self._parts.append(
            f'<figure class="picture"><figcaption>{_text(title)}</figcaption>'
            f'<img alt="{_text(title)}" src="data:image/png;base64,{data}">{_note(note)}</figure>'
        )

    def details(self, title: str, text: str) -> None:
        """Add a longer text that is folded until somebody opens it."""
        self._parts.append(f"<details><summary>{_text(title)}</summary><pre>{_text(text)}</pre></details>")

    def links(self, files: Mapping[str, str]) -> None:
        """Add links to files and folders.

        Args:
            files: What each is, by its path relative to the page.
        """
        rows = [
            f'<dt><a href="{html.escape(quote(path))}">{_text(path)}</a></dt><dd>{_text(what)}</dd>'
            for path, what in files.items()
        ]
        self._parts.append(f"<dl>{''.join(rows)}</dl>")

    # --- the whole

    def html(self) -> str:
        """Return the page.

        Raises:
            ConfigError: plotly is not installed.
        """
        policy = "; ".join(f"{name} {value}" for name, value in POLICY.items())
        made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        title = _text(f"{self._title} - {self._kind}")
        cards = "".join(
            f'<div class="card"><div class="figure">{_text(value)}</div><div class="what">{_text(name)}</div></div>'
            for name, value in self._headline.items()
        )
        names = enumerate(self._sections, 1)
        contents = "".join(f'<a href="#s{number}">{_text(name)}</a>' for number, name in names)
        figures = [replace(chart, notes=()) for chart in self._charts]
        data = json.dumps(
            [{"data": one.traces, "layout": one.layout} for one in figures], allow_nan=False, separators=(",", ":")
        ).replace("<", "\\u003c")
        script = f"<script>{plotly_script()}</script><script>const figures={data};{DRAW}</script>" if figures else ""
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="generator" content="physgym {__version__}"><title>{title}</title>'
            f"<style>{STYLE}</style></head><body><main>"
            f'<header><div class="kind">{_text(self._kind)}</div><h1>{_text(self._title)}</h1>'
            f"{f'<p>{_text(self._text)}</p>' if self._text else ''}</header>"
            f'<div class="cards">{cards}</div><nav>{contents}</nav>{"".join(self._parts)}'
            f"<footer>physgym {__version__}, {made}</footer></main>"
            f"<noscript>The plots of this page need JavaScript.</noscript>{script}</body></html>\n"
        )

    def save(self, file: str | Path) -> str:
        """Write the page to a file, which is there as a whole or as it was, and return its size in words.

        Raises:
            ConfigError: plotly is not installed, the page is too large, or the disk refuses.
        """
        content = self.html().encode(errors="replace")
        if len(content) > LARGEST:
            raise ConfigError(
                f"the report would have {size_text(len(content))}, more than {size_text(LARGEST)}: draw fewer samples"
            )
        try:
            write_atomically(absolute(file), content, durable=False)
        except OSError as error:
            raise ConfigError(f"cannot write the report {file}: {error.strerror}") from error
        return size_text(len(content))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>' if text else ""


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number or empty, or a part in per cent."""
    return not cell or cell[0].isdigit() or (cell[0] in "-+" and cell[1:2].isdigit()) or cell in ("inf", "-inf", "nan")

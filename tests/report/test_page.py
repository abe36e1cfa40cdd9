"""The page of a report: one file that holds everything, in which nothing of a user's is code."""

import importlib.util
import json
import re

import numpy as np
import pytest
from matplotlib.font_manager import findfont as find_font
from PIL import ImageFont

from physgym.errors import ConfigError
from physgym.report import charts, look, page
from physgym.report.page import Page

EVIL = "<script>alert(1)</script>"


def test_the_longest_word_of_an_outcome_fits_into_a_card():
    card, padding = (
        re.search(r"minmax\((\d+)px,1fr\)\)", look.STYLE),
        re.search(r"\.card\{.*?padding:12px (\d+)px", look.STYLE),
    )
    rem = re.search(r"\.card \.figure\{font-size:([\d.]+)rem", look.STYLE)
    font = ImageFont.truetype(find_font("DejaVu Sans:bold"), 100)  # wider than the fonts of most systems
    wide = font.getlength("interrupted") / 100 * 16 * float(rem[1])
    assert wide < int(card[1]) - 2 * int(padding[1]) - 2  # the border


def evil_page():
    made = Page(EVIL, EVIL, EVIL)
    made.headline({EVIL: EVIL})
    made.section(EVIL, EVIL)
    made.remark(EVIL)
    made.facts({EVIL: EVIL})
    made.table([EVIL], [[EVIL]], EVIL)
    made.details(EVIL, EVIL)
    made.links({EVIL: EVIL, 'a"b': "quotes"})
    made.picture(b"png", EVIL, EVIL)
    made.charts([charts.histogram(EVIL, {EVIL: np.arange(20.0)}, across=EVIL, note=EVIL)])
    made.charts([charts.counts(EVIL, {EVIL: 1}, what=EVIL)])
    return made


def test_nothing_that_a_user_names_is_code():
    text = evil_page().html()
    assert "alert(1)" in text
    assert EVIL not in text
    assert text.count("<script>") == 2  # plotly, and what draws the plots
    assert 'href="a%22b"' in text
    figures = re.search(r"const figures=(\[.*?\]);\n\(function", text, re.DOTALL)[1]
    assert "<" not in figures
    assert len(json.loads(figures)) == 2


def test_a_page_fetches_nothing():
    text = re.sub(r"<script>.*?</script>", "", evil_page().html(), flags=re.DOTALL)
    assert "default-src 'none'" in text
    assert not re.search(r'<(link|iframe|object|embed)\b|\bsrc="(?!data:)', text)


def test_a_page_without_plots_has_no_script():
    made = Page("a", "b")
    made.text("c")
    assert "<script>" not in made.html()


def test_without_plotly_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'physgym\[report\]'"):
        evil_page().html()


def test_a_picture_for_which_there_is_no_room_is_named(monkeypatch):
    monkeypatch.setattr(page, "PICTURES", 100)
    made = Page("a", "b")
    made.picture(bytes(60), "first")
    made.picture(bytes(60), "second")
    text = made.html()
    assert text.count("<img") == 1
    assert "second: not shown" in text


def test_plots_of_which_there_are_too_many_are_named(monkeypatch):
    monkeypatch.setattr(page, "CHARTS", 1)
    made = Page("a", "b")
    made.charts(charts.values(name, {"v": np.arange(3)}) for name in ("first", "second", "third"))
    text = made.html()
    assert text.count('class="plot"') == 1
    assert "has 1 plots already: second, third" in text


def test_a_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"more than 1 kB"):
        evil_page().save(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot write the report"):
        Page("a", "b").save(tmp_path / "folder")
    with pytest.raises(ConfigError, match="No such file"):
        Page("a", "b").save(tmp_path / "gone" / "page.html")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_columns_without_a_cell_are_left_out_and_numbers_stand_right():
    made = Page("a", "b")
    made.table(["name", "value", "remark"], [["x", 1.5, ""], ["y", -2, ""]])
    text = made.html()
    assert "remark</th>" not in text
    assert '<th class="n">value</th>' in text
    assert "<th>name</th>" in text


def test_long_cells_have_several_lines():
    made = Page("a", "b")
    made.table(["x", "y"], [["short", "long " * 20]])
    assert '<td>short</td><td class="w">long' in made.html()


def test_a_long_table_says_that_it_is_cut(monkeypatch):
    monkeypatch.setattr(page, "ROWS", 2)
    made = Page("a", "b")
    made.table(["x"], [[1], [2], [3]])
    assert "The first 2 of 3 rows." in made.html()

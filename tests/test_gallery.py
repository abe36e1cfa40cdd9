"""The gallery: each example has a picture that something makes anew, a title, and a place."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
import yaml
from PIL import Image

from benchmarks.charts import tables, trained
from docs.extensions.gallery import PARTS, command_of, examples, picture, title_of
from docs.pictures.__main__ import makers
from docs.pictures.configurations import SMALLER
from docs.pictures.dialled import PROGRAMS
from docs.pictures.work import IMAGES, ROOT
from physgym.experiment.config import load_config

INDEX = ROOT / "docs" / "gallery" / "index.md"


def test_something_makes_the_picture_of_each_example():
    assert len(examples()) > 40
    assert set(makers()) == set(examples())
    folder = IMAGES / "gallery"
    drawn = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("*/*")}
    assert drawn == set(examples())


@pytest.mark.parametrize("name", examples())
def test_a_picture_shows_something_and_is_small(name):
    assert picture(name).stat().st_size < 100_000
    with Image.open(picture(name)) as shown:
        assert shown.width >= 480
        assert shown.height >= 180
        assert len(shown.convert("RGB").getcolors(1 << 20)) > 8


def test_pictures_are_small_together():
    assert sum(picture(name).stat().st_size for name in examples()) < 1_200_000


@pytest.mark.parametrize("name", examples())
def test_an_example_begins_with_a_title(name):
    text = examples()[name].read_text()
    assert 10 <= len(title_of(examples()[name])) <= 80
    if examples()[name].suffix == ".yaml":
        assert yaml.safe_load(text)["description"]
    elif examples()[name].suffix == ".py":
        title, _, rest = ast.get_docstring(ast.parse(text)).partition("\n")
        assert title.endswith(".")
        assert rest == "" or rest.startswith("\n")


def test_no_file_of_the_examples_is_left_out():
    shown = set(examples().values())
    read = {one for file in shown for one in file.with_suffix("").rglob("*")}
    assert not [
        file
        for file in (*(ROOT / "examples").rglob("*"), *(ROOT / "clients").rglob("*.c*"))
        if file.is_file() and file not in shown | read and file.suffix not in ("", ".pyc") and file.stem not in PARTS
    ]


def test_a_program_in_another_language_is_compiled_and_dials_in():
    assert command_of(PROGRAMS["spring"].file).splitlines() == [
        "make -C clients/c",
        "physgym generate worker:physgym/Spring-v0 --out data --samples 1000 --listen 127.0.0.1:7000 --plain "
        "--token-file token &",
        "clients/c/spring 127.0.0.1:7000 --token-file token --envs 4",
    ]
    for program in PROGRAMS.values():
        assert program.env.encode() in program.file.read_bytes()
        assert (ROOT / program.command.split()[-1]).parent == program.file.parent


def test_each_example_stands_once_in_the_gallery():
    lines = Counter(line for line in INDEX.read_text().splitlines() if line in examples())
    assert lines == dict.fromkeys(examples(), 1)


def test_smaller_budgets_of_pictures_are_of_configurations():
    for name, changes in SMALLER.items():
        load_config(ROOT / "examples" / f"{name}.yaml", list(changes))


def test_the_charts_of_the_readme_find_their_figures():
    text = (ROOT / "docs" / "concepts" / "figures.md").read_text()
    assert {"Stepping", "Generating", "Storing and reading"} <= set(tables(text))
    assert len(trained(text)) == 3

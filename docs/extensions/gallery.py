"""Pages of the examples, which sphinx-gallery makes, with the pictures that `docs.pictures` has made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from docs.pictures.__main__ import makers
from docs.pictures.configurations import SMALLER
from docs.pictures.dialled import PROGRAMS
from docs.pictures.work import EXAMPLES, IMAGES, ROOT

SECTIONS = {"configurations": "gallery/configurations", "examples": "gallery/examples"}
PARTS = ("sofa_beam_scene",)  # what an example imports
# sphinx-gallery finds no comment in JavaScript, whose lexer begins with an empty text
LIKE_JAVASCRIPT = "Dart"
MARKS = ('"""', "# ", "// ", "/* ")  # before the title of an example


def examples() -> dict[str, Path]:
    """Return the files of the examples by the names of their pages, such as configurations/heat."""
    files = sorted(file for suffix in ("py", "yaml") for file in EXAMPLES.rglob(f"*.{suffix}"))
    files += sorted(program.file for program in PROGRAMS.values())
    names = {file: "configurations" if file.suffix == ".yaml" else "examples" for file in files}
    return {f"{names[file]}/{file.stem}": file for file in files if file.stem not in PARTS}


def picture(name: str) -> Path:
    """Return the file of an example's picture."""
    return IMAGES / "gallery" / f"{name}.png"


def title_of(file: Path) -> str:
    """Return the title of an example, which is its first line of text."""
    first = next(line for line in file.read_text().splitlines() if line.startswith(MARKS))
    return first.strip('"#/* ').removesuffix(".")


def collect(app: Sphinx, config: Config) -> None:
    """Lay the examples out as sphinx-gallery wants them: in folders without two files of a name."""
    staged = Path(app.doctreedir, "gallery")
    shutil.rmtree(staged, ignore_errors=True)
    for name, file in examples().items():
        section = name.partition("/")[0]
        link = staged / section / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    for section in SECTIONS:
        (staged / section / "GALLERY_HEADER.rst").write_text(f"{section}\n{'=' * len(section)}\n")
    config.sphinx_gallery_conf |= {
        "examples_dirs": [str(staged / section) for section in SECTIONS],
        "gallery_dirs": list(SECTIONS.values()),
        "filetype_parsers": {".js": LIKE_JAVASCRIPT},
    }


def command_of(file: Path) -> str:
    """Return the command that runs an example, a line for each of several; empty where its own text has it."""
    if program := PROGRAMS.get(file.stem):
        listen = f"physgym generate worker:{program.env} --out data --samples 1000"
        where = "127.0.0.1:7000"
        lines = [f"{listen} --listen {where} --plain --token-file token &"]
        lines += [f"{program.command} {where} --token-file token --envs 4"]
        return "\n".join([program.make, *lines] if program.make else lines)
    text, path = file.read_text(), file.relative_to(ROOT).as_posix()
    if file.suffix == ".yaml":
        return f"physgym {'search' if 'search' in yaml.safe_load(text) else 'train'} {path}"
    return "" if path in text.partition("\nimport ")[0] else f"python {path}"


def introduction(name: str, file: Path) -> str:
    """Return what stands above the text of an example: its title and its picture."""
    title, shown = title_of(file), picture(name).relative_to(ROOT / "docs").as_posix()
    caption = (makers()[name].__doc__ or "").removeprefix("Show ")
    smaller = SMALLER.get(file.stem, ()) if file.suffix == ".yaml" else ()
    said = " Made with " + ", ".join(f"``{change}``" for change in smaller) + "." if smaller else ""
    lines = [title, "=" * len(title), "", f".. figure:: /{shown}", f"   :alt: {caption}", ""]
    return "\n".join([*lines, f"   {caption[:1].upper()}{caption[1:]}{said}", ""])


def beside(file: Path) -> str:
    """Return a list of the files that an example reads, from the folder of its name."""
    files = sorted(one for one in file.with_suffix("").glob("**/*") if one.is_file())
    links = [f"* :download:`{one.relative_to(EXAMPLES)} </../{one.relative_to(ROOT)}>`" for one in files]
    return "\n".join(["What it reads:", "", *links, "", ""]) if links else ""


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the page of an example its title, its picture, its command and what lies beside its file."""
    name = docname.removeprefix("gallery/")
    file = examples().get(name)
    if file is None or name == docname:
        return
    label = f".. _sphx_glr_gallery_{name.replace('/', '_')}{file.suffix}:\n"
    body = source[0].partition(label)[2].lstrip()  # without the link to the end, where the download is
    first, _, rest = body.partition("\n")
    if first.removesuffix(".") != title_of(file):
        raise ExtensionError(f"{docname} begins with {first!r}, not with the title of {file.name}")
    text, _, code = rest.partition("\n.. GENERATED FROM")
    if file.suffix == ".yaml":
        text = re.sub(r"([*_`|\\])", r"\\\1", yaml.safe_load(file.read_text())["description"])
    if command := command_of(file):
        text += f"\n\n.. code-block:: bash\n\n{indent(command, ' ' * 4)}\n"
    code, mark, download = code.partition(".. _sphx_glr_download_")
    download = download.partition("    .. container:: sphx-glr-download sphx-glr-download-zip")[0]  # of one file
    made = f"{label}\n{introduction(name, file)}\n{text}\n.. GENERATED FROM{code}{beside(file)}{mark}{download}"
    source[0] = made.replace(LIKE_JAVASCRIPT, "JavaScript") if file.suffix == ".js" else made


class Examples(SphinxDirective):
    """Cards of examples, named one a line: picture, title and link."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return them."""
        known = examples()
        lines = ["::::{grid} 1 2 2 2", ":gutter: 2", ""]
        for name in self.content:
            if name not in known:
                raise self.error(f"there is no example {name!r}")
            shown = picture(name).relative_to(ROOT / "docs").as_posix()
            lines += [":::{grid-item-card}", f":img-top: /{shown}", f":link: /gallery/{name}", ":link-type: doc", ""]
            lines += [title_of(known[name]), ":::", ""]
        return self.parse_text_to_nodes("\n".join([*lines, "::::"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions."""
    app.add_directive("examples", Examples)
    app.connect("config-inited", collect, priority=1)  # before sphinx-gallery reads its own configuration
    app.connect("source-read", complete)
    return {"parallel_read_safe": True}

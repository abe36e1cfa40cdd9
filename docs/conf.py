"""Sphinx configuration."""

import sys
from pathlib import Path

import physgym

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "physgym"
author = "The physgym developers"
copyright = "2026, the physgym developers"
release = version = physgym.__version__
extensions = [
    "myst_nb",  # pages in Markdown, and notebooks with what they hold
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in the style of Google
    "sphinx_copybutton",  # a button on every block of code
    "sphinx_design",  # cards and tabs
    "sphinx_gallery.gen_gallery",  # a page for each example
    "docs.extensions.gallery",
    "docs.extensions.generated",
    "docs.extensions.names",
    "docs.extensions.sought",
]
exclude_patterns = ["_build", "extensions", "pictures", "gallery/*/index.rst"]
smartquotes = False  # --option stays --option

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["tianshou"]  # large, and only a class of ours has one of its as a base
default_role = "py:obj"  # `Trainer` in a docstring
napoleon_use_ivar = True
nitpicky = True  # a name in a page that has no page of its own is a mistake

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "off"  # a test runs notebooks

copybutton_exclude = ".linenos, .gp, .go"  # prompts and output of consoles are not copied

html_static_path = ["static"]
html_css_files = ["gallery.css"]
html_search_scorer = str(Path(__file__).parent / "extensions" / "scorer.js")
html_theme = "furo"
html_title = f"physgym {release}"

sphinx_gallery_conf = {  # docs.extensions.gallery adds the folders
    "plot_gallery": False,  # examples take minutes: `make gallery` runs them, and draws their pictures
    "example_extensions": {".py", ".yaml", ".js", ".c", ".cpp"},
    "notebook_extensions": set(),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}

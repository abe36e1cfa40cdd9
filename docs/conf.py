"""Sphinx configuration."""

import physgym

project = "physgym"
author = "The physgym developers"
copyright = "2026, the physgym developers"
release = version = physgym.__version__
extensions = [
    "myst_parser",
    "sphinx_copybutton",  # a button on every block of code
    "sphinx_design",  # cards and tabs
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

copybutton_exclude = ".linenos, .gp, .go"  # prompts and output of consoles are not copied

html_theme = "furo"
html_title = f"physgym {release}"
html_static_path = ["static"]
html_css_files = ["physgym.css"]

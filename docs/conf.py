"""Sphinx configuration."""

import physgym

project = "physgym"
author = "The physgym developers"
copyright = "2026, the physgym developers"
release = version = physgym.__version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"physgym {release}"
exclude_patterns = ["_build"]

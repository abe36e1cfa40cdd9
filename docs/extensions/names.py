"""Links from names in code to the pages of the reference, wherever a page or a docstring has one."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"(?:physgym\.)?(?:\w+\.)*\w+")


def short_names(env: BuildEnvironment) -> dict[str, str]:
    """Return the documented classes, functions and methods, by their last words if these mean one of them alone."""
    objects = env.domains.python_domain.objects
    short = {name: name.rpartition(".")[2] for name in objects}
    for name, entry in objects.items():
        if entry.objtype in ("method", "attribute", "property"):
            short[name] = ".".join(name.split(".")[-2:])
    counts = Counter(short.values())
    return {last: name for name, last in short.items() if counts[last] == 1}


def link(app: Sphinx, docname: str, name: str, content: nodes.Node) -> nodes.reference | None:
    """Return a link to the page of a name, if there is one; common words are names of nothing."""
    objects = app.env.domains.python_domain.objects
    whole = name.removesuffix("()")
    if whole not in objects:
        last = whole.split(".")
        found = getattr(app.env, "physgym_names", None)
        if found is None:
            found = app.env.physgym_names = short_names(app.env)  # type: ignore[attr-defined]
        if whole.startswith("physgym."):
            whole = found.get(last[-1], "")
        elif re.search("[A-Z]", last[0]):
            whole = found.get(whole, "")
        else:
            return None
    if whole not in objects or objects[whole].docname == docname:
        return None
    entry = objects[whole]
    return make_refnode(app.builder, docname, entry.docname, entry.node_id, content, whole)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Resolve a name of a docstring or a signature; one that has no page stays as it is.

    What a page asks for by a role of its own has to be there: Sphinx warns of it.
    """
    if node.get("refdomain") != "py" or not node.get("refdoc", "").startswith("reference/api/"):
        return None
    return link(app, node["refdoc"], node["reftarget"].lstrip("~."), content) or content


def link_literals(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make links of names in code, such as ``Trainer`` and ``physgym.generate``, in a page."""
    if docname.startswith("changelog"):
        return
    if docname.startswith("reference/api/"):  # what stands between a parameter and its description
        for dash in [text for text in doctree.findall(nodes.Text) if text == " -- "]:
            dash.parent.replace(dash, nodes.Text(" \N{EN DASH} "))
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        inside: Any = literal.parent
        if NAME.fullmatch(text.removesuffix("()")) and not isinstance(inside, nodes.reference | nodes.title):
            found = link(app, docname, text, literal.deepcopy())
            if found is not None:
                inside.replace(literal, found)


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Take stars and final underscores of a docstring for what they are: ``(rows, *shape)``, names that begin so_."""
    code = None  # indentation of the line before a block of code
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if code is not None and line and depth <= code:
            code = None
        if code is None:
            parts = re.split(r"(`+[^`]*`+|\*[a-z]+\*)", line)
            parts[::2] = (re.sub(r"(\*|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2])
            lines[number] = "".join(parts)
            if line.endswith("::"):
                code = depth


def forget(app: Sphinx, env: BuildEnvironment) -> None:
    """Forget the names of an earlier build."""
    if hasattr(env, "physgym_names"):
        del env.physgym_names


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions."""
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon
    app.connect("env-updated", forget)
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", link_literals)
    return {"parallel_read_safe": True}

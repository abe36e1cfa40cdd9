"""How the code of the pages of docs/troubleshooting is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES = {
    "troubleshooting/machines": Guide(prepared=False),  # variables of a shell
}

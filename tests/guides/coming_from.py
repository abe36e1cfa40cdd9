"""How the code of the pages of docs/coming_from is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES = {
    "coming_from/minari": Guide(prepared=False),  # its commands are those of howto/interop
}

"""How the code of the pages of docs/start is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES: dict[str, Guide] = {
    "start/first_ten_minutes": Guide(),
    "contributing": Guide(),
    "start/installation": Guide(),
}

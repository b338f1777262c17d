"""Nothing that others rely on goes away: routes and bodies, options, config keys, element ids, settings, exit codes."""

from __future__ import annotations

import json

import pytest

from tests.surface import LIST, PARTS

KNOWN = json.loads(LIST.read_text(encoding="utf-8"))
NEEDS = {"routes": "fastapi", "elements": "gradio"}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_what_others_rely_on_is_there(part):
    if part in NEEDS:
        pytest.importorskip(NEEDS[part])
    assert json.loads(json.dumps(PARTS[part]())) == KNOWN[part]

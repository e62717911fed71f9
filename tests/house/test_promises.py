"""docs/promises.md names tests that exist."""

from __future__ import annotations

import re

from tests.ranks import ROOT

_FUNCTION = re.compile(r"^def (test_\w+)\(", re.MULTILINE)


def test_every_promise_has_its_tests():
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in _FUNCTION.findall(path.read_text(encoding="utf-8"))
    }
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 40
    assert not named - tests
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) >= 24

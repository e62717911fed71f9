"""The stairs of docs/architecture.md hold."""

from __future__ import annotations

import pytest

from tests.house.stairs import ROOMS, circles, room_of, violations
from tests.house.tree import ROOT, package_modules


def tree_of(tmp_path, **files):
    """A fake project; `a__b="text"` writes vitscale/a/b.py."""
    for name, text in files.items():
        folder = "launch/vitscale_launch" if name.startswith("launch__") else "vitscale"
        path = tmp_path / folder / f"{name.removeprefix('launch__').replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package_modules(tmp_path)


def test_no_import_goes_up_or_sideways_and_packages_stay_at_home():
    found = violations(package_modules())
    assert not found, "\n".join(found)


def test_no_module_imports_itself_through_others():
    assert circles(package_modules()) == []


def test_every_room_is_in_the_table_and_in_the_architecture_page():
    page = (ROOT / "docs/architecture.md").read_text()
    for module in package_modules():
        room_of(module.name)
    for room in ROOMS:
        assert room.split(".")[-1] in page or room == "vitscale.__main__", room


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("config__a", "from vitscale.model import vit", "upward"),
        ("config__a", "def f():\n    import vitscale.train.loop", "upward"),
        ("model__a", "from vitscale.data.loader import scan", "sideways"),
        ("data__a", "from ..engine import local", "upward"),
        ("train__a", "import deepspeed", "at home in vitscale.engine"),
        ("engine__a", "def f():\n    from ray import train", "at home in vitscale_launch"),
        ("cli__a", "import torch", "at home in vitscale.ops"),
        ("train__a", "import mlflow.tracking", "at home in vitscale.tracking"),
        (
            "model__a",
            "try:\n    import apex\nexcept ImportError:\n    pass",
            "at home in vitscale.ops",
        ),
        ("units", "import pydantic", "at home in vitscale.config"),
        ("ops__a", "import einops", "in no room's list"),
        ("launch__a", "from vitscale.planner.size import parameters", "launch may not import"),
        ("launch__a", "from vitscale.train import worker", "launch may not import"),
        ("train__a", "import vitscale_launch", "upward"),
    ],
)
def test_an_offender_is_found(tmp_path, name, text, complaint):
    modules = tree_of(
        tmp_path, **{name: text, "train__worker": "", "model__vit": "", "engine__local": ""}
    )
    found = violations(modules)
    assert len(found) == 1
    assert complaint in found[0]


def test_imports_downhill_pass(tmp_path):
    modules = tree_of(
        tmp_path,
        errors="import difflib",
        units="from vitscale.errors import E",
        config__a="import pydantic\nfrom vitscale.errors import E\nfrom .b import x",
        config__b="from vitscale import __version__",
        train__worker="import torch\nimport vitscale.config.a",
        launch__job="import ray\ndef f():\n    from vitscale.train import worker",
        cli__a="def f():\n    import vitscale_launch.job",
    )
    assert violations(modules) == []


def test_a_circle_is_found_through_function_level_imports(tmp_path):
    modules = tree_of(
        tmp_path,
        config__a="from vitscale.config import b",
        config__b="def f():\n    from vitscale.config.c import x",
        config__c="import vitscale.config.a",
        config__d="import vitscale.config.a",
    )
    assert circles(modules) == [["vitscale.config.a", "vitscale.config.b", "vitscale.config.c"]]


def test_a_module_outside_all_rooms_is_an_error(tmp_path):
    with pytest.raises(LookupError, match="no room"):
        violations(tree_of(tmp_path, cellar__a="import os"))

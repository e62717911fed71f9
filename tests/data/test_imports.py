"""Packing and indexing modules stay light until they work."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "config.dataset", "cli.shards", "data.index", "data.write", "data.tar_index", "data.verify",
    "data.shards", "data.order", "data.decode", "data.augment", "data.sources.choose",
    "data.sources.folder", "data.sources.digits", "data.sources.fashion_mnist", "data.sources.icons",
)  # fmt: skip


def test_no_module_of_the_packing_side_imports_torch():
    lines = [f"import vitscale.{name}" for name in LIGHT]
    lines.append(
        "import sys; print([m for m in ('torch', 'webdataset', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

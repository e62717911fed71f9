"""What all tests share."""

from __future__ import annotations

import os

# Ray reads this when it is first imported, by whichever test; launch/vitscale_launch/cluster.py says why.
os.environ.setdefault("RAY_enable_metrics_collection", "0")

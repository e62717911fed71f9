"""Parent and child in MLflow: a branch names its trunk, and the trunk its branches."""

from __future__ import annotations

import logging
from pathlib import Path

from vitscale.config.redaction import redact_text
from vitscale.errors import VitscaleError
from vitscale.tracking.outbox import PARENT_TAG, Outbox, ShipState
from vitscale.tracking.sync import sync
from vitscale.tracking.target import Target

log = logging.getLogger(__name__)


def link(parent: Path, child: Path, step: int, target: Target | None) -> None:
    """Tag both runs; MLflow shows the child below its parent where both are in one store.

    Called before the child trains; its tags go out with it. The parent's are sent by its own trainer, or with `sync`.

    Args:
        parent: the trunk's folder.
        child: the branch's, which may not exist yet.
        step: of the trunk's commit.
        target: the MLflow of the child; None where it has none.
    """
    state = ShipState.load(parent)
    if target is None:
        return
    child.mkdir(parents=True, exist_ok=True)
    tags = {"vitscale.parent": str(parent), "vitscale.parent_step": str(step)}
    if state is not None and state.run_id and state.tracking_uri == redact_text(target.uri):
        tags[PARENT_TAG] = state.run_id
    Outbox(child).add("tags", tags=tags)
    if state is not None:
        Outbox(parent).add("tags", tags={f"vitscale.branch.{child.name}": str(child)})


def send(parent: Path) -> None:
    """Bring the parent's tags to MLflow; for a parent that is not training any more."""
    if ShipState.load(parent) is None:
        return
    try:
        sync(parent)
    except (VitscaleError, ImportError) as error:
        log.warning("MLflow was not told of the branch (%s); `vitscale report sync` does it", error)

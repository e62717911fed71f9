"""Recipes that runs left in their folders, also those that an earlier version wrote."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from vitscale.config.load import Recipe
from vitscale.errors import ConfigError

log = logging.getLogger(__name__)


def saved_recipe(file: Path) -> Recipe:
    """The recipe of a run's `config.json`; what an earlier version spelled otherwise is read as it was meant, and told.

    Raises:
        ConfigError: it is no saved config, of another schema version, or does not validate.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        engine = record["config"]["engine"]
        if engine.get("zero_stage", "auto") is None:
            engine["zero_stage"] = _stage_of_none(engine)
            log.warning(
                "%s: engine.zero_stage = null of an earlier version is read as %s",
                file,
                json.dumps(engine["zero_stage"]),
            )
        return Recipe.from_json(json.dumps(record))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"is no saved config: {error!r}",
            where=str(file),
            do="Name the config.json of a run's folder, as a run wrote it.",
        ) from error


def _stage_of_none(engine: dict[str, Any]) -> int | str:
    """What null meant before there was "auto": stage 1 of DeepSpeed, and nothing for plain torch."""
    return 1 if engine["kind"] == "deepspeed" else "auto"

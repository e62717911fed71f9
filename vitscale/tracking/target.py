"""Which MLflow a run reports to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STORE_NAME = "mlflow.db"
ARTIFACTS_NAME = "mlartifacts"


@dataclass(frozen=True)
class Target:
    """`artifact_root` is given to experiments that are created here; a server chooses its own."""

    uri: str
    artifact_root: str | None = None

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith(("http://", "https://"))


def target_of(setting: str, home: Path) -> Target | None:
    """Read `tracking.mlflow`: "auto" is a SQLite store below `home`, "off" is none, a URI is itself."""
    if setting == "off":
        return None
    if setting == "auto":
        home = home.absolute()
        return Target(f"sqlite:///{home / STORE_NAME}", str(home / ARTIFACTS_NAME))
    return Target(setting)

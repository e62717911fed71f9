"""What was scored, in files: a result a task, written whole, and never computed again for the same weights and task.

results/WEIGHTS-TASK.json             scores with intervals, and what was chosen on the way
evidence/WEIGHTS-TASK.safetensors     what was said of every test image, for paired comparisons
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from vitscale.durable import write_bytes_atomically, write_text_atomically
from vitscale.errors import DataError
from vitscale.evaluate.grade import Evidence, Score


@dataclass(frozen=True)
class Results:
    """The results below one folder."""

    folder: Path

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of a task that is done; None where it is not."""
        try:
            return json.loads(self._record(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(
                f"is not what vitscale wrote: {error}",
                where=str(self._record(key)),
                do="Remove the file; the task is then scored anew.",
            ) from error

    def write(
        self, key: str, record: Mapping[str, Any], graded: Sequence[tuple[Score, Evidence]]
    ) -> None:
        """Keep scores and evidence; the record comes last, and with it the task is done."""
        tensors: dict[str, torch.Tensor] = {}
        for number, (_, evidence) in enumerate(graded):
            for name, values in vars(evidence).items():
                if values is not None and (number == 0 or name in ("hits", "scores")):
                    tensors[f"{number}.{name}"] = torch.from_numpy(values).contiguous()
        for path in (self._evidence(key), self._record(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(self._evidence(key), save(tensors))
        scores = [score.as_json() for score, _ in graded]
        text = json.dumps({**record, "scores": scores}, indent=2)
        write_text_atomically(self._record(key), text + "\n")

    def evidence(self, key: str) -> list[Evidence]:
        """Of each score of a task, in their order."""
        tensors = load_file(self._evidence(key))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        count = len({name.partition(".")[0] for name in arrays})
        return [
            Evidence(
                arrays["0.ids"],
                arrays["0.truth"],
                arrays.get(f"{number}.hits"),
                arrays.get(f"{number}.scores"),
            )
            for number in range(count)
        ]

    def _record(self, key: str) -> Path:
        return self.folder / "results" / f"{key}.json"

    def _evidence(self, key: str) -> Path:
        return self.folder / "evidence" / f"{key}.safetensors"

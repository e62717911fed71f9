"""A transfer suite: downstream data sets, and the tasks that are scored on them (docs/transfer.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, field_validator

from vitscale.config.base import Section, plain_names
from vitscale.config.load import all_at_once, details_of, named_file, read_toml, sentence
from vitscale.config.source import SourceField, SourcesField, absolute_paths
from vitscale.errors import ConfigError, nearest

FOLDER = Path("configs/transfer")

Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)]
Rates = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    Field(min_length=1, strict=False),
]


class DownstreamData(Section):
    """One downstream set, a table `[data.NAME]` of a suite."""

    test: SourceField
    """What is scored, all of it."""

    train: SourcesField | None = None
    """What classifiers are fitted on; only a task that scores the model's own head does without."""

    dev: SourceField | None = None
    """What rates and penalties are chosen on, beside `train`; the last fit is on both (VTAB's 800 and 200)."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Without `dev`, the share of `train` they are chosen on, drawn once."""

    group: str = ""
    """Groups have a mean of their own in the table."""

    metric: Literal["top1", "mean-per-class", "map"] = "top1"
    """Share of right guesses, the mean of that over classes, or mean average precision of several labels an image."""


class _Task(Section):
    """What all tasks have."""

    data: Names | Literal["all"] = "all"
    """Names of the data sets, or all of the suite."""

    image_px: Annotated[int, Field(ge=1)] | None = None
    """Side of the views; as the weights have it where not given. Positions are resampled."""

    crop: Literal["center", "none"] = "center"
    """The central part of an image, or all of it, squeezed."""

    resize_px: Annotated[int, Field(ge=1)] | None = None
    """Of that only what a view covers after a resize to this; as `evaluate.resize_px` of a recipe."""


class RidgeTask(_Task):
    """Few-shot: least squares with a penalty on frozen features of k images a class (big_vision's fewshot_lsr)."""

    method: Literal["ridge"]

    shots: Counts = (1, 5, 10, 25)
    """Images a class."""

    seeds: int = Field(default=3, ge=1)
    """Draws of those images; the mean and its spread are reported."""

    penalty: float = Field(default=1024.0, gt=0)
    """Weight of the squared norm (2^10 in big_vision)."""


class KnnTask(_Task):
    """Nearest neighbours by the cosine of frozen features, votes weighted by exp(cosine / temperature) (DINO)."""

    method: Literal["knn"]

    k: Counts = (10, 20, 100, 200)
    """Neighbours that vote."""

    temperature: float = Field(default=0.07, gt=0)
    """How sharply nearer ones are preferred."""


class LinearTask(_Task):
    """A linear classifier on frozen features, SGD with momentum 0.9 and a cosine, the rate chosen on the dev part."""

    method: Literal["linear"]

    lrs: Rates = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    """Rates for 256 images a step, scaled by `batch` / 256 (DINOv2 and v3: these thirteen)."""

    batch: int = Field(default=1024, ge=1)
    """Images a step."""

    steps: int = Field(default=12_500, ge=1)
    """Steps of each fit."""


class LogregTask(_Task):
    """Logistic regression with an L2 penalty in float64 by L-BFGS, the penalty chosen on the dev part (DINOv3)."""

    method: Literal["logreg"]

    c: Rates = tuple(10.0 ** (-6 + 11 * n / 44) for n in range(45))
    """Inverse weights of the penalty, as scikit-learn's C; DINOv3 tries these 45."""

    iterations: int = Field(default=1000, ge=1)
    """Most iterations of each fit."""


class FinetuneTask(_Task):
    """Full fine-tuning: a training run for each rate, judged on the dev part, then runs on all of `train` and `dev`."""

    method: Literal["finetune"]

    recipe: str
    """A recipe such as configs/finetune/vit_b16_pets_384.toml; model, weights, data and rate are filled in."""

    lrs: Rates
    """Peak rates that are tried; with a single one nothing is tried first."""

    seeds: int = Field(default=1, ge=1)
    """Final runs; their mean and spread are reported."""


class HeadTask(_Task):
    """The model's own classifier, as it is, on another test set of its classes (ImageNet's ReaL, V2, A, R, Sketch)."""

    method: Literal["head"]

    classes: str | None = None
    """File with the name of each output, one a line; without it outputs and classes of the set are in one order."""

    names: Literal["name", "number"] = "name"
    """Classes of the set are called as in `classes`, or by the number of their output (ImageNet-V2's folders)."""

    restrict: bool = False
    """Choose among the set's classes only (ImageNet-A and R score 200 of 1000 so)."""

    real: str | None = None
    """`real.json` of "Are we done with ImageNet?": all right labels of each image of ILSVRC2012 val."""


Task = RidgeTask | KnnTask | LinearTask | LogregTask | FinetuneTask | HeadTask

_METHODS: dict[str, type[_Task]] = {
    "ridge": RidgeTask,
    "knn": KnnTask,
    "linear": LinearTask,
    "logreg": LogregTask,
    "finetune": FinetuneTask,
    "head": HeadTask,
}


class Suite(Section):
    """Data sets and tasks; a file of `configs/transfer/`."""

    data: Annotated[dict[str, DownstreamData], Field(min_length=1)]
    task: Annotated[
        tuple[Annotated[Task, Field(discriminator="method")], ...],
        Field(min_length=1, strict=False),
    ]

    @field_validator("data")
    @classmethod
    def _plain_names(cls, data: dict[str, DownstreamData]) -> dict[str, DownstreamData]:
        plain_names(data, "a data set")
        return data


@dataclass(frozen=True)
class Row:
    """One task on one of its data sets."""

    name: str
    data: DownstreamData
    task: Task


@dataclass(frozen=True)
class LoadedSuite:
    """A suite, what it is called, and its rows in the order of data sets."""

    name: str
    suite: Suite

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads; paths are whole by now."""
        return {
            "name": self.name,
            "suite": self.suite.model_dump(mode="json", exclude_unset=True),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LoadedSuite:
        """Read what `as_json` wrote."""
        return cls(record["name"], Suite.model_validate_json(json.dumps(record["suite"])))

    @property
    def rows(self) -> list[Row]:
        return [
            Row(name, data, task)
            for name, data in self.suite.data.items()
            for task in self.suite.task
            if task.data == "all" or name in task.data
        ]


def load_suite(name: str) -> LoadedSuite:
    """Read the suite called `name` in `configs/transfer/`, or the file `name`; paths are of the working folder.

    Raises:
        ConfigError: no such suite, or keys that are unknown, impossible or idle; all are listed.
    """
    path = named_file(name, FOLDER, "suite")
    values = read_toml(path)
    for table in _tables(values.get("data")):
        for key in ("train", "test", "dev"):
            if key in table:
                table[key] = absolute_paths(table[key], _absolute)
    for table in _tables(values.get("task")):
        for key in ("recipe", "classes", "real"):
            if isinstance(table.get(key), str):
                table[key] = _absolute(table[key])
    try:
        suite = Suite.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _readable(error, path) from None
    problems = [f"{key}: {text}" for key, text in _conflicts(suite)]
    if problems:
        raise all_at_once(problems, f"suite {path}")
    return LoadedSuite(path.stem, suite)


def _conflicts(suite: Suite) -> Iterator[tuple[str, str]]:
    """(key, sentence) for everything that names nothing or has no effect."""
    used: set[str] = set()
    for number, task in enumerate(suite.task):
        names = tuple(suite.data) if task.data == "all" else task.data
        for name in names:
            if name not in suite.data:
                yield f"task.{number}.data", f"no data set {name!r}; {nearest(name, suite.data)}"
            elif task.method != "head" and suite.data[name].train is None:
                yield f"data.{name}.train", f"is needed by the {task.method} task"
        used |= set(names)
        yield from _idle(number, task, suite, names)
    for name, data in suite.data.items():
        sources = [data.test, *(data.train or ()), *([data.dev] if data.dev else [])]
        for remote in [source.shards for source in sources if source.is_remote]:
            yield f"data.{name}", f"{remote} is a URL, and suites read local folders: copy it first"
        if name not in used:
            yield f"data.{name}", "no task scores it"
        if data.dev is not None and "dev_share" in data.model_fields_set:
            yield f"data.{name}.dev_share", "has no effect beside dev: remove one of them"


def _idle(
    number: int, task: Task, suite: Suite, names: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    if isinstance(task, HeadTask):
        if task.names == "number" and task.classes is not None:
            yield f"task.{number}.classes", 'has no effect with names = "number"'
        if task.real is not None and task.restrict:
            yield f"task.{number}.restrict", "has no effect with real: all classes are in it"
    if isinstance(task, FinetuneTask) and task.image_px is not None:
        yield f"task.{number}.image_px", "is the recipe's model.image_px: set it there"
    several = [n for n in names if n in suite.data and suite.data[n].metric == "map"]
    if several and task.method in ("ridge", "knn", "head"):
        yield (
            f"task.{number}.data",
            f"{task.method} takes one label an image, and {several[0]} is scored by map: "
            "use linear, logreg or finetune",
        )


def _readable(error: ValidationError, path: Path) -> ConfigError:
    """As of recipes; keys of a task are those of its method."""
    lines = [
        _of_task(detail)
        if detail["loc"][0] == "task" and len(detail["loc"]) > 1
        # A key of the file itself, or of a data set.
        else sentence(detail, {}, Suite)
        for detail in details_of(error)
    ]
    return all_at_once(lines, f"suite {path}")


def _of_task(detail: Any) -> str:
    _, number, *rest = detail["loc"]
    key = f"task.{number}"
    if detail["type"] == "union_tag_invalid":
        given = str(detail["ctx"]["tag"])
        return f"{key}.method: no method {given!r}; {nearest(given, _METHODS)}"
    if detail["type"] == "union_tag_not_found":
        return f"{key}.method: is required and was not given; known: {', '.join(sorted(_METHODS))}"
    if not rest:
        return f"{key}: {detail['msg']}"
    method, *rest = rest
    return f"{key}.{sentence({**detail, 'loc': rest}, {}, _METHODS[method])}"


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables in a table or list of tables; nothing where the file holds something else."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    found = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", table) for table in found if isinstance(table, dict)]


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())

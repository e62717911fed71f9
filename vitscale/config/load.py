"""From a TOML recipe, its bases and overrides to a checked `RunConfig`, with the source of every key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_origin

from pydantic import BaseModel, ValidationError

from vitscale.config.model import ModelConfig, Shape
from vitscale.config.run import SCHEMA_VERSION, RunConfig, conflicts
from vitscale.config.source import absolute_paths
from vitscale.errors import ConfigError, closest, nearest

_PATHS = (
    "run.home",
    "data.train",
    "data.held_out",
    "data.cache",
    "init.weights",
    "init.checkpoint",
    "distill.weights",
)


@dataclass(frozen=True)
class Recipe:
    """A checked config; for every key that was set, where (a file or "override"); the files' texts."""

    config: RunConfig
    sources: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The resolved recipe as saved in a run folder: schema version, config, sources."""
        config = self.config.model_dump(mode="json")
        record = {
            "schema": SCHEMA_VERSION,
            "config": config,
            "sources": self.sources,
            "files": self.files,
        }
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: another schema version, or values that no longer validate.
        """
        record = json.loads(text)
        if record.get("schema") != SCHEMA_VERSION:
            raise ConfigError(
                "the saved config has another schema version",
                given=record.get("schema"),
                do=f"This vitscale reads version {SCHEMA_VERSION}.",
            )
        config = _validate(record["config"], record["sources"])
        return cls(config, record["sources"], record["files"])


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read the recipe at `path` over its bases, apply `section.key=value` overrides, check everything.

    Relative data, checkpoint and home paths are taken from the working folder and made absolute.

    Raises:
        ConfigError: a file cannot be read, or any key is unknown, impossible or idle; all are listed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files: dict[str, str] = {}
    for file, table in _layers(Path(path), ()):
        merge(values, table, sources, str(file))
        files[str(file)] = file.read_text(encoding="utf-8")
    for text in overrides:
        merge(values, parse_override(text), sources, "override")
    _make_absolute(values)
    return Recipe(_validate(values, sources), sources, files)


def _layers(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The recipe's tables, bases first."""
    if path.resolve() in seen:
        raise ConfigError(
            "a recipe is its own base", where=str(path), do="Break the circle of `base`."
        )
    table = read_toml(path)
    bases: Any = table.pop("base", [])
    if not isinstance(bases, list):
        raise ConfigError("`base` must be a list of files", where=str(path), given=repr(bases))
    for base in cast("list[str]", bases):
        yield from _layers(path.parent / base, (*seen, path.resolve()))
    yield path, table


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file; a missing one is answered with the nearest name there is."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such recipe", where=str(path), do=_where_else(path)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read as TOML: {error}", where=str(path)) from error


def _where_else(path: Path) -> str:
    """What to write for a recipe that is not at `path`: the nearest name beside it or in configs/."""
    files = [*Path("configs").rglob("*.toml"), *path.parent.glob("*.toml")]
    known = {file.stem: str(file) for file in files}
    close = closest(path.stem, known)
    if close is None:
        return "Give the path of a .toml file, such as configs/debug/tiny.toml."
    return f"Did you mean {known[close]}?"


def named_file(name: str, folder: Path, what: str, others: Iterable[str] = ()) -> Path:
    """The path of a file that is called by its name in `folder`, or by a path.

    Raises:
        ConfigError: there is no such `what` (a word such as "suite"); names the nearest, of `others` too.
    """
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    path = folder / f"{name}.toml"
    if path.exists():
        return path
    known = {*others, *(file.stem for file in folder.glob("*.toml"))}
    hint = nearest(name, known) if known else f"{folder} holds none here"
    raise ConfigError(
        f"there is no {what} '{name}'",
        where=str(folder),
        do=f"{hint[0].upper()}{hint[1:]}{'' if hint.endswith('?') else '.'} A path to a .toml file works too.",
    )


def merge(
    into: dict[str, Any], table: dict[str, Any], sources: dict[str, str], source: str
) -> None:
    """Deep merge; lists and plain values replace."""
    for key, value in _flatten(table):
        *tables, leaf = key.split(".")
        place = into
        for name in tables:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = cast("dict[str, Any]", place[name])
        place[leaf] = value
        sources[key] = source


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield prefix + key, value


def parse_override(text: str) -> dict[str, Any]:
    """`"train.batch=512"` as nested tables; the value is read as TOML, else it is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "an override must be section.key=value", where="command line", given=repr(text)
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = None if value == "null" else value
    table: Any = parsed
    for name in reversed(key.strip().split(".")):
        table = {name: table}
    return table


def _make_absolute(values: dict[str, Any]) -> None:
    for key in _PATHS:
        section, name = key.split(".")
        found: Any = values.get(section)
        table = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        if name in table:
            table[name] = absolute_paths(table[name], _absolute)
    run: Any = values.get("run")
    if isinstance(run, dict) and "home" not in run:
        run["home"] = str(Path("runs").absolute())


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _validate(values: dict[str, Any], sources: dict[str, str]) -> RunConfig:
    try:
        config = RunConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise all_at_once(sentences(error, sources, RunConfig)) from None
    problems = [_located(key, text, sources) for key, text in conflicts(config, sources)]
    try:
        config.model.shape(config.model.classes or 1)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise all_at_once(problems)
    return config


def preset_shape(variant: str, image_px: int) -> Shape:
    """Of a preset with one class, without a recipe.

    Raises:
        ConfigError: there is no such variant, or the image does not suit it.
    """
    try:
        return ModelConfig(variant=variant, image_px=image_px).shape(1)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_own_words(detail) for detail in details_of(error)),
            where="model.variant",
            given=repr(variant),
            do="Write a preset and the patch, such as B/16, L/14 or B/16s12.",
        ) from None


def all_at_once(lines: list[str], what: str = "recipe") -> ConfigError:
    """One error that lists everything that is wrong."""
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return ConfigError(f"the {what} has {count}:\n  " + "\n  ".join(lines) + "\n")


def sentences(error: ValidationError, sources: dict[str, str], root: type[BaseModel]) -> list[str]:
    """Validator messages as sentences with the key, its source and the nearest right name."""
    return [sentence(detail, sources, root) for detail in details_of(error)]


def details_of(error: ValidationError) -> list[Any]:
    """The validator's messages, without lists that are too short only because items of theirs are wrong."""
    found = error.errors(include_url=False)
    places = [detail["loc"] for detail in found]

    def follows(detail: Any) -> bool:
        own = detail["loc"]
        return detail["type"] == "too_short" and any(
            place[: len(own)] == own != place for place in places
        )

    return [detail for detail in found if not follows(detail)]


def sentence(detail: Any, sources: dict[str, str], root: type[BaseModel]) -> str:
    """One message of the validator as a sentence."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return _located(
            key, f"unknown key; {nearest(path[-1], _names_beside(path, root))}", sources
        )
    if detail["type"] == "missing":
        return _located(key, "is required and was not given", sources)
    if detail["type"] == "too_short":
        return _located(key, "is empty, and needs at least one value", sources)
    text = _own_words(detail)
    given = detail["input"]
    shown = "" if isinstance(given, dict) or repr(given) in text else f" (given: {given!r})"
    return _located(key, text + shown, sources)


def _own_words(detail: Any) -> str:
    """The text of a message of the validator, which puts words before those of our own checks."""
    return detail["msg"].removeprefix("Value error, ")


def _located(key: str, text: str, sources: dict[str, str]) -> str:
    parts = key.split(".")  # a key inside a list of tables was set where the list was
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    source = next((sources[prefix] for prefix in prefixes if prefix in sources), None)
    return f"{key}: {text} [{source}]" if source else f"{key}: {text}"


def _names_beside(path: list[str], root: type[BaseModel]) -> list[str]:
    model: Any = root
    names = iter(path[:-1])
    for name in names:
        if name.isdigit():  # a place in a list of tables
            continue
        is_dict = get_origin(model.model_fields[name].annotation) is dict
        model = section_class(model, name)
        if is_dict:
            next(names, None)  # a name that the user gave a table
    return list(model.model_fields)


def section_class(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The Section behind the field `name`, also where it is optional."""
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    raise TypeError(f"{model.__name__}.{name} is no section")

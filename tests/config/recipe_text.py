"""The shortest recipe there is, and a way to write variants of it."""

from __future__ import annotations

MINIMAL = {
    "run.name": "r",
    "data.train": "data",
    "train.duration": "10 epochs",
    "train.batch": 64,
    "train.micro_batch": 8,
}


def write_recipe(path, *, base=(), **changes):
    """Write MINIMAL with `section__key=value` changes (None leaves a key out); returns the path."""
    values = {} if base else dict(MINIMAL)
    for name, value in changes.items():
        values[name.replace("__", ".", 1)] = value
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        if value is not None:
            section, name = key.split(".")
            tables.setdefault(section, []).append(f"{name} = {_toml(value)}")
    text = f"base = {_toml(list(base))}\n" if base else ""
    text += "".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in tables.items())
    path.write_text(text)
    return path


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)

"""`vitscale config show|diff|explain`: recipes as they resolve, compared, and in words."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from vitscale.cli.arguments import add_json, add_recipe, print_json
from vitscale.config.difference import differences, keys_in_force, read_any
from vitscale.config.explain import Key, explain, summary_of
from vitscale.config.load import Recipe, load_recipe
from vitscale.config.redaction import redact_table, redact_text
from vitscale.config.run import conflicts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`show RECIPE`, `diff A B`, `explain [KEY]`."""
    actions = parser.add_subparsers(dest="action", metavar="show|diff|explain", required=True)
    show = actions.add_parser("show", help="the resolved recipe, defaults included")
    add_recipe(show)
    show.add_argument("--sources", action="store_true", help="say where each key was set")
    diff = actions.add_parser("diff", help="keys on which two recipes differ")
    for name in ("left", "right"):
        diff.add_argument(name, metavar=name.upper(), help="a recipe, a saved config.json or a run")
    words = actions.add_parser("explain", help="what a key means, its type, default and bounds")
    words.add_argument("key", metavar="KEY", nargs="?", help="a key or a section; default: all")
    for action in (show, diff, words):
        add_json(action)


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for."""
    return {"show": _show, "diff": _diff, "explain": _explain}[arguments.action](arguments)


def _show(arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.json:
        print_json(redact_table(json.loads(recipe.to_json())))
    else:
        print(redact_text(resolved_text(recipe, with_sources=arguments.sources)))
    return 0


def resolved_text(recipe: Recipe, *, with_sources: bool) -> str:
    """The recipe as TOML with every key; keys that are null or have no effect are comments."""
    lines: list[str] = []
    section = ""
    values = keys_in_force(recipe.config)
    idle = {key for key, _ in conflicts(recipe.config, values)}
    for key, value in values.items():
        table, _, name = key.partition(".")
        if table != section:
            lines += [f"[{table}]"] if not lines else ["", f"[{table}]"]
            section = table
        line = f"{name} = {_toml(value)}"
        if value is None:
            line = f"# {name} is not set"
        elif key in idle:
            line = f"# {line} has no effect here"
        source = recipe.sources.get(key, "default")
        lines.append(f"{line:<48}  # {source}" if with_sources else line)
    return "\n".join(lines)


def _toml(value: object) -> str:
    """A JSON value other than null as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _diff(arguments: argparse.Namespace) -> int:
    found = differences(read_any(arguments.left).config, read_any(arguments.right).config)
    if arguments.json:
        print_json([redact_table(asdict(pair)) for pair in found])
        return 0
    for pair in found:
        print(redact_text(f"{pair.key}: {json.dumps(pair.left)} -> {json.dumps(pair.right)}"))
    if not found:
        print("no difference")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    keys = explain(arguments.key)
    if arguments.json:
        print_json([asdict(key) for key in keys])
    else:
        print("\n".join(_paragraphs(keys)))
    return 0


def _paragraphs(keys: list[Key]) -> list[str]:
    lines: list[str] = []
    section = ""
    for key in keys:
        if key.section != section:
            section = key.section
            lines += ["", f"[{section}]  {summary_of(section)}", ""]
        facts = f"{key.kind}, {key.bounds}" if key.bounds else key.kind
        lines += [f"{key.name}  ({facts}; default {key.default})", f"    {key.help}"]
    return lines[1:]

"""Which images the demo runs on: what was asked for, or what this machine can get."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from vitscale.config.dataset import dataset_facts
from vitscale.demo.commands import CommandFailed, Shell
from vitscale.errors import ConfigError, DataError

DATA = Path("data")
RECIPES = Path("configs/demo")


@dataclass(frozen=True)
class Source:
    """A set the demo packs: where it comes from and what it is called."""

    name: str
    words: tuple[str, ...]
    title: str

    @property
    def train(self) -> str:
        return str(DATA / self.name / "train")

    @property
    def held_out(self) -> str:
        return str(DATA / self.name / "held-out")


ICONS = Source("icons", ("--from", "icons"), "icons of 760 names, whole sets held out")
FASHION = Source("fashion-mnist", ("--from", "fashion-mnist"), "Fashion-MNIST")
DIGITS = Source("digits", ("--from", "digits"), "handwritten digits")
LOW_DIGITS = Source(
    "digits-0-4", ("--from", "digits", "--classes-subset", "0-4"), "handwritten digits 0 to 4"
)
HIGH_DIGITS = Source(
    "digits-5-9", ("--from", "digits", "--classes-subset", "5-9"), "handwritten digits 5 to 9"
)


@dataclass(frozen=True)
class Story:
    """What is pretrained on, with which recipe, and what it is transferred to."""

    pretrain: Source
    recipe: Path
    downstream: tuple[Source, ...]


FULL = Story(ICONS, RECIPES / "pretrain.toml", (DIGITS, FASHION))
SMALL = Story(FASHION, RECIPES / "pretrain_small.toml", (DIGITS,))
OFFLINE = Story(LOW_DIGITS, RECIPES / "pretrain_digits.toml", (HIGH_DIGITS,))


def prepare(wanted: Story, shell: Shell) -> Story:
    """Fetch and pack the sets of the story, or of the next smaller one that can be had.

    A downstream set that cannot be had is left out, as long as another one remains.
    """
    stories = (FULL, SMALL, OFFLINE)
    for story in stories[stories.index(wanted) :]:
        if _pack(story.pretrain, shell):
            downstream = tuple(source for source in story.downstream if _pack(source, shell))
            if downstream:
                return replace(story, downstream=downstream)
        print("  going on with a smaller set", flush=True)
    raise _nothing()


def first_packed(sources: tuple[Source, ...], shell: Shell) -> Source:
    """The first of the sets that can be had, packed.

    Raises:
        DataError: none can.
    """
    for source in sources:
        if _pack(source, shell):
            return source
    raise _nothing()


def insist_on_recipes(recipe: Path) -> None:
    """Raise ConfigError where the working folder has no demo recipes."""
    if not recipe.is_file():
        raise ConfigError(
            "the demo's recipes are not here",
            where=str(recipe),
            do="Run the demo in the top folder of a clone.",
        )


def _nothing() -> DataError:
    return DataError(
        "not even the digits of scikit-learn could be packed",
        where=str(DATA),
        do="The messages above say why.",
    )


def _pack(source: Source, shell: Shell) -> bool:
    """Whether the set is there, after packing it if need be."""
    try:
        facts = dataset_facts(source.train)
        dataset_facts(source.held_out)
        print(f"  {source.title}: packed already, {facts.samples:,} images in {source.train}")
    except DataError:
        try:
            shell.run("shards", "pack", *source.words, "--to", str(DATA / source.name))
        except CommandFailed as error:
            print(f"  {source.title} cannot be had here:", flush=True)
            print(textwrap.indent(error.output, "    "), flush=True)
            return False
    return True

"""Which images the demo runs on: what was asked for, or what this machine can get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitscale.config.dataset import dataset_facts
from vitscale.demo.commands import CommandFailed, Shell
from vitscale.errors import DataError

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
    """Fetch and pack all sets of the story, or of the next smaller one that can be had."""
    for story in (FULL, SMALL, OFFLINE)[(FULL, SMALL, OFFLINE).index(wanted) :]:
        try:
            for source in (story.pretrain, *story.downstream):
                _pack(source, shell)
            return story
        except CommandFailed as error:
            if story is OFFLINE:
                raise
            print(
                f"  {story.pretrain.title} cannot be had here: {error.output.splitlines()[-1]}",
                flush=True,
            )
            print("  going on with a smaller set", flush=True)
    raise AssertionError("the loop returns or raises")


def _pack(source: Source, shell: Shell) -> None:
    try:
        facts = dataset_facts(source.train)
        dataset_facts(source.held_out)
        print(f"  {source.title}: packed already, {facts.samples:,} images in {source.train}")
    except DataError:
        shell.run("shards", "pack", *source.words, "--to", str(DATA / source.name))

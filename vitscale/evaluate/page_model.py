"""The parts of the page that look into the model of the newest commit."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitscale.checkpoint.weights import load_weights
from vitscale.config.run import RunConfig
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.errors import DataError, VitscaleError
from vitscale.evaluate import model_pictures as pictures
from vitscale.evaluate.inference import Prepare
from vitscale.evaluate.subject import preparation, sized
from vitscale.model.vit import ViT

_MISTAKES = 12


@dataclass(frozen=True)
class Subject:
    """The model, what prepares its pixels, and images it was not trained on, or why there are none."""

    model: ViT
    prepare: Prepare
    view: View
    held_out: Corpus | VitscaleError

    @property
    def images(self) -> Corpus:
        """Real images to look at.

        Raises:
            VitscaleError: the run has no held-out set, or it cannot be read any more.
        """
        if isinstance(self.held_out, VitscaleError):
            raise self.held_out
        return self.held_out


def subject_at(run: Path, config: RunConfig | None) -> tuple[Subject | None, str]:
    """The model of the run's newest commit on the CPU; or None and why there is none."""
    try:
        weights = load_weights(run)
    except VitscaleError as error:
        return None, str(error)
    prepare = preparation(weights, torch.device("cpu"), torch.float32)
    model = sized(weights, None).eval()
    if config is None or config.data.held_out is None:
        none = DataError(
            "the run has no set whose images could be shown",
            where="data.held_out",
            do="Name a held-out set in the recipe.",
        )
        return Subject(model, prepare, View(), none), ""
    try:
        held_out = open_corpus([config.data.held_out], config.data)
    except VitscaleError as error:
        held_out = error
    view = View(config.evaluate.crop, config.evaluate.resize_px)
    return Subject(model, prepare, view, held_out), ""


def _filters(subject: Subject) -> str:
    made = pictures.filters(subject.model)
    note = f"The first {len(made)} principal components of the patch embedding."
    return _note(note) + _tiles([(pictures.png_of(one), "") for one in made], "filter")


def _positions(subject: Subject) -> str:
    maps = pictures.positions(subject.model)
    if maps is None:
        return _note("The model has no learned positions.")
    image = pictures.png_of(pictures.coloured(maps, -1.0, 1.0, "viridis"))
    note = (
        "For each patch the cosine of its position with all others, from -1 (dark) to 1 (bright)."
    )
    return _note(note) + f'<img class="map" alt="position similarity" src="{image}">'


def _attention(subject: Subject) -> str:
    found = pictures.attention(subject.model, subject.images, subject.prepare, subject.view)
    tiles = []
    for image, shares in found:
        tiles.append((pictures.png_of(image), ""))
        tiles.append((pictures.png_of(pictures.heat_over(image, shares)), ""))
    note = "Held-out images, and beside each the patches that count, by attention rollout."
    return _note(note) + _tiles(tiles, "photo")


def _mistakes(subject: Subject) -> str:
    found = pictures.mistakes(subject.model, subject.images, subject.prepare, subject.view)
    looked = min(pictures.LOOKED_AT, subject.images.samples)
    note = f"{len(found):,} of {looked:,} held-out images are guessed wrong; the surest of those."
    shown = [
        (
            pictures.png_of(one.image),
            f"{one.truth}, taken for {one.guess} ({100 * one.share:.0f}\u00a0%)",
        )
        for one in found[:_MISTAKES]
    ]
    return _note(note) + _tiles(shown, "photo")


MODEL_SECTIONS = (
    ("filters", "Patch filters", _filters),
    ("positions", "Positions", _positions),
    ("attention", "Attention", _attention),
    ("mistakes", "Mistakes", _mistakes),
)


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _tiles(images: Sequence[tuple[str, str]], kind: str) -> str:
    parts = []
    for source, caption in images:
        text = html.escape(caption)
        below = f"<figcaption>{text}</figcaption>" if caption else ""
        parts.append(f'<figure class="{kind}"><img alt="{text}" src="{source}">{below}</figure>')
    return f'<div class="tiles">{"".join(parts)}</div>'

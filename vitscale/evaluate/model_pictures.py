"""What a model looks like from inside, as arrays of pixels: filters, positions, attention, and what it gets wrong."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscale.data.augment import View
from vitscale.data.corpus import Corpus
from vitscale.data.loader import scan
from vitscale.evaluate.attention import position_similarity, rollout
from vitscale.evaluate.inference import Prepare, answering
from vitscale.model.vit import ViT
from vitscale.place import Place

FILTERS = 28
"""As many as in figure 7 of the paper (arXiv 2010.11929)."""
ATTENTION_IMAGES = 8
LOOKED_AT = 512
"""Held-out images among which the worst guesses are looked for."""


@dataclass(frozen=True)
class Mistake:
    """An image uint8 [H, W, 3], what it is, what the model said, and how sure it was."""

    image: np.ndarray
    truth: str
    guess: str
    share: float


def filters(model: ViT) -> list[np.ndarray]:
    """The first principal components of the patch embedding, each uint8 [p, p, 3], centred on grey."""
    weight = model.patch_embed.projection.weight.detach().float()
    flat = weight.flatten(1)
    flat = flat - flat.mean(dim=0)
    _, _, components = torch.linalg.svd(flat, full_matrices=False)
    planes = components[:FILTERS].unflatten(1, tuple(weight.shape[1:]))
    largest = planes.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    pixels = (planes / largest * 0.5 + 0.5).mul(255).round().to(torch.uint8)
    return [one.permute(1, 2, 0).numpy() for one in pixels]


def positions(model: ViT) -> np.ndarray | None:
    """The similarity maps of all patches laid out as the patches are, float [h h', w w'] in -1..1, with gaps of NaN."""
    if model.positions is None:
        return None
    maps = position_similarity(model.positions.detach(), model.shape.grid).numpy()
    h, w = model.shape.grid
    out = np.full((h * (h + 1) - 1, w * (w + 1) - 1), np.nan)
    for i in range(h):
        for j in range(w):
            out[i * (h + 1) : i * (h + 1) + h, j * (w + 1) : j * (w + 1) + w] = maps[i, j]
    return out


def attention(
    model: ViT, corpus: Corpus, prepare: Prepare, view: View
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [H, W, 3] spread over the set, and what share each patch has in what is pooled, float [h, w]."""
    ids = np.linspace(0, corpus.samples - 1, min(ATTENTION_IMAGES, corpus.samples)).astype(int)
    found = []
    with answering(model):
        for batch in _batches(model, corpus, ids, view):
            maps = rollout(model, prepare(batch.images)).float().cpu().numpy()
            found += list(zip(_pixels(batch.images), maps, strict=True))
    return found


def mistakes(model: ViT, corpus: Corpus, prepare: Prepare, view: View) -> list[Mistake]:
    """The surest wrong guesses among some held-out images, the surest first."""
    ids = np.linspace(0, corpus.samples - 1, min(LOOKED_AT, corpus.samples)).astype(int)
    found: list[Mistake] = []
    with answering(model):
        for batch in _batches(model, corpus, np.unique(ids), view):
            shares = model(prepare(batch.images)).float().softmax(dim=1).cpu()
            rows = batch.labels.reshape(len(batch.labels), -1)
            for image, labels, row in zip(_pixels(batch.images), rows, shares, strict=True):
                guess = int(row.argmax())
                if labels[0] >= 0 and not (labels == guess).any() and guess < len(corpus.classes):
                    truth = ", ".join(corpus.classes[int(k)] for k in labels if k >= 0)
                    found.append(Mistake(image, truth, corpus.classes[guess], float(row[guess])))
    return sorted(found, key=lambda mistake: -mistake.share)


def png_of(pixels: np.ndarray) -> str:
    """Pixels uint8 [H, W, 3] as a data URI."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def coloured(values: np.ndarray, low: float, high: float, cmap: str) -> np.ndarray:
    """Values [H, W] as colours uint8 [H, W, 3 or 4]; NaN is transparent."""
    from matplotlib import colormaps

    scaled = np.ma.masked_invalid((values - low) / (high - low or 1.0))
    colours = colormaps[cmap].with_extremes(bad=(0, 0, 0, 0))
    return (colours(scaled) * 255).astype(np.uint8)


def heat_over(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """An image with the attention of its patches laid over it, uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    rows = np.arange(height) * shares.shape[0] // height
    columns = np.arange(width) * shares.shape[1] // width
    heat = coloured(shares, float(shares.min()), float(shares.max()), "inferno")[..., :3]
    return (0.45 * image + 0.55 * heat[rows][:, columns]).astype(np.uint8)


def _batches(model: ViT, corpus: Corpus, ids: np.ndarray, view: View):
    return scan(corpus, image=model.shape.image, batch=64, place=Place(), ids=ids, view=view)


def _pixels(images: Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).contiguous().numpy().copy())

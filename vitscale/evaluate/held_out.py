"""Accuracy on images that were never trained on. Letters: B images, K classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from vitscale.config.dataset import MASKED
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus
from vitscale.data.loader import scan
from vitscale.errors import DataError
from vitscale.evaluate.inference import Prepare, answering
from vitscale.objective import sigmoid_losses, softmax_losses
from vitscale.place import Place

_SUMS = 5  # images, bad, top-1 hits, top-5 hits, loss


def score(
    model: nn.Module,
    shards: Corpus,
    *,
    image: tuple[int, int],
    batch: int,
    place: Place,
    prepare: Prepare,
    objective: str = "softmax",
    view: View = View(),  # noqa: B008
) -> dict[str, float]:
    """Score every sample of `shards` exactly once over all ranks; all ranks must call it.

    Ranks may hold different numbers of batches, but ZeRO-3 needs every rank to call the model equally often: a rank
    that is done answers one blank image a round, whose result is counted nowhere.

    Args:
        model: [B, 3, H, W] to logits [B, K]; its training mode is restored.
        shards: the held-out set.
        image: height and width the model takes.
        batch: images per forward pass on one rank.
        place: this process; sums are added over ranks where `place.world` is above 1.
        prepare: bytes to what the model takes.
        objective: "softmax" or "sigmoid", the loss to report, without label smoothing.
        view: what is shown of each image.

    Returns:
        `top1` and `top5` as shares (top5 counts min(5, K) guesses), mean `loss`, `images` scored, and `bad` images,
        which could not be decoded and count neither as hit nor as miss. Equal on every rank.

    Raises:
        DataError: there is nothing to score.
    """
    losses = {"softmax": softmax_losses, "sigmoid": sigmoid_losses}[objective]
    sums = torch.zeros(_SUMS, dtype=torch.float64)
    with answering(model):
        for images, labels in _rounds(shards, image, batch, place, view):
            logits = model(prepare(images)).float()
            sums = sums.to(logits.device)  # also where a rank has blank rounds alone
            if labels is not None:
                sums += _count(logits, labels.to(logits.device), losses)
    if place.world > 1:
        torch.distributed.all_reduce(sums)
    return _result(sums.tolist())


def _rounds(
    shards: Corpus, image: tuple[int, int], batch: int, place: Place, view: View
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The same number of (images, labels) on every rank; labels are None for a blank round."""
    largest_share = -(-shards.samples // place.world)
    rounds = -(-largest_share // batch)
    done = 0
    for micro_batch in scan(shards, image=image, batch=batch, place=place, view=view):
        yield micro_batch.images, micro_batch.labels
        done += 1
    assert done <= rounds, f"{place} scanned {done} batches where {rounds} are its largest share"
    blank = torch.zeros(1, 3, *image, dtype=torch.uint8)
    for _ in range(rounds - done):
        yield blank, None


def _count(
    logits: Tensor, labels: Tensor, losses: Callable[[Tensor, Tensor, float], Tensor]
) -> Tensor:
    """The five sums of one batch as float64, which holds counts exactly up to 2**53.

    A guess is a hit if it is one of the image's labels; guesses are classes, so a mask (-1) is never one.
    """
    known = labels.reshape(len(labels), 1, -1)
    valid = (known != MASKED).any(2)[:, 0]
    guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = (guesses[:, :, None] == known).any(2)
    return torch.stack(
        [
            valid.sum().double(),
            (~valid).sum().double(),
            hits[:, 0].sum().double(),
            hits.any(1).sum().double(),
            losses(logits, labels, 0.0).double().sum(),
        ]
    )


def _result(sums: list[float]) -> dict[str, float]:
    images, bad, top1, top5, loss = sums
    if images == 0:
        raise DataError(
            "no image could be scored",
            where="held-out set",
            given=f"{bad:.0f} undecodable images",
            do="Check the folder with `vitscale shards verify`.",
        )
    return {
        "top1": top1 / images,
        "top5": top5 / images,
        "loss": loss / images,
        "images": int(images),
        "bad": int(bad),
    }

"""The model's own classifier on other test sets of its classes: whose labels may be fewer, renamed or several.

ImageNet-A and R have 200 of the 1000 classes and choose among those; V2's folders are called by the number of the
class; Sketch has all; ReaL (arXiv 2006.07159) has every right label of an image, and leaves images without any out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitscale.config.suite import HeadTask
from vitscale.data.corpus import Corpus
from vitscale.data.lists import read_list
from vitscale.errors import DataError, nearest

_NUMBER_AT_END = re.compile(r"(\d+)$")
_SHOWN = 5


@dataclass(frozen=True)
class HeadAnswers:
    """Which images count, rows int64 [n]; and whether the guess for each of them was right, bool [n]."""

    rows: np.ndarray
    right: np.ndarray


def outputs_of(task: HeadTask, classes: Sequence[str], outputs: int) -> np.ndarray:
    """The output of the head that each class of a test set belongs to, int64 [C].

    Raises:
        DataError: a class has no output, or two have the same.
    """
    if task.names == "number":
        wrong = [name for name in classes if not name.isdigit() or int(name) >= outputs]
        found = [] if wrong else [int(name) for name in classes]
        hint = f"A class is called by a number from 0 to {outputs - 1}."
    elif task.classes is not None:
        known = {name: output for output, name in enumerate(read_list(Path(task.classes)))}
        wrong = [name for name in classes if known.get(name, outputs) >= outputs]
        found = [] if wrong else [known[name] for name in classes]
        hint = nearest(wrong[0], known).capitalize() if wrong else ""
    else:
        wrong, found = list(classes[outputs:]), list(range(min(len(classes), outputs)))
        hint = f"The head has {outputs} outputs: name them with `classes`."
    if wrong:
        shown = ", ".join(map(repr, wrong[:_SHOWN]))
        what = f"{len(wrong)} classes of the set have no output in the head: {shown}"
        raise DataError(what, where=task.classes or "head", do=hint)
    if len(set(found)) < len(found):
        raise DataError(
            "two classes of the set have one output",
            where=task.classes or "head",
            do="Give every class a name or number of its own.",
        )
    return np.array(found, np.int64)


def answers_of(
    task: HeadTask, logits: Tensor, labels: np.ndarray, outputs: np.ndarray
) -> HeadAnswers:
    """Guesses [N, K] against one label each, int64 [N], of classes that belong to `outputs`."""
    if task.restrict:
        guesses = logits[:, torch.from_numpy(outputs)].argmax(dim=1).numpy()
        right = guesses == labels
    else:
        right = logits.argmax(dim=1).numpy() == outputs[labels]
    return HeadAnswers(np.arange(len(labels)), right)


def answers_by_real(logits: Tensor, right_labels: Sequence[Sequence[int]]) -> HeadAnswers:
    """Guesses [N, K] against all right labels of each image; one without any counts nowhere."""
    rows = np.array([row for row, labels in enumerate(right_labels) if labels], np.int64)
    guesses = logits.argmax(dim=1).tolist()
    right = np.array([guesses[row] in right_labels[row] for row in rows.tolist()], bool)
    return HeadAnswers(rows, right)


def real_labels(path: Path, corpus: Corpus, ids: np.ndarray) -> list[list[int]]:
    """Of the samples `ids`, whose keys end in the number of the image, as `ILSVRC2012_val_00000293` does.

    Raises:
        DataError: the file is no list of lists of numbers, or a key has no number in it.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        table = [[int(label) for label in row] for row in table]
    except (OSError, ValueError, TypeError) as error:
        what = f"cannot be read as lists of labels: {error}"
        do = "Give real.json of github.com/google-research/reassessed-imagenet."
        raise DataError(what, where=str(path), do=do) from error
    found = []
    for sample in ids.tolist():
        key = corpus.whereabouts(sample)[1]
        number = _NUMBER_AT_END.search(key)
        if number is None or not 1 <= int(number[1]) <= len(table):
            raise DataError(
                f"no number of an image, 1 to {len(table):,}, is at the end of a key",
                where=corpus.where,
                given=repr(key),
                do="Pack the images under their own names, ILSVRC2012_val_00000001 and so on.",
            )
        found.append(table[int(number[1]) - 1])
    return found

"""The teacher of a distillation, from the weights a recipe names."""

from __future__ import annotations

import torch

from vitscale.checkpoint.weights import Weights
from vitscale.config.model import Shape
from vitscale.config.train import DistillConfig
from vitscale.errors import ConfigError
from vitscale.model.build import build_model
from vitscale.objective import Distillation
from vitscale.ops.choice import Ops


def distillation_by(
    weights: Weights,
    config: DistillConfig,
    student: Shape,
    ops: Ops,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Distillation:
    """A teacher of these weights, whole on every rank: in evaluation mode, without gradients, in nobody's checkpoint.

    Raises:
        ConfigError: it has no head, or another image size or number of classes than the student.
    """
    _insist_on_fit(weights, student)
    teacher = build_model(weights.shape, ops)
    teacher.load_state_dict(weights.tensors)
    teacher.to(device, dtype).eval().requires_grad_(False)
    return Distillation(teacher, config.kind, config.temperature, config.share)


def _insist_on_fit(weights: Weights, student: Shape) -> None:
    teacher = weights.shape
    if weights.headless:
        raise ConfigError(
            "the teacher has no head, so it has no answers to learn from",
            where="distill.weights",
            given=weights.path,
            do="Fine-tune it on these classes first.",
        )
    if teacher.classes != student.classes:
        raise ConfigError(
            f"the teacher knows {teacher.classes} classes, the data have {student.classes}",
            where="distill.weights",
            given=weights.path,
            do="Take a teacher of these classes in this order, or fine-tune one on them first.",
        )
    if teacher.image != student.image:
        height, width = teacher.image
        raise ConfigError(
            f"the teacher takes images of {height} x {width} px, the student of"
            f" {student.image[0]} x {student.image[1]}: both see the same views",
            where="distill.weights",
            given=weights.path,
            do=f"Set model.image_px = {height if height == width else [height, width]}, or fine-tune the teacher at"
            " the student's size first.",
        )

"""A student and its teacher in the engines."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.engine.scenarios import images_of, new_model, teacher_model
from tests.engine.test_engines import LOCAL, mean_of_ranks, zero
from tests.ranks import run_ranks
from vitscale.config.optim import OptimConfig
from vitscale.data.device import normalise
from vitscale.engine.build import SeededEngine
from vitscale.engine.local import LocalEngine
from vitscale.model.vit import ViT
from vitscale.objective import Distillation, make_objective
from vitscale.place import Place

TAUGHT = {"taught": 0.7, "masked": 3, "mixup": 0.8, "dropout": 0.1}
CASES = [
    {**LOCAL, **TAUGHT, "micro": 8},
    *(zero(stage, **TAUGHT, micro=8) for stage in (1, 3)),
    {**LOCAL, "taught": 1.0, "precision": "bf16"},
    zero(3, taught=1.0, precision="bf16"),
    {**LOCAL, "taught": 0.6, "masked": 10},
]


@pytest.fixture(scope="module")
def two():
    return run_ranks(2, "tests.engine.scenarios:losses", CASES, 2)


@pytest.mark.dist
@pytest.mark.parametrize("case", [1, 2, 4], ids=lambda c: str(CASES[c]))
def test_every_engine_distills_alike(two, case):
    bf16 = "precision" in CASES[case]
    reference = mean_of_ranks(two, 3 if bf16 else 0)
    for own, wanted in zip(mean_of_ranks(two, case), reference, strict=True):
        assert own[0] == pytest.approx(wanted[0], rel=1e-2 if bf16 else 2e-5)
        assert own[1] == pytest.approx(wanted[1], rel=4e-2 if bf16 else 2e-5)


@pytest.mark.dist
def test_masked_images_count_neither_for_the_labels_nor_for_the_teacher(two):
    """Of 16 images 10 are masked: all 8 of the first rank. Against the 6 that count, alone."""
    images, labels = images_of(0, masked=10)
    views = normalise(images[10:], "cpu", torch.float32)
    with torch.no_grad():
        logits, taught = new_model()(views), teacher_model()(views)
    by_labels = F.cross_entropy(logits, labels[10:])
    by_teacher = F.kl_div(
        logits.log_softmax(1), taught.log_softmax(1), log_target=True, reduction="batchmean"
    )
    truth = 0.4 * float(by_labels) + 0.6 * float(by_teacher)
    assert mean_of_ranks(two, 5)[0][0] == pytest.approx(truth, rel=1e-5)


@pytest.fixture
def one_thread():
    """A small model on several threads mostly waits for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_with(teacher: ViT, **how) -> SeededEngine:
    engine = LocalEngine(
        new_model(),
        make_objective("softmax", 0.0, Distillation(teacher, **how)),
        OptimConfig(lr=2e-3),
        device=torch.device("cpu"),
        dtype=torch.float32,
        accumulation=1,
        world=1,
    )
    return SeededEngine(engine, 3, Place())


def take_step(engine: SeededEngine, step: int) -> float:
    images, labels = images_of(step)
    engine.begin(step, [labels])
    engine.accumulate(images, labels, last=True)
    return float(engine.step(2e-3))


@pytest.mark.usefixtures("one_thread")
def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    teacher = new_model().eval().requires_grad_(False)
    assert take_step(engine_with(teacher, temperature=2.0), 0) < 1e-6
    assert take_step(engine_with(teacher, share=0.5), 0) > 1e-2  # but for the labels


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("kind", "closer"), [("soft", 0.7), ("hard", 0.9)])
def test_a_student_moves_towards_its_teacher_which_stays_as_it_is(kind, closer):
    teacher = teacher_model()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    views = normalise(images_of(99)[0], "cpu", torch.float32)
    wanted = teacher(views)
    engine = engine_with(teacher, kind=kind)
    distances, agreed = [], []
    for start in (0, 40):
        engine.model.eval()
        with torch.no_grad():
            logits = engine.model(views)
        log_shares = logits.log_softmax(1), wanted.log_softmax(1)
        distances.append(float(F.kl_div(*log_shares, log_target=True, reduction="batchmean")))
        agreed.append(float((logits.argmax(1) == wanted.argmax(1)).float().mean()))
        for step in range(start, start + 40):
            take_step(engine, step)
    assert distances[1] < closer * distances[0]
    assert agreed[1] > agreed[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not teacher.training
    assert engine.masters.keys() == dict(new_model().named_parameters()).keys()

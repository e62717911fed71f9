"""Losses against torch's dense forms; masked slots count for nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Categorical, kl_divergence

from vitscale.objective import Distillation, make_objective

LOGITS = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 8, 8, 1, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_is_cross_entropy(smoothing):
    found = make_objective("softmax", smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sigmoid_is_binary_cross_entropy_summed_over_classes(smoothing):
    targets = F.one_hot(LABELS, 9).float() * (1 - smoothing) + smoothing / 9
    wanted = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none").sum(1).mean()
    torch.testing.assert_close(make_objective("sigmoid", smoothing)(LOGITS, LABELS), wanted)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_masked_slot_adds_nothing_and_the_divisor_stays(name):
    objective = make_objective(name, 0.1)
    masked = LABELS.clone()
    masked[[1, 4]] = -1
    kept = [0, 2, 3, 5]
    logits = LOGITS.clone().requires_grad_()
    loss = objective(logits, masked)
    torch.testing.assert_close(loss, objective(LOGITS[kept], LABELS[kept]) * 4 / 6)
    loss.backward()
    assert torch.count_nonzero(logits.grad[[1, 4]]) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sigmoid_takes_several_labels_an_image(smoothing):
    labels = torch.tensor(
        [[0, 3, -1], [8, -1, -1], [-1, -1, -1], [1, 2, 3], [5, 7, -1], [4, -1, -1]]
    )
    hot = torch.zeros(6, 10).scatter_(1, labels.masked_fill(labels < 0, 9), 1.0)[:, :9]
    targets = hot * (1 - smoothing) + smoothing / 9 * hot.sum(1, keepdim=True)
    losses = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none").sum(1)
    losses[2] = 0  # without a label it is masked, not a negative of all classes
    found = make_objective("sigmoid", smoothing)(LOGITS, labels)
    torch.testing.assert_close(found, losses.sum() / 6)


def test_softmax_refuses_several_labels():
    with pytest.raises(ValueError, match="one label an image"):
        make_objective("softmax", 0.0)(LOGITS, LABELS[:, None].repeat(1, 2))


def test_bf16_logits_are_judged_in_float32():
    assert make_objective("softmax", 0.0)(LOGITS.bfloat16(), LABELS).dtype == torch.float32


PAIRS = torch.tensor([[0, 3], [3, 3], [8, -1], [-1, -1], [1, 0], [2, 5]])
WEIGHTS = torch.tensor([[0.7, 0.3], [0.6, 0.4], [1.0, 0.0], [0.0, 0.0], [0.2, 0.8], [0.5, 0.5]])


def dense_targets():
    dense = torch.zeros(6, 10).scatter_add(1, PAIRS.masked_fill(PAIRS < 0, 9), WEIGHTS)
    return dense[:, :9]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_softmax_is_cross_entropy_against_the_dense_mixture(smoothing):
    """timm's form: smoothed one-hot targets, mixed, against the log of the softmax."""
    targets = dense_targets() * (1 - smoothing) + smoothing / 9
    losses = -(targets * F.log_softmax(LOGITS, 1)).sum(1)
    losses[3] = 0  # masked
    found = make_objective("softmax", smoothing)(LOGITS, PAIRS, WEIGHTS)
    torch.testing.assert_close(found, losses.sum() / 6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_sigmoid_is_binary_cross_entropy_against_the_dense_mixture(smoothing):
    targets = dense_targets() * (1 - smoothing) + smoothing / 9
    losses = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none").sum(1)
    losses[3] = 0
    found = make_objective("sigmoid", smoothing)(LOGITS, PAIRS, WEIGHTS)
    torch.testing.assert_close(found, losses.sum() / 6)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_weight_one_on_the_own_label_is_the_loss_without_weights(name):
    objective = make_objective(name, 0.1)
    labels = torch.stack([LABELS, LABELS.flip(0)], 1)
    weights = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    torch.testing.assert_close(objective(LOGITS, labels, weights), objective(LOGITS, LABELS))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_mixture_is_the_mean_of_its_losses_by_weight(name):
    objective = make_objective(name, 0.1)
    labels = torch.stack([LABELS, LABELS.flip(0)], 1)
    weights = torch.tensor([[0.3, 0.7]]).repeat(6, 1)
    wanted = 0.3 * objective(LOGITS, LABELS) + 0.7 * objective(LOGITS, LABELS.flip(0))
    torch.testing.assert_close(objective(LOGITS, labels, weights), wanted)


TAUGHT = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
VIEWS = torch.zeros(6, 3, 2, 2)


def distilled(name, **how):
    """The objective with a teacher that says `TAUGHT` of `VIEWS`."""

    def teacher(views):
        assert views is VIEWS
        assert not torch.is_grad_enabled()
        return TAUGHT

    return make_objective(name, 0.1, Distillation(teacher, **how))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_distillation_is_the_divergence_of_torch_times_the_squared_temperature(temperature):
    """torch.distributions knows the Kullback-Leibler divergence of categorical and Bernoulli variables by itself."""
    ours, theirs = LOGITS / temperature, TAUGHT / temperature
    divergence = kl_divergence(Categorical(logits=theirs), Categorical(logits=ours))
    found = distilled("softmax", temperature=temperature)(LOGITS, LABELS, None, VIEWS)
    torch.testing.assert_close(found, temperature**2 * divergence.mean())
    divergence = kl_divergence(Bernoulli(logits=theirs), Bernoulli(logits=ours)).sum(1)
    found = distilled("sigmoid", temperature=temperature)(LOGITS, LABELS, None, VIEWS)
    torch.testing.assert_close(found, temperature**2 * divergence.mean())


def test_hard_distillation_takes_the_teachers_decision_for_the_label():
    found = distilled("softmax", kind="hard")(LOGITS, LABELS, None, VIEWS)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TAUGHT.argmax(1)))
    targets = (TAUGHT.sigmoid() > 0.5).float()
    wanted = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none").sum(1).mean()
    found = distilled("sigmoid", kind="hard")(LOGITS, LABELS, None, VIEWS)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_share_goes_from_the_labels_to_the_teacher(name, kind):
    alone = make_objective(name, 0.1)(LOGITS, PAIRS, WEIGHTS)
    none = distilled(name, kind=kind, share=0.0)(LOGITS, PAIRS, WEIGHTS, VIEWS)
    whole = distilled(name, kind=kind, share=1.0)(LOGITS, PAIRS, WEIGHTS, VIEWS)
    part = distilled(name, kind=kind, share=0.3)(LOGITS, PAIRS, WEIGHTS, VIEWS)
    assert none == alone
    torch.testing.assert_close(part, 0.7 * alone + 0.3 * whole)
    moved = torch.full_like(PAIRS, 8)
    moved[3] = -1  # other labels are the same to a teacher alone
    torch.testing.assert_close(
        distilled(name, kind=kind)(LOGITS, moved, WEIGHTS, VIEWS), whole, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_masked_slot_learns_nothing_from_the_teacher(name, kind):
    labels = LABELS.clone()
    labels[[1, 4]] = -1
    logits = LOGITS.clone().requires_grad_()
    distilled(name, kind=kind, share=0.7)(logits, labels, None, VIEWS).backward()
    assert torch.count_nonzero(logits.grad[[1, 4]]) == 0
    assert torch.count_nonzero(logits.grad[[0, 2, 3, 5]]) == 36


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_gradient_is_zero_where_student_and_teacher_agree(name):
    logits = TAUGHT.clone().requires_grad_()
    loss = distilled(name, temperature=2.0)(logits, LABELS, None, VIEWS)
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() < 1e-6


def test_logits_far_apart_stay_finite():
    logits = (1e4 * LOGITS).requires_grad_()
    for name in ("softmax", "sigmoid"):
        loss = distilled(name)(logits, LABELS, None, VIEWS)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()

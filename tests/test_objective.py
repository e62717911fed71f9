"""Losses against torch's dense forms; masked slots count for nothing."""

import pytest
import torch
import torch.nn.functional as F

from vitscale.objective import make_objective

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

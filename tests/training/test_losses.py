"""Every loss against its definition, and the one promise they share: ignored is ignored."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labelscape.legend import IGNORE
from labelscape.training.losses import LOSSES, dice, focal, hardest, lovasz, ohem, total_loss, tversky


@pytest.fixture
def case():
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 4, 6, 7, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 6, 7))  # class 3 is absent
    labels[0, 2:4] = IGNORE
    return logits, labels


def pixels(logits, labels):
    """The labelled pixels as plain rows."""
    rows = [
        (logits[n, :, r, c], int(labels[n, r, c]))
        for n in range(2)
        for r in range(6)
        for c in range(7)
        if labels[n, r, c] != IGNORE
    ]
    return torch.stack([row for row, _ in rows]), torch.tensor([k for _, k in rows])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_pixels_change_no_loss_and_no_gradient(name, weighted, case):
    logits, labels = case
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None
    other = logits.clone()
    other[0, :, 2:4] = 100 * torch.randn(4, 2, 7, dtype=torch.float64)
    found = []
    for value in (logits, other):
        leaf = value.clone().requires_grad_()
        loss = LOSSES[name](leaf, labels, weights)
        found.append((loss, torch.autograd.grad(loss, leaf)[0]))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
    assert (found[1][1][0, :, 2:4] == 0).all()
    assert float(found[0][1].abs().sum()) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_gives_zero(name, case):
    logits = case[0].clone().requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(case[1], IGNORE), torch.ones(4))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_ohem_keeps_what_its_rule_says(case):
    logits, labels = case
    rows, truth = pixels(logits, labels)
    each = F.cross_entropy(rows, truth, reduction="none")
    own = rows.softmax(dim=1)[range(len(truth)), truth]
    for threshold, keep in ((0.7, 10), (0.05, 20), (0.2, 0.5)):
        least = keep if keep >= 1 else int(keep * len(truth))
        limit = max(threshold, float(own.sort().values[least - 1]))
        torch.testing.assert_close(
            ohem(logits, labels, threshold=threshold, keep=keep), each[own <= limit].mean()
        )
    torch.testing.assert_close(ohem(logits, labels), each.mean())  # fewer than 100,000: all


def test_hardest_is_equation_7(case):
    rows, truth = pixels(*case)
    each = F.cross_entropy(rows, truth, reduction="none").sort(descending=True).values
    torch.testing.assert_close(hardest(*case), each[: int(0.75 * len(each))].mean())


def test_focal_is_its_formula(case):
    rows, truth = pixels(*case)
    own = rows.softmax(dim=1)[range(len(truth)), truth]
    torch.testing.assert_close(focal(*case), (-((1 - own) ** 2) * own.log()).mean())


def test_dice_is_its_formula_over_the_classes_present(case):
    rows, truth = pixels(*case)
    p = rows.softmax(dim=1)
    terms = [1 - 2 * p[truth == k, k].sum() / (p[:, k].sum() + (truth == k).sum()) for k in range(3)]
    torch.testing.assert_close(dice(*case), torch.stack(terms).mean())


def test_tversky_is_its_formula_jaccard_and_dice_are_two_of_it(case):
    rows, truth = pixels(*case)
    p = rows.softmax(dim=1)
    terms, unions = [], []
    for k in range(3):
        hit = sum(p[n, k] for n in range(len(truth)) if truth[n] == k)
        false = sum(p[n, k] for n in range(len(truth)) if truth[n] != k)
        missed = sum(1 - p[n, k] for n in range(len(truth)) if truth[n] == k)
        terms.append(1 - hit / (hit + 0.3 * false + 0.7 * missed))
        unions.append(1 - hit / (hit + false + missed))
    torch.testing.assert_close(tversky(*case), torch.stack(terms).mean())
    torch.testing.assert_close(LOSSES["jaccard"](*case), torch.stack(unions).mean())
    torch.testing.assert_close(tversky(*case, alpha=0.5, beta=0.5), dice(*case))


def test_lovasz_of_hard_predictions_is_one_minus_iou(case):
    labels = case[1]
    generator = torch.Generator().manual_seed(1)
    right = torch.rand(labels.shape, generator=generator) < 0.7
    guess = torch.where(
        right & (labels != IGNORE), labels, torch.randint(0, 4, labels.shape, generator=generator)
    )
    logits = 1e4 * F.one_hot(guess, 4).movedim(-1, 1).double()
    seen = labels != IGNORE
    expected = []
    for k in range(3):
        both = ((guess == k) & (labels == k) & seen).sum()
        either = (((guess == k) | (labels == k)) & seen).sum()
        expected.append(1 - both / either)
    np.testing.assert_allclose(float(lovasz(logits, labels)), float(torch.stack(expected).mean()), atol=1e-9)


def test_losses_add_up_by_their_factors(case):
    logits, labels = case[0].float(), case[1]
    torch.testing.assert_close(
        total_loss({"cross-entropy": 0.5, "dice": 2.0}, logits, labels, None),
        0.5 * LOSSES["cross-entropy"](logits, labels, None) + 2 * dice(logits, labels),
    )

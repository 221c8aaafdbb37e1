"""Every loss against an independent computation: a wrong one trains too, only worse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill.losses.batches import RankingBatch, StateBatch, VectorBatch
from distill.losses.embedding import embedding_loss
from distill.losses.hard import hard_loss
from distill.losses.hidden import hidden_loss
from distill.losses.listwise import listwise_kl
from distill.losses.margin import margin_mse
from distill.losses.relational import relational_loss


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def rankings(student: torch.Tensor, teacher: torch.Tensor, relevant: torch.Tensor | None = None) -> RankingBatch:
    """Scores of queries none of whose candidates is excluded."""
    none = torch.zeros(student.shape, dtype=torch.bool)
    return RankingBatch(student, teacher, none if relevant is None else relevant, none)


def test_the_listwise_loss_vanishes_where_rankings_agree() -> None:
    """Scores far apart underflow to probability zero: 0 · log 0 must not become NaN."""
    scores = torch.tensor([[0.0, 500.0, -500.0], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = listwise_kl(rankings(scores, scores.detach() + 7), 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_the_listwise_loss_and_its_gradient_are_hintons(temperature: float) -> None:
    """KL the other way round, or without T², trains too, only worse; T² · dKL/ds is T · (q − p) / queries."""
    rng = np.random.default_rng(0)
    teacher_scores, student_scores = rng.normal(size=(2, 5, 7))

    def softmax(scores: np.ndarray) -> np.ndarray:
        exponent = np.exp(scores / temperature)
        return exponent / exponent.sum(1, keepdims=True)

    p, q = softmax(teacher_scores), softmax(student_scores)
    student_tensor = torch.tensor(student_scores, requires_grad=True)
    loss = listwise_kl(rankings(student_tensor, torch.tensor(teacher_scores)), temperature)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(1).mean())
    assert student_tensor.grad is not None
    np.testing.assert_allclose(student_tensor.grad.numpy(), temperature * (q - p) / 5, atol=1e-12)


def test_the_embedding_loss_is_one_minus_cosine_and_half_the_squared_distance() -> None:
    """Equal vectors must cost nothing, or the loss never settles."""
    ours, theirs = unit(6, 8, 0), unit(6, 8, 1)
    assert float(embedding_loss(VectorBatch(ours, ours))) == pytest.approx(0, abs=1e-12)
    assert float(embedding_loss(VectorBatch(ours, -ours))) == pytest.approx(2, abs=1e-12)
    half = (ours - theirs).numpy() ** 2
    assert float(embedding_loss(VectorBatch(ours, theirs))) == pytest.approx(half.sum(1).mean() / 2)


def test_the_relational_loss_compares_every_pair_and_no_text_with_itself() -> None:
    """Diagonals are always 1: counted, they would water the loss down in small batches."""
    ours, theirs = unit(5, 8, 0), unit(5, 3, 1)
    a, b = ours.numpy(), theirs.numpy()
    pairs = [(a[i] @ a[j] - b[i] @ b[j]) ** 2 for i in range(5) for j in range(5) if i != j]
    assert float(relational_loss(VectorBatch(ours, theirs))) == pytest.approx(np.mean(pairs))
    assert float(relational_loss(VectorBatch(ours[:1], theirs[:1]))) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10_000))
def test_the_relational_loss_does_not_see_a_rotation(seed: int) -> None:
    """What it is for: a student's own coordinates are its own business."""
    vectors = unit(6, 4, seed)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    assert float(relational_loss(VectorBatch(vectors @ rotation, vectors))) == pytest.approx(0, abs=1e-12)


def test_the_hidden_loss_reads_tokens_and_no_padding() -> None:
    """States of padding are whatever they are: matching them would train on noise."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    ours, theirs = torch.randn(2, 2, 3, 4).unbind(0)
    expected = ((ours - theirs)[mask].numpy() ** 2).mean()
    assert float(hidden_loss(StateBatch([ours], [theirs], mask))) == pytest.approx(expected, rel=1e-5)
    other = theirs.clone()
    other[~mask] = 1e6
    assert float(hidden_loss(StateBatch([ours, ours], [theirs, other], mask))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_margin_loss_is_the_mean_over_all_pairs(seed: int) -> None:
    """The closed form without pairs is easily wrong in its cross term."""
    rng = np.random.default_rng(seed)
    ours, theirs = rng.normal(size=(2, 4, 6))
    relevant, excluded = rng.random((4, 6)) < 0.4, rng.random((4, 6)) < 0.2
    relevant[0] = True  # a query that took everything has no pair
    losses = []
    for row in range(4):
        taken = [c for c in range(6) if relevant[row, c] and not excluded[row, c]]
        left = [c for c in range(6) if not relevant[row, c] and not excluded[row, c]]
        pairs = [((ours[row, t] - ours[row, n]) - (theirs[row, t] - theirs[row, n])) ** 2 for t in taken for n in left]
        losses.append(np.mean(pairs) if pairs else 0.0)
    tensors = (torch.tensor(value) for value in (ours, theirs, relevant, excluded))
    assert float(margin_mse(RankingBatch(*tensors))) == pytest.approx(np.mean(losses))


def test_the_margin_loss_does_not_see_what_is_added_to_all_scores() -> None:
    """Scores of two recommenders have no common zero."""
    scores, relevant = torch.randn(3, 5), torch.tensor([[True, False, False, False, True]] * 3)
    loss = margin_mse(rankings(scores + 3, scores, relevant))
    assert float(loss) == pytest.approx(0, abs=1e-5)


def test_the_hard_loss_is_the_cross_entropy_of_what_was_taken() -> None:
    """An excluded candidate in the denominator would train against what the user had before."""
    scores = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    relevant = torch.tensor([[True, False, True, False]])
    excluded = torch.tensor([[False, False, False, True]])
    log_p = np.log(np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum())
    batch = RankingBatch(scores, torch.zeros(1, 4), relevant, excluded)
    assert float(hard_loss(batch)) == pytest.approx(-(log_p[0] + log_p[2]) / 2)

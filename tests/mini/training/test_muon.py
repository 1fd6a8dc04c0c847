"""Muon: its matrices come out orthogonal, and its updates are those of PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from x2i_platform.mini.training.muon import Muon, orthogonal

SHAPES = [(48, 16), (16, 48), (32, 32), (128, 128)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def matrices(count: int, shape: tuple[int, int], *, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@each_shape
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_become_about_one(shape: tuple[int, int], scale: float) -> None:
    found = torch.linalg.svdvals(orthogonal(scale * matrices(8, shape)))
    assert found.max() < 1.25
    assert found.median() > 0.65
    if shape[0] != shape[1]:  # a random square matrix has a singular value near 0, for which five steps are few
        assert found.min() > 0.65


@each_shape
def test_the_nearest_orthogonal_matrix_is_meant(shape: tuple[int, int]) -> None:
    given = matrices(4, shape)
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    assert cosine(orthogonal(given), left @ right) > 0.97


@each_shape
def test_matrices_side_by_side_come_out_as_alone(shape: tuple[int, int]) -> None:
    given = matrices(5, shape)
    alone = torch.cat([orthogonal(one[None]) for one in given])
    torch.testing.assert_close(orthogonal(given), alone, rtol=1e-4, atol=1e-5)


def test_no_gradient_at_all_moves_nothing() -> None:
    assert orthogonal(torch.zeros(1, 16, 16)).eq(0).all()


@each_shape
def test_updates_are_those_of_pytorch(shape: tuple[int, int]) -> None:
    """Which rounds to bfloat16 on the way: 8 bits."""
    start = matrices(1, shape)[0]
    mine, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [
        Muon([mine], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(6):
        before = mine.detach().clone(), theirs.detach().clone()
        mine.grad = theirs.grad = matrices(1, shape, seed=1 + step)[0] + start
        for optimizer in optimizers:
            optimizer.step()
        own, other = mine.detach() - before[0], theirs.detach() - before[1]
        assert cosine(own, other) > 0.99
        assert float(own.norm() / other.norm()) == pytest.approx(1, abs=0.02)


def test_weights_decay_apart_from_the_gradient() -> None:
    still, decaying = (nn.Parameter(torch.ones(16, 16)) for _ in range(2))
    for parameter, weight_decay in ((still, 0.0), (decaying, 0.5)):
        parameter.grad = torch.zeros(16, 16)
        Muon([parameter], lr=0.1, weight_decay=weight_decay).step()
    assert still.eq(1).all()
    torch.testing.assert_close(decaying.detach(), torch.full((16, 16), 0.95))


def test_parameters_of_all_shapes_are_updated_and_those_without_a_gradient_are_not() -> None:
    parameters = [nn.Parameter(matrices(1, shape)[0]) for shape in [*SHAPES, SHAPES[0]]]
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn_like(parameter)
    Muon(parameters, lr=0.1, weight_decay=0.1).step()
    assert [bool((p != b).any()) for p, b in zip(parameters, before, strict=True)] == [True] * 4 + [False]
    for parameter, earlier in zip(parameters[:-1], before, strict=False):
        moved = parameter.detach() - 0.99 * earlier
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.2), "as large as AdamW's"

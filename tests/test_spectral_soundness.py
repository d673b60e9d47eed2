"""The bounds against exact rational arithmetic: 1,000 random and adversarial weights, no tolerance anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from pnp_lip.spectral import norm_bound

Maker = Callable[[torch.Generator, int, int], Tensor]


def positive_definite(matrix: list[list[Fraction]]) -> bool:
    """Whether a symmetric rational matrix is positive definite: all pivots of LDLᵀ are positive, computed exactly."""
    a = [row[:] for row in matrix]
    for k in range(len(a)):
        if a[k][k] <= 0:
            return False
        for i in range(k + 1, len(a)):
            factor = a[i][k] / a[k][k]
            for j in range(k + 1, i + 1):
                a[i][j] -= factor * a[j][k]
                a[j][i] = a[i][j]
    return True


def norm_is_below(w: list[list[Fraction]], bound: float) -> bool:
    """Whether ‖W‖₂ < bound, decided exactly: bound² I − WᵀW is positive definite."""
    square, columns = Fraction(bound) ** 2, range(len(w[0]))
    gram = [[sum(row[i] * row[j] for row in w) for j in columns] for i in columns]
    return positive_definite([[square * (i == j) - gram[i][j] for j in columns] for i in columns])


def exact(w: Tensor) -> list[list[Fraction]]:
    """The entries as rationals; the smaller side as columns."""
    w = w if w.shape[0] >= w.shape[1] else w.T
    return [[Fraction(value) for value in row] for row in w.double().tolist()]


def gaussian(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=g)


def rank_one(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.outer(torch.randn(m, generator=g), torch.randn(n, generator=g))


def orthogonal(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(max(m, n), min(m, n), generator=g, dtype=torch.float64))[0]


def badly_scaled(g: torch.Generator, m: int, n: int) -> Tensor:
    exponents = torch.rand(m, n, generator=g, dtype=torch.float64) * 40 - 20
    return torch.randn(m, n, generator=g, dtype=torch.float64) * 10**exponents


def near_ties(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.eye(m, n, dtype=torch.float64) * (1 + 2.0**-52 * torch.randint(0, 4, (m, n), generator=g))


def zeros(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.zeros(m, n)


def one_huge(g: torch.Generator, m: int, n: int) -> Tensor:
    w = torch.randn(m, n, generator=g) * 1e-12
    w[int(torch.randint(m, (), generator=g)), int(torch.randint(n, (), generator=g))] = 3e30
    return w


def denormal(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=g) * 1e-43


def denormal_double(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=g, dtype=torch.float64) * 2.0**-1065


def tiny_and_huge(g: torch.Generator, m: int, n: int) -> Tensor:
    w = torch.randn(m, n, generator=g, dtype=torch.float64) * 1e-300
    w[0] = torch.randn(n, generator=g, dtype=torch.float64) * 1e300
    return w


def sparse(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=g) * (torch.rand(m, n, generator=g) < 0.3)


def small_integers(g: torch.Generator, m: int, n: int) -> Tensor:
    return torch.randint(-2, 3, (m, n), generator=g).float()


KINDS: list[Maker] = [
    gaussian,
    rank_one,
    orthogonal,
    badly_scaled,
    near_ties,
    zeros,
    one_huge,
    denormal,
    denormal_double,
    tiny_and_huge,
    sparse,
    small_integers,
]


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_exactly(kind: Maker) -> None:
    """660 matrices: lower ≤ ‖W‖ < upper, decided in rational arithmetic."""
    g = torch.Generator().manual_seed(1)
    for _ in range(55):
        m, n = (int(k) for k in torch.randint(1, 6, (2,), generator=g))
        w = kind(g, m, n)
        bound = norm_bound(w)
        rational = exact(w)
        if not bool(w.any()):
            assert (bound.lower, bound.upper) == (0.0, 0.0)
            continue
        assert norm_is_below(rational, bound.upper), f"{kind.__name__}: {bound.upper.hex()} is below the norm"
        assert not norm_is_below(rational, bound.lower), f"{kind.__name__}: {bound.lower.hex()} is above the norm"


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not zeros])
@pytest.mark.parametrize("size", [(3, 3), (1, 4), (2, 3), (5, 1)])
def test_convolutions_exactly(kind: Maker, size: tuple[int, int]) -> None:
    """352 convolutions whose supremum is known: |K|, modulated by signs, has it at a corner of the torus.

    ‖K̂(ω)‖ ≤ ‖Σ_ab |K_ab|‖ for every ω, with equality where the modulation cancels.
    """
    g = torch.Generator().manual_seed(2)
    rows, columns = size
    for _ in range(8):
        m, n = (int(k) for k in torch.randint(1, 5, (2,), generator=g))
        taps = torch.stack([kind(g, m, n).reshape(-1)[: m * n].reshape(m, n) for _ in range(rows * columns)], -1).abs()
        signs = torch.randint(0, 2, (2,), generator=g) * 2 - 1
        pattern = signs[0] ** torch.arange(rows)[:, None] * signs[1] ** torch.arange(columns)[None]
        w = taps.reshape(m, n, rows, columns) * pattern
        bound = norm_bound(w)
        if not bool(w.any()):
            assert (bound.lower, bound.upper) == (0.0, 0.0)
            continue
        total = [[sum(map(Fraction, entry)) for entry in row] for row in w.double().abs().flatten(2).tolist()]
        total = total if m >= n else [list(row) for row in zip(*total, strict=True)]
        assert norm_is_below(total, bound.upper), f"{kind.__name__}: {bound.upper.hex()} is below the norm"
        assert not norm_is_below(total, bound.lower), f"{kind.__name__}: {bound.lower.hex()} is above the norm"
        assert bound.upper <= bound.lower * (1 + 1e-3) + 2e-323  # denormal bounds have few digits


def test_the_exact_reference_can_fail() -> None:
    """The decision procedure itself: ‖diag(3, 4)‖ = 4 is below 4(1 + 2⁻⁵²) and not below 4."""
    w = exact(torch.diag(torch.tensor([3.0, 4.0])))
    assert norm_is_below(w, math.nextafter(4.0, 5.0))
    assert not norm_is_below(w, 4.0)

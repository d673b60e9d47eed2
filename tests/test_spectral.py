"""Norm bounds: against unrolled operators, high precision, closed forms; and every refusal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.spectral import Method, norm_bound, norm_lower, symbol
from pnp_lip.spectral.polyphase import dilate
from pnp_lip.spectral.torus import Symbol, discard, first_cells
from pnp_lip.spectral.verified import TABLE_ERROR, largest_eigenvalue_below, unit_circle


def kernel(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm_upper(w: Tensor, rtol: float = 1e-3, **settings: int) -> float:
    return norm_bound(w, rtol=rtol, **settings).upper


def unrolled(w: Tensor, size: tuple[int, int], *, padding: str, **settings: int) -> float:
    """The norm of the convolution as a dense matrix on images of the given size, "zeros" adding k − 1 on each side."""
    channels = w.shape[1] * settings.get("groups", 1)
    basis = torch.eye(channels * size[0] * size[1], dtype=torch.float64).reshape(-1, channels, *size)
    reach = [settings.get("dilation", 1) * (k - 1) for k in w.shape[2:]]
    if padding == "circular":
        rows = torch.arange(size[0] + reach[0]) % size[0]
        columns = torch.arange(size[1] + reach[1]) % size[1]
        images = F.conv2d(basis[..., rows[:, None], columns], w, **settings)
    else:
        images = F.conv2d(basis, w, padding=(reach[0], reach[1]) if padding == "zeros" else 0, **settings)
    return float(torch.linalg.eigvalsh(images.flatten(1) @ images.flatten(1).T)[-1].sqrt())


CASES = [
    ((3, 2, 3, 3), {}),
    ((2, 3, 3, 3), {}),
    ((1, 1, 1, 5), {}),
    ((2, 2, 4, 2), {}),
    ((4, 1, 3, 3), {"groups": 2}),
    ((2, 2, 3, 3), {"dilation": 2}),
    ((3, 2, 3, 3), {"stride": 2}),
    ((2, 2, 5, 3), {"stride": 2, "dilation": 2}),
    ((2, 2, 2, 2), {"stride": 2}),
    ((4, 2, 3, 3), {"stride": 2, "groups": 2}),
    ((3, 2, 1, 1), {"stride": 2}),
]


@pytest.mark.parametrize(("shape", "settings"), CASES)
@pytest.mark.parametrize("padding", ["zeros", "none", "circular"])
def test_never_below_an_unrolled_operator(shape: tuple[int, ...], settings: dict[str, int], padding: str) -> None:
    w = kernel(1, *shape)
    upper = norm_upper(w, 1e-6, **settings)
    for size in ((6, 4), (8, 10)):
        if padding != "none" or min(size) > settings.get("dilation", 1) * (max(shape[2:]) - 1):
            assert unrolled(w, size, padding=padding, **settings) <= upper


@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_approached_by_large_circular_images(shape: tuple[int, ...], settings: dict[str, int]) -> None:
    """The bound is the supremum over sizes: already 12 pixels come within a few percent of it."""
    w = kernel(2, *shape)
    assert unrolled(w, (12, 12), padding="circular", **settings) >= 0.93 * norm_upper(w, 1e-6, **settings)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_the_bound_says_what_it_speaks_of(padding_mode: str) -> None:
    w = kernel(3, 3, 2, 3, 3)
    plain, strided = (norm_bound(w, padding_mode=padding_mode, stride=s) for s in (1, (2, 1)))
    assert plain.upper == norm_upper(w) and plain.method is Method.BRANCH_AND_BOUND
    assert (plain.padding_mode, plain.smallest_image, plain.divisible_by) == (padding_mode, (1, 1), (1, 1))
    assert plain.scope == f"any image size, {padding_mode} padding"
    assert strided.divisible_by == ((2, 1) if padding_mode == "circular" else (1, 1))
    assert ("divisible by 2 and 1" in strided.scope) == (padding_mode == "circular")
    matrix = norm_bound(w[..., 0, 0], padding_mode=padding_mode)
    assert (matrix.padding_mode, matrix.method, matrix.scope) == (None, Method.CHOLESKY, "any input")
    assert norm_bound(w[..., :1, :1], padding_mode=padding_mode).method is Method.CHOLESKY


@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (16, 4, 5, 5), (1, 1, 9, 9), (6, 3, 7, 7), (16, 16, 1, 3), (4, 4, 2, 2)])
def test_gap_is_at_most_rtol(shape: tuple[int, ...], rtol: float) -> None:
    bound = norm_bound(kernel(4, *shape).float(), rtol=rtol)
    assert 0 < bound.gap <= rtol


def test_a_matrix_is_bounded_to_the_last_digits() -> None:
    w = kernel(5, 60, 40)
    truth = float(torch.linalg.matrix_norm(w, 2))
    bound = norm_bound(w)
    assert truth * (1 - 1e-14) <= bound.upper <= truth * (1 + 1e-11)
    assert truth * (1 - 1e-11) <= bound.lower <= truth * (1 + 1e-14)


def test_one_by_one_kernels_are_matrices() -> None:
    w = kernel(6, 5, 4, 1, 1)
    assert norm_upper(w) == norm_upper(w[:, :, 0, 0])
    padded = F.pad(w, (1, 1, 1, 1))  # zeros around the only tap change nothing
    assert norm_upper(padded) == norm_upper(w)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 4)])
def test_invariances(shape: tuple[int, ...]) -> None:
    w = kernel(7, *shape)
    upper = norm_upper(w)
    assert norm_upper(w * 2.0**-200) == upper * 2.0**-200
    assert norm_upper(w.transpose(0, 1)) == pytest.approx(upper, rel=2e-3)
    if w.ndim == 4:
        assert norm_upper(w.flip(-1, -2)) == pytest.approx(upper, rel=2e-3)
        assert norm_upper(dilate(w, (2, 3)), 1e-3) == pytest.approx(upper, rel=2e-3)
        assert norm_upper(w, dilation=3) == upper


def test_half_precision_weights_are_taken_as_stored() -> None:
    w = kernel(8, 4, 4, 3, 3).bfloat16()
    assert norm_upper(w) == norm_upper(w.double())


def test_the_witness_attains_the_lower_bound() -> None:
    w = kernel(9, 6, 5, 3, 3)
    bound = norm_bound(w, rtol=1e-6)
    matrix = symbol(w, torch.tensor([bound.witness], dtype=torch.float64))[0]
    assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(bound.lower, rel=1e-11)


@pytest.mark.parametrize("seed", range(12))
def test_against_high_precision(seed: int) -> None:
    """No frequency of a fine grid, nor the refined maximiser at 60 digits, exceeds the bound at rtol = 1e-9."""
    mpmath = pytest.importorskip("mpmath")
    shape = [(3, 3, 3, 3), (2, 4, 3, 2), (4, 1, 5, 5), (2, 2, 1, 7)][seed % 4]
    w = kernel(100 + seed, *shape).float() * (1e-20 if seed == 5 else 1.0)
    bound = norm_bound(w, rtol=1e-9)
    grid = torch.arange(96, dtype=torch.float64) * (2 * math.pi / 96)
    values = torch.linalg.matrix_norm(symbol(w.double(), torch.cartesian_prod(grid, grid)), 2)
    assert float(values.max()) * (1 - 1e-12) <= bound.upper
    with mpmath.workdps(60):
        reference = mpmath.matrix(w.shape[0], w.shape[1])
        for i, j, a, b in torch.cartesian_prod(*(torch.arange(k) for k in shape)).tolist():
            angle = -(a * mpmath.mpf(bound.witness[0]) + b * mpmath.mpf(bound.witness[1]))
            reference[i, j] += mpmath.mpf(float(w[i, j, a, b])) * mpmath.expj(angle)
        gram = reference.H * reference
        top = mpmath.sqrt(max(mpmath.eighe(gram, eigvals_only=True)))
        assert bound.lower <= top * (1 + mpmath.mpf(10) ** -15) and top <= bound.upper


def test_ball_arithmetic_agrees_with_the_lower_bound() -> None:
    """An independent enclosure of the norm at the witness by ball arithmetic lies between the two bounds."""
    flint = pytest.importorskip("flint")
    w = kernel(10, 3, 1, 3, 3)
    bound = norm_bound(w, rtol=1e-9)
    old, flint.ctx.prec = flint.ctx.prec, 200
    try:
        p = [flint.arb(angle) for angle in bound.witness]
        total = flint.arb(0)
        for row in w[:, 0].tolist():
            entry = flint.acb(0)
            for a, taps in enumerate(row):
                for b, tap in enumerate(taps):
                    entry += flint.acb(tap) * flint.acb(0, -(a * p[0] + b * p[1])).exp()
            total += entry.real**2 + entry.imag**2
        norm = total.sqrt()
        assert norm < bound.upper and norm > bound.lower * (1 - 1e-15)
    finally:
        flint.ctx.prec = old


def test_the_table_of_cosines_is_within_its_bound() -> None:
    mpmath = pytest.importorskip("mpmath")
    turns = torch.cat([torch.arange(64) / 64, torch.rand(400, generator=torch.Generator().manual_seed(0))]).double() * 1.5
    cosine, sine = unit_circle(turns)
    with mpmath.workdps(40):
        for f, c, s in zip(turns.tolist(), cosine.tolist(), sine.tolist(), strict=True):
            angle = 2 * mpmath.pi * mpmath.mpf(f)
            assert abs(mpmath.cos(angle) - c) < TABLE_ERROR / 8 and abs(mpmath.sin(angle) - s) < TABLE_ERROR / 8


@pytest.mark.parametrize("flat", [False, True])
def test_a_false_bound_leaves_cells_that_cannot_be_discarded(flat: bool) -> None:
    """The cell of the maximiser survives every claim below the norm, however small the cell is."""
    w = kernel(11, 4, 4, 3, 3)
    scaled = Symbol(w / 8)
    bound = norm_bound(w / 8, rtol=1e-8)
    p = torch.tensor([bound.witness], dtype=torch.float64) / (2 * math.pi)
    p = torch.round(p * 2.0**30) / 2.0**30
    for width in (2.0**-6, 2.0**-12, 2.0**-20):
        left, top, _ = discard(scaled, p, (width, width), bound.lower * (1 - 1e-9), flat)
        assert len(left) == 1 and top == pytest.approx(bound.lower, rel=1e-9)
    assert len(discard(scaled, p, (2.0**-20, 2.0**-20), bound.lower * (1 + 1e-6), flat)[0]) == 0


@pytest.mark.parametrize("size", [(3, 3), (1, 4), (5, 1), (2, 7)])
def test_first_cells_cover_half_the_torus(size: tuple[int, int]) -> None:
    reach = ((size[0] - 1) / 2, (size[1] - 1) / 2)
    centres, widths = first_cells(reach)
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1, 0.5])
    distance = (points[:, None] - centres).abs() <= torch.tensor(widths) * (1 + 1e-12)
    assert bool(distance.all(-1).any(-1).all())
    assert reach[0] * widths[0] + reach[1] * widths[1] <= 1 / 16  # φ ≤ π/8, inside the lemma's π/2


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 3, 2, 4), (2, 2, 1, 5)])
def test_sag_bounds_the_second_derivative(shape: tuple[int, ...]) -> None:
    """λ_max(K̂ᴴK̂) at p* + δ is at least M² − sag(|δ|), and sag is not vacuous for a nearly constant symbol."""
    w = kernel(15, *shape) / 8
    bound = norm_bound(w, rtol=1e-9)
    g = torch.Generator().manual_seed(0)
    for size in (0.3, 0.03, 0.003):
        delta = (torch.rand(2, generator=g, dtype=torch.float64) * 2 - 1) * size
        moved = torch.tensor([bound.witness], dtype=torch.float64) + 2 * math.pi * delta
        top = float(torch.linalg.matrix_norm(symbol(w, moved)[0], 2))
        assert top**2 >= bound.lower**2 - Symbol(w).sag((abs(float(delta[0])), abs(float(delta[1])))) - 1e-12


def test_symbols_of_constant_norm_are_cheap() -> None:
    """A shear of pixels (one orthonormal row per tap) has ‖K̂‖ ≡ 1: proved at 1e-6, which the cosine alone cannot do."""
    q = torch.linalg.qr(kernel(16, 9, 9))[0]
    w = torch.zeros(9, 9, 3, 3, dtype=torch.float64)
    for tap in range(9):  # paraunitary: the taps are projections onto orthogonal lines
        w[:, :, tap // 3, tap % 3] = torch.outer(q[tap], q[tap])
    bound = norm_bound(w, rtol=1e-6)
    assert 1 - 1e-12 <= bound.upper <= 1 + 1.1e-6 and bound.cells <= 100_000
    spike = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    spike[:, :, 1, 1] = torch.eye(4)
    nearly = norm_bound(spike + 1e-4 * kernel(17, 4, 4, 3, 3), rtol=1e-6)
    assert nearly.gap <= 1e-6 and nearly.cells <= 100_000


def test_power_iteration_at_a_fixed_size_stays_below() -> None:
    """What others take for a bound: at 6 × 6 with zero padding it is below the norm on larger images."""
    w = kernel(12, 8, 8, 3, 3)
    small, below = unrolled(w, (6, 6), padding="zeros"), norm_bound(w).lower
    assert small < below
    start = kernel(13, 1, 8, 6, 6)
    found, v = norm_lower(
        lambda x: F.conv2d(x, w, padding=2), lambda y: F.conv_transpose2d(y, w, padding=2), start, iterations=300
    )
    assert small * (1 - 1e-3) < found <= small * (1 + 1e-12) and found < below
    assert float(F.conv2d(v, w, padding=2).norm() / v.norm()) == pytest.approx(found, rel=1e-12)


def test_power_iteration_is_below_whatever_the_adjoint_does() -> None:
    w = kernel(14, 5, 4)
    truth = float(torch.linalg.matrix_norm(w, 2))
    start = kernel(15, 4)
    few, _ = norm_lower(lambda x: w @ x, lambda y: w.T @ y, start, iterations=3)
    most, _ = norm_lower(lambda x: w @ x, lambda y: w.T @ y, start, iterations=500)
    assert few <= most <= truth * (1 + 1e-14) and most >= truth * (1 - 1e-12)
    wrong, _ = norm_lower(lambda x: w @ x, lambda y: y[:4] * math.inf, start)
    assert 0 < wrong <= truth
    parts, _ = norm_lower(lambda x: [w[:2] @ x, w[2:] @ x], lambda y: w.T @ torch.cat(list(y)), start, iterations=500)
    assert parts == pytest.approx(most, rel=1e-13)
    assert norm_lower(lambda x: w @ x, lambda y: w.T @ y, 0 * start)[0] == 0
    assert norm_lower(lambda x: 0 * x, lambda y: y, start)[0] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 3, 3)])
def test_non_finite_weights_are_refused(bad: float, shape: tuple[int, ...]) -> None:
    w = torch.ones(shape)
    w.view(-1)[1] = bad
    with pytest.raises(InputError, match="finite"):
        norm_bound(w)


@pytest.mark.parametrize("w", [torch.ones(3), torch.ones(1, 1, 3), torch.ones(2, 0), torch.ones(2, 2, dtype=torch.int64)])
def test_wrong_shapes_are_refused(w: Tensor) -> None:
    with pytest.raises(ShapeError):
        norm_bound(w)


@pytest.mark.parametrize(
    "settings",
    [
        {"rtol": 0.0},
        {"rtol": 2.0},
        {"groups": 2},
        {"groups": 0},
        {"padding_mode": "reflect"},
        {"padding_mode": "symmetric"},
        {"stride": 0},
        {"stride": 2, "dilation": (1, 2, 3)},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError):
        norm_bound(torch.ones(3, 3, 3, 3), **settings)


def test_too_few_cells_fail_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.spectral.torus.MAX_CELLS", 130)
    with pytest.raises(CertificateError, match="Raise rtol"):
        norm_bound(kernel(13, 4, 4, 3, 3), rtol=1e-6)


def test_overflow_fails_loudly() -> None:
    with pytest.raises(CertificateError, match="range of float64"):
        norm_bound(torch.full((4, 4), 1.7e308, dtype=torch.float64))


def test_flushed_denormals_are_refused() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        with pytest.raises(CertificateError, match="denormal"):
            norm_bound(torch.full((2, 2), 1e-310, dtype=torch.float64))
    finally:
        torch.set_flush_denormal(False)


def test_groups_of_very_different_size() -> None:
    """The largest group decides, and a group of 1e-200 neither disturbs nor costs anything."""
    w = kernel(14, 4, 2, 3, 3)
    w[2:] *= 1e-200
    assert norm_upper(w, groups=2) == norm_upper(w[:2])
    assert norm_upper(w[..., 1, 1], groups=2) == norm_upper(w[:2, :, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("channels", [1, 8, 64])
@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_tight_up_to_nine_by_nine_and_64_channels(size: int, channels: int, rtol: float) -> None:
    assert 0 < norm_bound(kernel(18, channels, channels, size, size).float(), rtol=rtol).gap <= rtol


def test_a_negative_diagonal_counts_as_zero() -> None:
    """So no diagonal entry of λI − Ĝ exceeds λ, which the bound of its trace needs; Ĝ below has λ_max = 0.98 < 1."""
    gram = torch.tensor([[-1.0, 0.9], [0.9, 0.5]], dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(gram)[-1]) < 1
    assert not largest_eigenvalue_below(gram, 1.0)
    assert not largest_eigenvalue_below(gram.to(torch.complex128), 1.0)
    assert largest_eigenvalue_below(gram.clamp_min(0).to(torch.complex128), 1.2)
    assert not largest_eigenvalue_below(torch.zeros(2, 2), 0.0)

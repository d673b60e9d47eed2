"""A second opinion on certificates of denoisers and potentials: ball arithmetic of python-flint, not our floating-point proofs.

‖W‖ ≤ U is proved as ‖K̂(p)‖ ≤ U on the torus. A cell with centre c and half-widths h holds no maximiser of a norm above U
when U² cos²φ I − K̂(c)ᴴK̂(c) is positive definite, φ = π Σ (k_i − 1) h_i (docs/certificates.md, Lemma 1). Stored weights
and centres are dyadic: the coefficients of K̂ᴴK̂ are integers, and every number that is rounded carries its error bound.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pnp_lip.certificates import Certificate
from pnp_lip.certificates.certify import hash_weights
from pnp_lip.check import check_composition, slope_range
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import NoiseClip
from pnp_lip.layers.constraints import gradient_flow_layers
from pnp_lip.potentials import RidgePotential

try:
    import flint
except ImportError:
    flint = None

__all__ = ["disputed", "norm_is_below"]

Integers = npt.NDArray[np.int64]
PRECISION = 96  # bits; the shipped bounds are decided by 1e-3, and one that is tight to 1e-9 needs some 40 bits
DEEPEST = 24  # halvings of a cell after which a bound counts as undecided: the norm is then U to 14 digits
MOST_CELLS = 400_000  # the shipped layers need at most 9,800
CHUNK = 1024  # cells whose symbols one product of matrices gives


def disputed(denoiser: GradientFlowDenoiser | RidgePotential, certificate: Certificate) -> list[str]:
    """What ball arithmetic could not verify of the certificate: hashes, each ‖W‖ ≤ U, each α = τU²/2, the composition.

    Of a potential ‖W‖ ≤ U and, by the checker's exact range of the slopes, the curvature.

    Empty: all is verified. Lower bounds, rounding and the code that runs are left to ``certify``. Raises InputError without
    python-flint, CertificateError for a certificate with other layers.
    Source: Baillon & Haddad (1977); Combettes & Yamada (2015), Proposition 2.5.
    """
    if isinstance(denoiser, RidgePotential):
        return disputed_curvature(denoiser, certificate)
    layers = dict(gradient_flow_layers(denoiser))
    if [line.path for line in certificate.layers] != list(layers):
        raise CertificateError("the certificate does not list the layers of this denoiser.")
    wrong = [] if certificate.weights == hash_weights(denoiser) else ["the certificate belongs to other weights"]
    alphas = []
    for line, (path, layer) in zip(certificate.layers, layers.items(), strict=True):
        upper, tau = line.norm.upper, Fraction(float(layer.tau.detach()))
        alphas.append(tau * Fraction(upper) ** 2 / 2)
        stated = 1 if line.averagedness is None else Fraction(line.averagedness)
        claims = {
            "the activation is no NoiseClip, so its slopes are not known": type(layer.activation) is NoiseClip,
            f"τU²/2 = {float(alphas[-1]):.9g} is not in [0, {float(stated):.9g}]": 0 <= alphas[-1] <= stated,
            f"‖W‖ ≤ {upper:.9g} is not verified": norm_is_below(layer.weight, upper),
        }
        wrong += [f"{path}: {claim}" for claim, holds in claims.items() if not holds]
    bound = certificate.bound
    return wrong + check_composition(alphas, bound.lipschitz, bound.averagedness, bound.proximal)


def disputed_curvature(potential: RidgePotential, certificate: Certificate) -> list[str]:
    """The same for a potential: hashes, ‖W‖ ≤ U, slopes·U² within the curvature, the gradient's Lipschitz constant."""
    curvature, clip = certificate.curvature, potential.activation
    if curvature is None or [line.path for line in certificate.layers] != [""]:
        raise CertificateError("the certificate is not that of a potential.")
    parts = (clip.rise, clip.fall, clip.log_rise_limit, clip.log_fall_limit)
    low, high = slope_range(*(part.detach().cpu().double().numpy() for part in parts))
    upper = certificate.layers[0].norm.upper
    least, most = low * Fraction(upper) ** 2, high * Fraction(upper) ** 2
    claims = {
        "the certificate belongs to other weights": certificate.weights == hash_weights(potential),
        f"‖W‖ ≤ {upper:.9g} is not verified": norm_is_below(potential.weight, upper),
        f"[{float(least):.9g}, {float(most):.9g}] exceeds the curvature": curvature.lower <= least and most <= curvature.upper,
        "the Lipschitz constant of the gradient is understated": max(-least, most) <= certificate.bound.lipschitz,
    }
    return [claim for claim, holds in claims.items() if not holds]


def norm_is_below(weight: Tensor, upper: float) -> bool:
    """Whether ‖W‖ < ``upper`` is proved, W a matrix or a convolution of any image size; 0 ≤ 0 counts, too.

    False: refuted, or undecided because ``upper`` is the norm to 14 digits or too many cells are needed. Raises InputError
    without python-flint.
    """
    if flint is None:
        raise InputError("the second opinion needs python-flint, which is not installed: pip install 'pnp-lip[flint]'.")
    w = weight.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(w).all() or not 0 <= upper < np.inf:
        return False
    if not w.any():
        return True
    with flint.ctx.workprec(PRECISION):
        return cells_hold(w.reshape(*w.shape[:2], *(w.shape[2:] or (1, 1))), upper)


def cells_hold(kernel: npt.NDArray[np.float64], upper: float) -> bool:
    """Branch and bound over half of the torus, as K̂(−p) is the conjugate of K̂(p); centres are integers over M."""
    kernel = kernel.swapaxes(0, 1) if kernel.shape[0] < kernel.shape[1] else kernel
    sizes, channels = kernel.shape[2:], kernel.shape[1]
    offsets, coefficients, shift = gram(kernel)
    counts = [1 if k == 1 else 1 << (8 * (k - 1) - 1).bit_length() for k in sizes]
    square, m = 2 * flint.arb(upper) ** 2 * flint.arb(flint.fmpz(1) << 2 * shift), 4 * max(counts)
    step = np.array([m // (2 * count) for count in counts])  # the half-widths, in units of 1/M
    grid = np.indices((counts[0], max(1, counts[1] // 2))).reshape(2, -1).T
    cells, seen = (2 * grid + 1) * step, 0
    for _ in range(DEEPEST):
        seen += len(cells)
        reach = Fraction(sum((k - 1) * int(h) for k, h in zip(sizes, step, strict=True)), m)
        target = square * flint.arb.cos_pi_fmpq(flint.fmpq(reach.numerator, reach.denominator)) ** 2
        left = []
        for start in range(0, len(cells), CHUNK):
            part = cells[start : start + CHUNK]
            for cell, half in zip(part, symbols(part @ offsets.T % m, m, coefficients), strict=True):
                if sign(half, channels, target) <= 0:
                    if sign(half, channels, square) < 0:
                        return False  # ‖K̂(c)‖ > U: refuted
                    left.append(cell)
        if not left or seen > MOST_CELLS or sizes == (1, 1):
            return not left
        moves = np.array([(a, b) for a in ((-1, 1) if sizes[0] > 1 else (0,)) for b in ((-1, 1) if sizes[1] > 1 else (0,))])
        cells, m = (2 * np.array(left)[:, None] + moves * step).reshape(-1, 2), 2 * m
    return False


def gram(kernel: npt.NDArray[np.float64]) -> tuple[Integers, flint.acb_mat, int]:
    """Offsets k, integers C_k as a matrix with a row for each, and e: 2·4^e K̂ᴴK̂ = S + Sᴴ, S = Σ_k C_k exp(2πi k·p).

    C_0 = 4^e G_0 and C_k = 2·4^e G_k for one of k and −k, G_k = Σ_a K_aᵀK_{a+k}, because G_{−k} = G_kᵀ.
    """
    outputs, channels, rows, columns = kernel.shape
    fractions = [value.as_integer_ratio() for value in kernel.reshape(-1).tolist()]
    shift = max(denominator.bit_length() - 1 for _, denominator in fractions)
    integers = [n * ((1 << shift) // d) for n, d in fractions]
    matrix = flint.fmpz_mat(outputs, len(integers) // outputs, integers)
    products = (matrix.transpose() * matrix).tolist()
    sums: dict[tuple[int, int], list[int]] = {}
    columns_of = list(enumerate(itertools.product(range(channels), range(rows), range(columns))))  # (channel, tap)
    for (left, (i, *a)), (right, (j, *b)) in itertools.product(columns_of, repeat=2):
        k = (b[0] - a[0], b[1] - a[1])
        if k >= (0, 0):
            total = sums.setdefault(k, [0] * channels**2)
            total[i * channels + j] += (1 if k == (0, 0) else 2) * products[left][right]
    return np.array(list(sums)), flint.acb_mat(list(sums.values())), shift


def symbols(turns: Integers, m: int, coefficients: flint.acb_mat) -> list[list[flint.acb]]:
    """S at each cell's centre, a row of its entries; ``turns`` holds the integers M k·p modulo M, (cells, offsets)."""
    places, where = np.unique(turns, return_inverse=True)
    table = [(flint.acb(2 * place) / m).exp_pi_i() for place in places.tolist()]
    waves = flint.acb_mat(*turns.shape, [table[i] for i in where.reshape(-1).tolist()])
    rows: list[list[flint.acb]] = (waves * coefficients).tolist()
    return rows


def sign(half: list[flint.acb], n: int, target: flint.arb) -> int:
    """1 when A = target·I − S − Sᴴ is proved positive definite, −1 when proved not semidefinite, 0 when undecided.

    The pivots of Gaussian elimination of a Hermitian matrix decide: their products are its leading minors.
    """
    a = [[(target if i == j else 0) - half[i * n + j] - half[j * n + i].conjugate() for j in range(n)] for i in range(n)]
    for k in range(n):
        pivot = a[k][k].real  # as A is Hermitian, its diagonal stays real
        if not pivot > 0:
            return -1 if pivot < 0 else 0
        for i in range(k + 1, n):
            factor = a[i][k] / pivot
            for j in range(k + 1, i + 1):
                a[i][j] -= factor * a[j][k].conjugate()
    return 1

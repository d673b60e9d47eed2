"""A convolution's symbol and its supremum over the torus: branch and bound, each cell discarded by a proof.

Frequencies p are counted in turns, ω = 2πp, and are dyadic, so that the phases a p₁ + b p₂ and their reduction are exact.
"""

import itertools
import math

import torch
from torch import Tensor

from pnp_lip.errors import CertificateError, ShapeError
from pnp_lip.spectral.verified import TABLE_ERROR, cholesky_slack, gamma, largest_eigenvalue_below, unit_circle

__all__ = ["Symbol", "grid_factor", "half_torus", "prove_below", "symbol"]

SUM_ERROR = 4 * TABLE_ERROR  # of a component of exp(2πi(k₁p₁ + k₂p₂)) by the addition theorems: see ``Symbol.gram``
MAX_CELLS = 1_000_000  # that are examined for one kernel
CHUNK = 2**18  # entries of the Gram matrices that are formed at once
STARTS = 3  # of Newton's method
SEARCH = (16, 16)  # steps of the power iteration and spectra computed per chunk, where the search begins
PROBES = (4, 2)  # the same where the search only looks for a surprise
FLAT = 2_000  # cells after which the second test is tried, too: Gaussian 3 × 3 kernels need fewer (docs, section 4)
SAFETY = 1 - 1e-15  # covers the rounding of a handful of scalar operations
Widths = tuple[float, float]  # one number per axis


class Symbol:
    """K̂(p) = Σ_ab K[:, :, a, b] exp(−2πi(a p₁ + b p₂)), and H = K̂ᴴK̂, with bounds of the rounding in both.

    The kernel is real, float64, (out, in, k₁, k₂), with its largest entry in [1/2, 1]; transposed here to rows ≥ columns.

    H(p) = G_0 + Σ_{k>0} (G_k + G_kᵀ) cos 2πk·p − i(G_k − G_kᵀ) sin 2πk·p, G_k = Σ_a K_aᵀ K_{a+k}, over half of the
    offsets k: to sum these few matrices is cheaper than to multiply K̂ᴴ and K̂ at every p. With P = Σ_ab |K_ab|, T taps
    and N offsets, bounds of the rounding are

    - ``error`` ≥ ‖K̂ − computed‖₂: each component sums T taps with tabulated cosines, (γ_T + ε)P entrywise;
    - ``gram_error`` ≥ ‖H − computed‖₂: (γ_{mT+2} + γ_{2N} + 4ε)PᵀP entrywise, as Σ_k Σ_a |K_a|ᵀ|K_{a+k}| = PᵀP,

    both with ‖·‖₂ ≤ ‖·‖_F, √2 for the two components, and doubled for what is of higher order. ``frobenius`` ≥ ‖P‖_F
    ≥ ‖K̂‖_F. ``reach`` = ((k₁ − 1)/2, (k₂ − 1)/2) are the degrees of the trigonometric polynomial.
    """

    def __init__(self, kernel: Tensor) -> None:
        if kernel.shape[0] < kernel.shape[1]:
            kernel = kernel.transpose(0, 1)  # K̂ᵀ has the same norm
        self.rows, self.columns, height, width = kernel.shape
        self.sizes = (height, width)
        self.reach = ((height - 1) / 2, (width - 1) / 2)
        self.taps = kernel.permute(2, 3, 0, 1).reshape(height * width, -1)
        self.positions = torch.cartesian_prod(*(torch.arange(k, dtype=torch.float64) for k in (height, width)))
        self.frobenius = float(kernel.abs().sum((2, 3)).norm()) * (1 + 1e-9)
        self.error = 2 * math.sqrt(2) * (gamma(len(self.taps)) + TABLE_ERROR) * self.frobenius
        offsets = [(i, j) for i, j in itertools.product(range(height), range(1 - width, width)) if (i, j) >= (0, 0)]
        found = []
        for i, j in offsets:
            early = kernel[:, :, : height - i, max(0, -j) : width - max(0, j)].transpose(0, 1).flatten(1)
            late = kernel[:, :, i:, max(0, j) : width + min(0, j)].transpose(0, 1).flatten(1)
            found.append(early @ late.T)
        self.offsets, correlations = torch.tensor(offsets, dtype=torch.float64), torch.stack(found)  # k and G_k
        self.even = (correlations + correlations.mT).flatten(1)
        self.even[0] /= 2  # G_0 stands alone
        self.odd = (correlations - correlations.mT).flatten(1)
        roundings = gamma(self.rows * len(self.taps) + 2) + gamma(2 * len(self.offsets)) + SUM_ERROR
        self.gram_error = 2 * math.sqrt(2) * roundings * self.frobenius**2

    def gram(self, turns: Tensor) -> Tensor:
        """H at frequencies ``turns``, (n, 2), exact dyadic numbers in [0, 1]; complex (n, columns, columns).

        cos and sin of 2π(k₁p₁ + k₂p₂) by the addition theorems: each component errs by at most 2√2 ε + 3u < ``SUM_ERROR``.
        """
        (c, s), (d, t) = (
            unit_circle((p[:, None] * torch.arange(k)).remainder(1)) for p, k in zip(turns.T, self.sizes, strict=True)
        )
        c, s = c[:, :, None], s[:, :, None]
        d, t = torch.cat([d.flip(1), d[:, 1:]], 1)[:, None], torch.cat([-t.flip(1), t[:, 1:]], 1)[:, None]
        # In the order of the offsets, without those before (0, 0).
        cosine, sine = (table.flatten(1)[:, self.sizes[1] - 1 :] for table in (c * d - s * t, s * d + c * t))
        return torch.complex(cosine @ self.even, -sine @ self.odd).reshape(-1, self.columns, self.columns)

    def sag(self, widths: tuple[float, float]) -> float:
        """½ Σ_k ‖G_k‖(2πk·h)², rounded up: how far λ_max(H) may lie below its maximum at a distance of at most h.

        The offsets k and −k are one row here; ‖G_k‖_F² = ‖even‖_F²/4 + ‖odd‖_F²/4.
        """
        strength = (self.even.square().sum(1) + self.odd.square().sum(1)).sqrt() / 2 + self.gram_error
        angles = 2 * math.pi * (self.offsets.abs() @ torch.tensor(widths, dtype=torch.float64))
        return float((strength * angles**2).sum()) * (1 + 1e-9)

    def lower_bound(self, turns: Tensor, v: Tensor) -> float:
        """‖K̂(p)v‖/‖v‖, less its rounding, at one frequency, (1, 2): a lower bound of the supremum for any v."""
        cosine, sine = unit_circle((turns @ self.positions.T).remainder(1))
        matrix = torch.complex(cosine @ self.taps, -sine @ self.taps).reshape(self.rows, self.columns)
        size = 2 * (self.rows + self.columns)
        quotient = float((matrix @ v).norm() / v.norm())
        return max(0.0, quotient * (1 - 4 * gamma(size)) - self.error - 3 * gamma(size) * self.frobenius)


def first_cells(reach: Widths) -> tuple[Tensor, Widths]:
    """Centres and half-widths, in turns, of cells that cover [0, 1] × [0, 1/2], half the torus: K̂(−p) = conj K̂(p).

    An axis along which |K̂| is constant gets one cell.
    """
    counts = [2 ** math.ceil(math.log2(16 * r)) if r else 1 for r in reach]
    if reach[1]:
        counts[1] //= 2
    spans = (1.0, 0.5)
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) * (span / n) for n, span in zip(counts, spans, strict=True)]
    return torch.cartesian_prod(*axes), (spans[0] / counts[0] / 2, spans[1] / counts[1] / 2)


def supremum_estimate(symbol: Symbol, start: Tensor, radius: float) -> tuple[float, Tensor]:
    """A proved lower bound of the supremum with its frequency: guarded Newton steps on λ_max(SᴴS) from ``start``."""
    p = start
    value, v, step = newton_step(symbol, p)
    for _ in range(30):
        length = float(step.norm())
        target = p + step * min(1.0, radius / (length + 1e-300))
        candidate = torch.round(target * 2.0**30).remainder(2.0**30) / 2.0**30
        trial, v_trial, next_step = newton_step(symbol, candidate)
        if trial > value:
            gain = trial - value
            p, value, v, step = candidate, trial, v_trial, next_step
            if gain <= 1e-12 * value:
                break
        else:
            radius = min(radius, length) / 4
            if radius < 2.0**-28:
                break
    return symbol.lower_bound(p[None], v), p


def newton_step(symbol: Symbol, p: Tensor) -> tuple[float, Tensor, Tensor]:
    """λ = λ_max(SᴴS) at p, its eigenvector v and an ascent step: an estimate, which needs no proof.

    With a = Sv, b_i = S_i v, c_i = Sᴴb_i + S_iᴴa: λ_i = 2 Re aᴴb_i, and second-order perturbation theory gives
    λ_ij = 2 Re(aᴴS_ij v + b_iᴴb_j + Σ_k conj(v_kᴴc_i) v_kᴴc_j/(λ − λ_k)). The Hessian's eigenvalues are made negative.
    """
    x = 2 * math.pi * (symbol.positions - torch.tensor(symbol.reach, dtype=torch.float64))
    first, second = -1j * x.T, -(x.T[:, None] * x.T[None]).reshape(4, -1)
    factors = torch.cat([torch.ones(1, len(x)), first, second]) * torch.exp(-1j * (x @ p))
    s, *partial = (factors @ symbol.taps.to(torch.complex128)).reshape(-1, symbol.rows, symbol.columns)
    values, vectors = torch.linalg.eigh(s.mH @ s)
    value, v = values[-1], vectors[:, -1]
    a, b = s @ v, torch.stack([m @ v for m in partial[:2]])
    c = torch.stack([s.mH @ b[i] + partial[i].mH @ a for i in range(2)])
    w = (c @ vectors[:, :-1].conj()) / (value - values[:-1]).clamp_min(1e-8 * float(value)).sqrt()
    curvature = torch.stack([a.conj() @ (m @ v) for m in partial[2:]]).reshape(2, 2) + b.conj() @ b.T + w.conj() @ w.T
    h, axes = torch.linalg.eigh(2 * curvature.real)
    gradient = 2 * (b @ a.conj()).real
    step = axes @ ((axes.T @ gradient) / h.abs().clamp_min(1e-9 * float(value)))
    return float(value), v, step


def discard(symbol: Symbol, centres: Tensor, widths: Widths, c: float, flat: bool) -> tuple[Tensor, float, Tensor]:
    """The cells that may hold a supremum above c, and the largest norm at their centres (an estimate) with its centre.

    Let M = ‖K̂(p*)‖ be the supremum, u and v the singular vectors there, and |p_i − p*_i| ≤ h_i. Then
    (1) ‖K̂(p)‖ ≥ M cos φ if φ = 2π(r₁h₁ + r₂h₂) ≤ π/2. For f(s) = Re uᴴK̂(p* + s(p − p*))v, K̂ multiplied by the phase
        that centres its taps, is a real trigonometric polynomial of type at most φ with |f| ≤ M and f(0) = M. Hence
        f'² + φ²f² ≤ φ²M² (Duffin & Schaeffer 1938), and arccos(f/M) grows at most at the rate φ.
    (2) ‖K̂(p)‖² ≥ M² − sag(h). For g(s) = vᴴ(K̂ᴴK̂)(p* + s(p − p*))v has g(0) = M², g'(0) = 0 and |g''| ≤ 2 sag(h).
    So ‖K̂(centre)‖ ≤ max(c cos φ, √(c² − sag)) excludes M > c with p* in the cell. It is proved for the computed K̂ᴴK̂,
    whose error is ``symbol.gram_error``, by a Cholesky factorisation. (2) serves symbols of nearly constant norm and is
    used where ``flat``.
    """
    turns = sum(r * h for r, h in zip(symbol.reach, widths, strict=True))
    fraction = float(unit_circle(torch.tensor(turns, dtype=torch.float64))[0]) - 2 * TABLE_ERROR
    if flat:
        fraction = max(fraction, math.sqrt(max(0.0, 1 - symbol.sag(widths) / c**2 * (2 - SAFETY))) * SAFETY)
    target = (c * max(0.0, fraction) * SAFETY) ** 2 * SAFETY - symbol.gram_error
    bound = target - cholesky_slack(symbol.columns, max(0.0, target))
    left, top, where = [], 0.0, centres[0]
    for chunk in torch.split(centres, max(1, CHUNK // symbol.columns**2)):
        gram = symbol.gram(chunk)
        fails = ~largest_eigenvalue_below(gram, bound)
        if bool(fails.any()):
            left.append(chunk[fails])
            values, places = largest_eigenvalues(gram[fails], *PROBES)
            if float(values[0]) > top:
                top, where = float(values[0]), left[-1][places[0]]
    return torch.cat(left) if left else centres[:0], math.sqrt(max(0.0, top)), where


def prove_below(symbol: Symbol, rtol: float, floor: float) -> tuple[float, float, Tensor, int]:
    """Upper bound, lower bound, frequency of the lower bound and number of cells for sup_p ‖K̂(p)‖.

    The upper bound c is the largest of (1 + rtol) times the lower bounds found and of ``floor``, which the caller accepts
    anyway; cells that ``discard`` drops under a smaller c stay dropped. Raises CertificateError after MAX_CELLS.
    """
    centres, widths = first_cells(symbol.reach)
    lower, witness = 0.0, centres[0]
    values, starts = [], []  # the centres with the largest norms, as far as found
    for chunk in torch.split(centres, max(1, CHUNK // symbol.columns**2)):
        value, places = largest_eigenvalues(symbol.gram(chunk), *SEARCH)
        values.append(value)
        starts.append(chunk[places])
    for start in torch.cat(starts)[torch.cat(values).topk(min(STARTS, sum(map(len, starts)))).indices]:
        estimate, p = supremum_estimate(symbol, start, 2 * max(widths))
        if estimate > lower:
            lower, witness = estimate, p
    bound = max(floor, lower * (1 + rtol))
    cells = 0
    while len(centres):
        cells += len(centres)
        if cells > MAX_CELLS or max(widths) < 2.0**-30:
            raise CertificateError(f"{cells} cells do not suffice for so flat a symbol. Raise rtol = {rtol:g}.")
        left, top, where = discard(symbol, centres, widths, bound, flat=cells > FLAT)
        if top > lower:
            estimate, p = supremum_estimate(symbol, where, 2 * max(widths))
            if estimate > lower:
                lower, witness, bound = estimate, p, max(bound, estimate * (1 + rtol))
        varies = [r > 0 for r in symbol.reach]  # along such an axis each cell is halved
        widths = (widths[0] / (1 + varies[0]), widths[1] / (1 + varies[1]))
        moves = [torch.tensor([-h, h] if v else [0.0]).double() for h, v in zip(widths, varies, strict=True)]
        centres = (left[:, None] + torch.cartesian_prod(*moves)).reshape(-1, 2)  # dyadic, as are the moves: exact
    return bound, lower, witness, cells


def largest_eigenvalues(gram: Tensor, steps: int, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of ``count`` matrices of the batch, descending, and their places: an estimate of the top.

    All are ranked by ‖Aᵏv‖/‖Aᵏ⁻¹v‖ for a fixed v and k = ``steps`` first, since to compute every spectrum would cost more
    than all proofs.
    """
    n = gram.shape[-1]
    v = torch.cos(torch.arange(1, n + 1, dtype=torch.float64) ** 2).to(gram.dtype).expand(len(gram), n)[..., None]
    for _ in range(steps):
        v = torch.bmm(gram, v)
        growth = v.norm(dim=1, keepdim=True)
        v = v / growth.clamp_min(1e-300)
    places = growth.flatten().topk(min(count, len(gram))).indices
    values, order = torch.linalg.eigvalsh(gram[places])[:, -1].sort(descending=True)
    return values, places[order]


def symbol(weight: Tensor, frequencies: Tensor) -> Tensor:
    """K̂(ω) = Σ_ab K[:, :, a, b] exp(−i(a ω₁ + b ω₂)), one matrix per frequency, differentiable in the weight.

    Shapes: ``weight`` (out, in, k₁, k₂), ``frequencies`` (n, 2) in radians; gives complex (n, out, in). Taps count from
    the kernel's first entry. The result carries rounding errors of the working precision.

    >>> symbol(torch.ones(1, 1, 1, 2), torch.zeros(1, 2)).real.item()
    2.0
    """
    if weight.ndim != 4:
        raise ShapeError(f"a convolution's weight has shape (out, in, k1, k2); got {tuple(weight.shape)}.")
    real = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
    frequencies = frequencies.to(weight.device, real)
    rows, columns = (torch.arange(k, device=weight.device, dtype=real) for k in weight.shape[2:])
    angles = frequencies[:, :1, None] * rows[None, :, None] + frequencies[:, 1:, None] * columns[None, None, :]
    angles, taps = angles.flatten(1), weight.to(real).flatten(2)  # (n, taps), (out, in, taps)
    with torch.autocast(weight.device.type, enabled=False):  # a symbol rounded to bfloat16 would bound nothing
        parts = [torch.einsum("oit,nt->noi", taps, wave) for wave in (angles.cos(), -angles.sin())]
    return torch.complex(*parts)


def half_torus(grid: int) -> Tensor:
    """Frequencies 2πj/grid, j = (j₁, j₂), up to conjugate symmetry: K̂(−ω) is the conjugate of K̂(ω) for real weights."""
    angles = torch.arange(grid, dtype=torch.float64) * (2 * math.pi / grid)
    return torch.cartesian_prod(angles, angles[: grid // 2 + 1])


def grid_factor(kernel_size: tuple[int, int], grid: int) -> float:
    """Π cos(π r / grid)⁻¹, r = (k − 1)/2 per axis: what turns the grid maximum of ‖K̂‖ into a bound on the whole torus.

    Valid for grid > 2r. Source: Ehlich & Zeller (1964) for trigonometric polynomials, applied to uᴴ K̂(ω) v.

    >>> round(grid_factor((3, 3), 64), 4)
    1.0024
    """
    reach = [(k - 1) / 2 for k in kernel_size]
    if grid <= 2 * max(reach):
        raise ShapeError(f"a kernel of size {kernel_size} needs a grid finer than {2 * max(reach):g}; got {grid}.")
    return math.prod(1 / math.cos(math.pi * r / grid) for r in reach)

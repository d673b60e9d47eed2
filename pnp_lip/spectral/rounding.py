"""How far the executed floating-point network may lie from the real function that the certificate speaks of."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral.norm_bound import norm_bound
from pnp_lip.spectral.verified import exact_float64, gamma

__all__ = ["execution_error_upper"]


@torch.no_grad()
def execution_error_upper(
    weights: Sequence[Tensor],
    taus: Sequence[float],
    *,
    shifts: Sequence[Tensor | None] | None = None,
    input_bound: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> float:
    """A bound E of the distance between executed and exact composition of layers Φ(x) = x − τ Wᵀ σ(Wx + b).

    ‖fl(D)(x) − D(x)‖₂/√(HW) ≤ E for every image with ‖x‖₂/√(HW) ≤ ``input_bound`` (values in [−R, R]: R·√channels).
    For r ≥ ‖z‖₂/√(HW) at a layer, A = ‖Σ_ab|K_ab|‖₂ ≥ ‖|W|‖₂, N = min(A, √(2/τ)) ≥ ‖W‖₂, β = ‖b‖₂, and n, n' products
    per output of W and Wᵀ, the layer's own error is at most γ_{n+6} τN(Ar + β) + γ_{n'+6} τA(Nr + β + γ_{n+6}(Ar + β))
    + u(r + τNβ), up to a factor 1 + u for the last subtraction. Errors add up, because the layers are nonexpansive; r
    grows by at most τNβ per layer.

    Holds where 0 ≤ τ‖W‖² ≤ 2 (certified) and σ has slopes in [0, 1] with σ(0) = 0 and is rounded at most once, for the λ
    and b that the activations hold when executed. Products are conventional sums of ``dtype`` in any order; zero or circular
    padding, any image size; Winograd or Fourier convolutions, reduced-precision modes (TF32), overflow and underflow are
    excluded. The bound is infinite when nu ≥ 1/4, as for bfloat16 and more than 57 products.

    Parameters: ``weights`` 2-D or 4-D, ``taus`` and ``shifts`` b per layer, None for none. Raises InputError for
    settings out of range, ShapeError for lists of different length. Source: Higham (2002), Section 3.1, for γ_n.

    >>> execution_error_upper([torch.eye(2)], [1.0]) < 3e-6
    True
    """
    shifts = [None] * len(weights) if shifts is None else shifts
    if not len(weights) == len(taus) == len(shifts):
        raise ShapeError(f"expected {len(weights)} steps and shifts, one per weight; got {len(taus)}, {len(shifts)}.")
    if not 0 <= input_bound < math.inf or not all(0 <= tau < math.inf for tau in taus):
        raise InputError(f"`input_bound` and the steps must be finite and not negative; got {input_bound} and {taus}.")
    u = torch.finfo(dtype).eps / 2
    error, r = 0.0, float(input_bound)
    for weight, tau, shift in zip(weights, taus, shifts, strict=True):
        w = exact_float64(weight)
        taps = w.abs().flatten(2).sum(2) if w.ndim > 2 else w.abs()
        gain = norm_bound(taps * (1 + 1e-9)).upper
        beta = 0.0 if shift is None else float(exact_float64(shift).norm())
        norm = min(gain, math.sqrt(2 / tau) * (1 + 1e-9)) if tau else gain
        first, second = (gamma(size * w[0, 0].numel() + 6, u) for size in (w.shape[1], w.shape[0]))
        size = r + error  # of the executed state
        own = first * tau * norm * (gain * size + beta)
        own += second * tau * gain * (norm * size + beta + first * (gain * size + beta))
        error += ((1 + u) * own + u * (size + tau * norm * beta)) * (1 + 1e-9)
        r += tau * norm * beta
    return error

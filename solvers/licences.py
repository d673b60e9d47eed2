"""Which solvers' theorems a certificate meets, asked of the solvers themselves."""

from __future__ import annotations

from fractions import Fraction

from pnp_lip.certificates.certificate import Certificate
from pnp_lip.solvers.admm import ADMM
from pnp_lip.solvers.davis_yin import DavisYin
from pnp_lip.solvers.douglas_rachford import DouglasRachford
from pnp_lip.solvers.forward_backward import ForwardBackward
from pnp_lip.solvers.half_quadratic import HalfQuadratic
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.primal_dual import PrimalDual
from pnp_lip.solvers.proximal_red import ProximalRED
from pnp_lip.solvers.red import RED
from pnp_lip.solvers.solver import Solver

__all__ = ["licensed"]

SOLVERS: tuple[type[Solver], ...] = (
    ForwardBackward, HalfQuadratic, RED, ProximalRED, ADMM, DouglasRachford, DavisYin, PrimalDual,
)  # fmt: skip


def licensed(certificate: Certificate) -> tuple[str, ...]:
    """The solvers whose theorem holds for this denoiser, with their default scheme and a step inside its range.

    The forward model is any A with a known bound of ‖A‖, here 1. A map that is only nonexpansive is enough for RED; other
    solvers take it with ``scheme=Halpern()`` or ``KrasnoselskiiMann(0.5)``.
    """
    if not certificate.nonexpansive:
        return ()
    known = Known(denoiser=certificate.bound, L=Fraction(1), μ=Fraction(0), scale=1.0, norm_upper=1.0)
    names = []
    for kind in SOLVERS:
        solver = kind(lambda x, sigma: x)  # of the denoiser only the bound is asked
        iteration = solver.bind(known)
        asked = (*iteration.asks, *solver.scheme.hypotheses(iteration.bound, proximal=iteration.minimises))
        if all(h.met for h in asked):
            names.append(kind.__name__)
    return tuple(names)

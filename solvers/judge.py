"""Which theorem holds: the solver's hypotheses, the scheme's, and what follows from them."""

from __future__ import annotations

from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.solvers.guarantee import NOTHING, Guarantee
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.scheme import Scheme

__all__ = ["judge", "judge_scheme"]

NOT_GIVEN = "assumed; nothing proves it where a hypothesis fails"
CONTRACTION = "unique, as T is a contraction (Banach)"


def judge(
    iteration: Iteration,
    scheme: Scheme,
    shared: tuple[Hypothesis, ...],
    *,
    theorem: str,
    equation: str,
    box_advice: str,
    maps: Maps,
    x: Tensor,
) -> Guarantee:
    """The guarantee of iterating T by the ``scheme``, or the first hypothesis that failed.

    ``shared`` are the hypotheses that do not depend on the solver, x (B, C, H, W) an image; ``box_advice`` says how to
    have existence proved.
    """
    own = (*shared, *iteration.asks)
    every = own
    if all(h.allows_to_run for h in own):  # otherwise nothing is known of T, and what the scheme asks is moot
        every = (*own, *judge_scheme(iteration, scheme))
    failed = next((h for h in every if not h.met), None)
    bound, holds = iteration.bound, all(h.met for h in own)
    q = round_up(bound.lipschitz) if holds else 1.0
    existence = (CONTRACTION if q < 1 else iteration.exists(maps, x)) if holds else None
    rate = scheme.linear_rate(q, bound) if q < 1 else scheme.rate(bound)
    statement = f"x_k converges to a fixed point of {equation}{'' if existence else ', if there is one'}"
    return Guarantee(
        proved=failed is None,
        theorem=f"{theorem}; {scheme.theorem}",
        statement=NOTHING if failed else statement,
        hypotheses=every,
        existence=existence or (box_advice if holds else NOT_GIVEN),
        rate="none" if failed else rate,
        failure=None if failed is None else str(failed),
    )


def judge_scheme(iteration: Iteration, scheme: Scheme) -> tuple[Hypothesis, ...]:
    """What the scheme asks of T."""
    return scheme.hypotheses(iteration.bound, proximal=iteration.minimises)

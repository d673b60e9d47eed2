"""What a run is entitled to claim: which theorem holds, with the numbers that met its hypotheses, or the one that failed."""

import dataclasses

from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.solvers.hypothesis import MET, STATED, UNMET, Hypothesis, show
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.scheme import Scheme

__all__ = ["Guarantee", "judge"]

NOTHING = "nothing is proved of this run"
NOT_GIVEN = "assumed; where a hypothesis fails, nothing proves that a fixed point exists"
CONTRACTION = "unique, as T is a contraction (Banach)"


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """The theorem a run rests on.

    ``proved`` says that every hypothesis is met; ``existence`` why a fixed point exists, or that it is assumed; ``rate``
    the speed that follows; ``failure`` the first hypothesis that failed, with its number; ``kind`` what the images tend to:
    if ``proved``, a "fixed point" of a map, a "critical point" of an objective, or its "global minimiser". The theorem speaks of
    the map in real arithmetic: in floating point the residual stops falling at the size of the rounding.
    """

    proved: bool
    theorem: str
    statement: str
    hypotheses: tuple[Hypothesis, ...]
    existence: str
    rate: str
    failure: str | None = None
    kind: str = "fixed point"

    @property
    def title(self) -> str:
        """ "proved", "proved given your statement" where a hypothesis is met on the user's word, or "not proved"."""
        if not self.proved:
            return "not proved"
        return "proved given your statement" if any(h.stated for h in self.hypotheses) else "proved"

    def broken(self, failure: str) -> "Guarantee":
        """The same claim withdrawn, because the run contradicted it."""
        return dataclasses.replace(self, proved=False, failure=failure, statement=NOTHING, existence=NOT_GIVEN, rate="none")

    def __str__(self) -> str:
        rows = [f"{self.title}: {self.theorem}", self.statement]
        marks = [STATED if h.stated else MET if h.met else UNMET for h in self.hypotheses]
        rows += [f"  {m} {h.name} = {show(h.value)} (must {h.bound})" for m, h in zip(marks, self.hypotheses, strict=True)]
        rows += [f"existence: {self.existence}", f"rate: {self.rate}"]
        return "\n".join(rows + ([f"failure: {self.failure}"] if self.failure else []))


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
        every = (*own, *scheme.hypotheses(iteration.bound, proximal=iteration.minimises))
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

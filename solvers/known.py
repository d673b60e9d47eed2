"""What is proved of the denoiser, the forward model and the data term, found once, before a solver is bound to them."""

import dataclasses
from fractions import Fraction

from pnp_lip.certificates.calculus import MapBound, round_up
from pnp_lip.solvers.hypothesis import Hypothesis, interval
from pnp_lip.solvers.maps import Box, Settings

__all__ = ["FIRM", "TYPICAL", "Known"]

FIRM = MapBound(Fraction(1), Fraction(1, 2))  # a prox, a resolvent; a denoiser that the user vouches for
TYPICAL = 1.9  # derived steps are this in units of 1/K, inside (0, 2/K)


@dataclasses.dataclass(frozen=True)
class Known:
    """What is proved, in numbers.

    ``denoiser`` bounds D, None when nothing is known; ``norm_upper`` bounds ‖A‖, and ``L`` is the bound of ∇f's Lipschitz
    constant that follows, None without one; ``scale`` is L or an estimate of it, from which free parameters are derived;
    ``μ`` bounds the strong convexity of f from below; ``hypotheses`` are those of every solver, and ``needs_norm`` asks for
    the bound of ‖A‖ where a solver uses one that is missing; ``record`` says how the numbers were found.
    """

    denoiser: MapBound | None
    L: Fraction | None
    μ: Fraction
    scale: float
    norm_upper: float | None
    hypotheses: tuple[Hypothesis, ...] = ()
    needs_norm: tuple[Hypothesis, ...] = ()
    record: Settings = dataclasses.field(default_factory=dict)

    @property
    def α(self) -> Fraction | None:
        """D's averagedness: 1 when D is only nonexpansive, None when not even that is known."""
        if self.denoiser is None or self.denoiser.lipschitz > 1:
            return None
        return Fraction(1) if self.denoiser.averagedness is None else self.denoiser.averagedness

    @property
    def default_step(self) -> float:
        """1.9/L, inside (0, 2/L)."""
        return TYPICAL / self.scale

    def step_below(self, step: float) -> Hypothesis:
        """0 < γ < 2/L."""
        return interval("`step`", step, self.L, "2/||A||^2")

    def firm_denoiser(self) -> Hypothesis:
        """D is firmly nonexpansive: α ≤ 1/2."""
        name, bound = "averagedness α of the denoiser", "be at most 1/2, that is D firmly nonexpansive"
        if self.α is None:
            return Hypothesis(name, "unknown", bound, False)
        theta = int(5000 / max(float(self.α), 0.5)) / 10000  # 1/(2α), rounded down
        advice = f"Pass relax(denoiser, {theta:g}) or firm(denoiser) as the denoiser."
        return Hypothesis(name, round_up(self.α), bound, self.α <= Fraction(1, 2), advice)

    @property
    def is_proximal(self) -> bool:
        """Whether D is the prox of a convex function."""
        return self.denoiser is not None and self.denoiser.proximal

    @property
    def range_of_denoiser(self) -> Box:
        """The box that holds D's range, where one is proved."""
        return None if self.denoiser is None else self.denoiser.box

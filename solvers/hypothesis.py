"""One hypothesis of a theorem, with the number that meets it or fails it."""

import dataclasses
import math
from fractions import Fraction

from pnp_lip.errors import InputError
from pnp_lip.fingerprint import is_plain

__all__ = ["MET", "STATED", "UNMET", "Hypothesis", "check_max_iter", "check_positive", "interval", "is_number",
           "positive", "show"]  # fmt: skip

MET, STATED, UNMET = "✓", "s", "✗"  # s: on the user's word


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What a theorem asks (``bound``, a verb phrase), what was found, and whether that suffices.

    ``advice`` is what to do when it fails; ``waived`` names what the user passed to run without it. A waived hypothesis
    stays unmet: nothing that rests on it is proved. ``stated``: it is met on the user's word, which examples did not refute.

    >>> print(Hypothesis("`step`", 2.5, "lie in (0, 2)", False, "Pass step=None to derive it."))
    `step` must lie in (0, 2); got 2.5. Pass step=None to derive it.
    """

    name: str
    value: float | str | None
    bound: str
    met: bool
    advice: str = ""
    waived: str | None = None
    stated: bool = False

    @property
    def allows_to_run(self) -> bool:
        """Whether it is met, or the user chose to run without it."""
        return self.met or self.waived is not None

    def __str__(self) -> str:
        return f"{self.name} must {self.bound}; got {show(self.value)}. {self.advice}".rstrip()


def interval(name: str, value: float, curvature: Fraction | None, limit: str) -> Hypothesis:
    """0 < γ < 2/K for the ``curvature`` K, None when no bound of it is known; ``limit`` is how 2/K is written."""
    if curvature is None:
        return Hypothesis(name, value, f"lie in (0, {limit}), for which no bound is known", False)
    end = f"{float(2 / curvature):.6g}" if curvature > 0 else "inf"
    inside = value > 0 and Fraction(value) * curvature < 2
    return Hypothesis(name, value, f"lie in (0, {limit}) = (0, {end})", inside, "Pass step=None to derive it.")


def is_number(value: object) -> bool:
    """Whether a value is a plain number, of which exact fractions can be made."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_plain(value)


def check_positive(name: str, value: float | None) -> None:
    """Raise InputError unless a parameter is a plain number, positive and finite, or None."""
    if value is not None and not (is_number(value) and 0 < value < math.inf):
        advice = "Pass None to derive it, or float(...)."
        raise InputError(f"`{name}` must be a plain number, positive and finite; got {value!r}. {advice}")


def check_max_iter(value: object) -> None:
    """Raise InputError unless a number of updates is a positive integer."""
    if type(value) is not int or value < 1:
        raise InputError(f"`max_iter` must be a positive integer; got {value}.")


def positive(name: str, value: float) -> Hypothesis:
    """A positive number, as the constructor has checked."""
    return Hypothesis(name, value, "be positive", value > 0)


def show(value: float | str | None) -> str:
    """A number with six digits, text as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

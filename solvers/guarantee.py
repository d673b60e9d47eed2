"""What a run is entitled to claim: the theorem, its hypotheses with the numbers that met them, or the one that failed."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Guarantee", "Hypothesis"]


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One hypothesis of a theorem: what it asks (``bound``, a verb phrase), what was found, and whether that suffices.

    ``advice`` is what to do when it fails.

    >>> print(Hypothesis("`step`", 2.5, "lie in (0, 2)", False, "Pass step=None to derive it."))
    `step` must lie in (0, 2); got 2.5. Pass step=None to derive it.
    """

    name: str
    value: float | str | None
    bound: str
    met: bool
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name} must {self.bound}; got {show(self.value)}. {self.advice}".rstrip()


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """The theorem a run rests on.

    ``proved`` says that every hypothesis is met; ``existence`` why a fixed point exists, or that it is assumed; ``rate``
    the speed that follows; ``failure`` the first hypothesis that failed, with its number. The theorem speaks of the map
    in real arithmetic: in floating point the residual stops falling at the size of the rounding.
    """

    proved: bool
    theorem: str
    statement: str
    hypotheses: tuple[Hypothesis, ...]
    existence: str
    rate: str
    failure: str | None = None

    def broken(self, failure: str) -> Guarantee:
        """The same claim withdrawn, because the run contradicted it."""
        return dataclasses.replace(self, proved=False, failure=failure, statement=NOTHING)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [f"{'proved' if self.proved else 'not proved'}: {self.theorem}", self.statement]
        rows += [f"  [{'x' if h.met else ' '}] {h.name} = {show(h.value)} (must {h.bound})" for h in self.hypotheses]
        rows += [f"existence: {self.existence}", f"rate: {self.rate}"]
        return "\n".join(rows + ([f"failure: {self.failure}"] if self.failure else []))


NOTHING = "nothing is proved of this run"


def show(value: float | str | None) -> str:
    """A number with six digits, text as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""What a run is entitled to claim: the theorem, its hypotheses with the numbers that met them, or the one that failed."""

from __future__ import annotations

import dataclasses

from pnp_lip.solvers.hypothesis import Hypothesis, show

__all__ = ["NOTHING", "Guarantee"]

NOTHING = "nothing is proved of this run"


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

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [f"{'proved' if self.proved else 'not proved'}: {self.theorem}", self.statement]
        rows += [f"  [{'x' if h.met else ' '}] {h.name} = {show(h.value)} (must {h.bound})" for h in self.hypotheses]
        rows += [f"existence: {self.existence}", f"rate: {self.rate}"]
        return "\n".join(rows + ([f"failure: {self.failure}"] if self.failure else []))

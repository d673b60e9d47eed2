"""What is known of an operator's norm: a proved upper bound, a lower bound with its witness, and how they came about."""

from __future__ import annotations

import dataclasses

__all__ = ["NormBound"]


@dataclasses.dataclass(frozen=True)
class NormBound:
    """lower ≤ ‖A‖ ≤ upper, where ``upper`` holds in real arithmetic for the stored weights, rounding accounted for.

    ``method`` names the argument that proves ``upper``; ``scope`` says for which paddings and image sizes it speaks;
    ``witness`` locates the lower bound (the frequency ω of a convolution's symbol; empty where there is none to tell);
    ``cells`` counts the pieces that the proof examined.
    """

    upper: float
    lower: float
    method: str
    scope: str
    witness: tuple[float, ...] = ()
    cells: int = 1

    @property
    def gap(self) -> float:
        """upper/lower − 1, how much the bound may overstate the norm; infinite when nothing is known from below."""
        if self.upper == self.lower:
            return 0.0
        return self.upper / self.lower - 1 if self.lower > 0 else float("inf")

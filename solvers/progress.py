"""A progress bar that ends when the residual is expected to reach its tolerance."""

import math
from types import TracebackType

__all__ = ["Bar", "expected_updates"]

FEWEST = 4  # updates that show how fast the residual falls


class Bar:
    """A bar of ``tqdm`` for an iteration of at most ``most`` updates, its length the one that the residuals let expect.

    ``name`` None shows nothing. A context manager; ``start`` updates were made before.
    """

    def __init__(self, name: str | None, *, tol: float, most: int, start: int = 0) -> None:
        from tqdm import tqdm

        self.tol, self.most = tol, most
        self.residuals: list[float] = []
        self.shown = tqdm(initial=start, desc=name, unit="it", disable=name is None)

    def update(self, residual: float) -> None:
        """One update more, after which the relative residual is this."""
        if self.shown.disable:
            return
        self.residuals.append(residual)
        expected = expected_updates(self.residuals, self.tol)
        made = self.shown.n + 1
        self.shown.total = None if expected is None else min(self.most, made + expected)
        self.shown.set_postfix_str(f"residual {residual:.2e}, ends at {self.tol:g}", refresh=False)
        self.shown.update(1)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shown.close()


def expected_updates(residuals: list[float], tol: float) -> int | None:
    """How many updates are still to come if the residual goes on falling as in the second half of these; None if it does not.

    >>> expected_updates([2.0**-k for k in range(11)], 2.0**-30)
    20
    """
    if residuals[-1] <= tol:
        return 0
    k = len(residuals) - 1
    least, before = min(residuals), min(residuals[: k // 2 + 1])
    if k + 1 < FEWEST or not 0 < least < before < math.inf or tol <= 0:
        return None
    return math.ceil(max(math.log(least / tol), 0.0) * (k - k // 2) / math.log(before / least))

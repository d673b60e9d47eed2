"""Progress bars: of an iteration, which ends when the residual is expected to reach its tolerance, and of counted steps."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

__all__ = ["Bar", "advance", "counted", "expected_updates", "hidden", "showing", "stepwise"]

T = TypeVar("T")

FEWEST = 4  # updates that show how fast the residual falls
SHOWN: contextvars.ContextVar[bool] = contextvars.ContextVar("SHOWN", default=False)
ADVANCE: contextvars.ContextVar[Callable[[float], None] | None] = contextvars.ContextVar("ADVANCE", default=None)


@contextlib.contextmanager
def showing(on: bool = True) -> Iterator[None]:
    """Everything that takes long shows a bar here, searches included, if ``on``; elsewhere only what is asked to."""
    token = SHOWN.set(on or SHOWN.get())
    try:
        yield
    finally:
        SHOWN.reset(token)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Nothing shows a bar here: what calls it has one of its own."""
    token = SHOWN.set(False)
    try:
        yield
    finally:
        SHOWN.reset(token)


class Bar:
    """A bar of ``tqdm`` for an iteration of at most ``most`` updates, its length the one that the residuals let expect.

    It is shown if ``progress`` or inside ``showing``. A context manager; ``start`` updates were made before.
    """

    def __init__(self, name: str, *, progress: bool, tol: float, most: int, start: int = 0) -> None:
        from tqdm import tqdm

        self.tol, self.most = tol, most
        self.residuals: list[float] = []
        on = progress or (SHOWN.get() and ADVANCE.get() is None)  # one bar at a time
        self.shown = tqdm(initial=start, desc=name, unit="it", disable=not on)

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

    From a quarter of a run on, the whole is then known within a factor of two (deblurring, three solvers).

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


def counted(steps: Iterable[T], name: str, total: int) -> Iterable[T]:
    """The steps, with a bar inside ``showing``."""
    from tqdm import tqdm

    shown: Iterable[T] = tqdm(steps, desc=name, total=total, unit="step", disable=not SHOWN.get())
    return shown


@contextlib.contextmanager
def stepwise(name: str, total: int) -> Iterator[None]:
    """A bar for about ``total`` calls that ``advance`` in parts, inside ``showing``."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with tqdm(desc=name, total=total, bar_format=form, disable=not SHOWN.get()) as shown:
        token = ADVANCE.set(lambda part: shown.update(min(part, total - shown.n)))
        try:
            yield
        finally:
            ADVANCE.reset(token)
            shown.update(total - shown.n)


def advance(part: float) -> None:
    """This ``part`` of a step is done."""
    report = ADVANCE.get()
    if report is not None:
        report(part)

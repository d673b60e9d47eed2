"""What an attack is: a claim of the package beside the truth, and the verdict; and truths that owe nothing to the package."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import conftest  # noqa: F401 (finds the package when this runs as a script)
import deepinv.physics as dp
import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.solvers import Guarantee, Result

SEED = 26
NAMED = (CertificateError, GuaranteeError, InputError, ShapeError)


class Verdict(enum.Enum):
    TRUE = "the claim is true"
    REFUSED = "nothing was claimed"
    STATED = "claimed on the user's word, and it says so"
    FALSE_PASS = "the claim is false"
    HONEST_REFUSED = "an honest thing was refused"
    UNNAMED = "an error of no name of ours"

    @property
    def held(self) -> bool:
        return self in (Verdict.TRUE, Verdict.REFUSED, Verdict.STATED)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was claimed, what is true, and the verdict."""

    verdict: Verdict
    claimed: float | str
    true: float | str
    what: str = ""

    def __str__(self) -> str:
        numbers = (f"{n:.9g}" if isinstance(n, float) else str(n) for n in (self.claimed, self.true))
        return f"{self.verdict.name}: claimed {{}}, true {{}} {self.what}".format(*numbers).rstrip()


def refusal(error: Exception, honest: bool, what: str = "") -> Outcome:
    """The outcome of an attempt that ended in an error."""
    text = f"{type(error).__name__}: {str(error)[:160]}"
    python = isinstance(error, AttributeError) and "no setter" in str(error)  # Python itself refuses the attempt
    if not isinstance(error, NAMED) and not python:
        return Outcome(Verdict.UNNAMED, text, "", what)
    return Outcome(Verdict.HONEST_REFUSED if honest else Verdict.REFUSED, text, "", what)


def at_most(claim: Callable[[], float], truth: Callable[[], float], *, honest: bool = False, slack: float = 1e-9, what: str = ""):
    """An attack on an upper bound: ``claim`` may raise, ``truth`` is a number that some input attains."""
    try:
        claimed = float(claim())
    except Exception as error:
        return refusal(error, honest, what)
    try:
        true = float(truth())
    except Exception as error:
        return Outcome(Verdict.TRUE, claimed, f"does not run ({type(error).__name__})", what)
    fits = true <= claimed * (1 + slack) + 1e-300  # also False when one of them is NaN
    return Outcome(Verdict.TRUE if fits or math.isinf(claimed) else Verdict.FALSE_PASS, claimed, true, what)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several questions about one thing: the first that did not hold."""
    found = list(outcomes)
    order = (Verdict.FALSE_PASS, Verdict.UNNAMED, Verdict.HONEST_REFUSED, Verdict.STATED, Verdict.TRUE, Verdict.REFUSED)
    return min(found, key=lambda outcome: order.index(outcome.verdict))


def judged(run: Callable[[], Result | Guarantee], *, lie: str) -> Outcome:
    """A run or an examination that rests on a lie, which must not be titled "proved"."""
    try:
        found = run()
    except Exception as error:
        return refusal(error, False, lie)
    title = (found.guarantee if isinstance(found, Result) else found).title
    verdicts = {"proved": Verdict.FALSE_PASS, "proved given your statement": Verdict.STATED}
    return Outcome(verdicts.get(title, Verdict.REFUSED), title, lie)


def table(rows: Iterable[tuple[str, Outcome, bool]], *, new: bool = True) -> str:
    """A markdown table: of each kind the attacks, how many held, of these on the user's word, and how many are new."""
    counts: dict[str, Counter[str]] = {}
    for kind, outcome, is_new in rows:
        counts.setdefault(kind, Counter()).update(
            {
                "attacks": 1,
                "held": int(outcome.verdict.held),
                "stated": int(outcome.verdict is Verdict.STATED),
                "new": int(is_new),
            }
        )
    names = ["attacks", "held", "stated", *(["new"] if new else [])]
    counts["all"] = sum(counts.values(), Counter())
    head = ["| kind | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    return "\n".join(head + [f"| {kind} | " + " | ".join(str(c[n]) for n in names) + " |" for kind, c in counts.items()])


def matrix_of(f: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix of a linear map of images, column by column, in float64; complex values as pairs."""
    n = math.prod(shape)
    with torch.no_grad():
        found: Any = f(torch.eye(n, dtype=dtype).reshape(n, *shape))
        parts = [found] if isinstance(found, Tensor) else list(found)
        parts = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
        return torch.cat([part.reshape(n, -1) for part in parts], 1).double().T


def spectral_norm(matrix: Tensor) -> float:
    """‖M‖₂, for entries of any size."""
    top = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not 0 < top < math.inf:
        return top
    scale = 2.0 ** -math.frexp(top)[1]
    return float(torch.linalg.matrix_norm(matrix * scale, 2)) / scale


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian at one image x (1, ...), (outputs, inputs)."""
    with torch.enable_grad():
        found: Any = torch.autograd.functional.jacobian(f, x.detach(), vectorize=True)
    return found.reshape(-1, x.numel()).detach()


def ratio_reached(f: Callable[[Tensor], Tensor], points: Iterable[Tensor], step: float = 1e-2) -> float:
    """max ‖f(x + hv) − f(x)‖/(h‖v‖) over the points, v the leading direction of finite differences: attained, as executed."""
    best = 0.0
    with torch.no_grad():
        for x in points:
            shape, n = x.shape[1:], x[0].numel()
            moved = (x + step * torch.eye(n, dtype=x.dtype).reshape(n, *shape)).split(1)
            base = f(x)
            columns = torch.stack([(f(m) - base).flatten() for m in moved], 1).double() / step
            if not bool(torch.isfinite(columns).all()):
                return math.nan
            v = torch.linalg.svd(columns, full_matrices=False)[2][0].reshape(1, *shape).to(x.dtype)
            for h in (step, -step, 100 * step):
                best = max(best, float((f(x + h * v) - base).double().norm() / (abs(h) * v.double().norm())))
    return best


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Points at which slopes are looked for: small noise, large noise, nought."""
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return [0.1 * noise, 3 * noise, torch.zeros_like(noise)]


def call(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module as a map of images alone: with a noise level where it takes one."""

    def f(x: Tensor) -> Tensor:
        try:
            return module(x, torch.tensor([0.1], dtype=x.dtype))
        except TypeError:
            return module(x)

    return f


class Draw:
    """Random choices of one case, all from its seed."""

    def __init__(self, case: int) -> None:
        self.rng = np.random.default_rng([SEED, case])
        torch.manual_seed(int(self.rng.integers(2**31)))

    def one_of(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def integer(self, low: int, high: int) -> int:
        """low ≤ n ≤ high."""
        return int(self.rng.integers(low, high + 1))

    def integers(self, low: int, high: int, count: int = 2) -> tuple[int, ...]:
        return tuple(self.integer(low, high) for _ in range(count))

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def log_uniform(self, low: float, high: float) -> float:
        """A number whose logarithm to base 10 is uniform between the two."""
        return 10.0 ** self.uniform(low, high)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape)).to(dtype)


def kernel(draw: Draw, out: int, into: int, rows: int, columns: int) -> Tensor:
    """A kernel in float64 of one of many characters."""
    w = draw.tensor(out, into, rows, columns)
    kind = draw.integer(0, 8)
    if kind == 0:  # a single tap
        w[..., torch.arange(rows * columns).reshape(rows, columns) != draw.integer(0, rows * columns - 1)] = 0
    elif kind == 1:
        w = w.abs()
    elif kind == 2:  # of constant norm: every output channel a shifted copy of an input channel
        w.zero_()
        for o in range(out):
            w[o, o % into, draw.integer(0, rows - 1), draw.integer(0, columns - 1)] = 1 if o < into else 0
    elif kind == 3:
        w = w.sign()
    elif kind == 4:  # many zeros, and numbers of very different size
        w = w * torch.from_numpy(draw.rng.random(w.shape) < 0.3) * 10 ** (2 * draw.tensor(*w.shape))
    elif kind == 5:  # a rank-one wave, whose norm sits at one frequency
        a, b = torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
        wave = torch.cos(draw.uniform(0, math.pi) * a[:, None] + draw.uniform(0, math.pi) * b)
        w = w[..., :1, :1] * wave
    elif kind == 6 and draw.chance(0.3):
        w.zero_()
    return w


class Dense(dp.LinearPhysics):
    """y = Mx, by a matrix."""

    def __init__(self, matrix: Tensor, size: tuple[int, ...]) -> None:
        super().__init__(img_size=size)
        self.size = size
        self.register_buffer("matrix", matrix)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return (y @ self.matrix).reshape(-1, *self.size)

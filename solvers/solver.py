"""The base of every solver: settings checked once, and the way of the data: examine, bind, judge, iterate."""

import abc
import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from pnp_lip.errors import GuaranteeError, InputError
from pnp_lip.protocols import DenoiserLike, PhysicsLike
from pnp_lip.solvers.checkpoint import Checkpoint, origin_of
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares, require_prox
from pnp_lip.solvers.examiner import examine, examine_code, verify_dual_prox, verify_prox
from pnp_lip.solvers.fixed_map import fixed_map
from pnp_lip.solvers.guarantee import Guarantee, judge
from pnp_lip.solvers.hypothesis import check_max_iter, check_positive
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.krasnoselskii_mann import KrasnoselskiiMann
from pnp_lip.solvers.loop import Callback, Monitor, iterate
from pnp_lip.solvers.maps import Box, Maps, Settings, check_box, check_data, check_like, check_settings, starting_point
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.scheme import Scheme, averagedness_of
from pnp_lip.solvers.witness import Witness

__all__ = ["Prepared", "Solver"]

GUARANTEES = ("require", "assume", "report")
FAR = 3.0  # times the box: images of this mean size are not inside it but for a mistaken unit
BOX = "assumed; pass box=(0, 1) to have it proved"
BOX_ELSEWHERE = "assumed; DavisYin with box=(0, 1) to have it proved"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A solver bound to data: its maps, its iteration, the guarantee, the first image, and what all this rests on."""

    maps: Maps
    iteration: Iteration
    guarantee: Guarantee
    x: Tensor
    settings: Settings
    witness: Witness


@dataclasses.dataclass(frozen=True, eq=False)
class Solver(abc.ABC):
    """Settings shared by every solver; a subclass binds the fixed-point map T and the theorem that makes it converge.

    ``denoiser`` D(x, σ), or any callable (x, σ) ↦ x; ``sigma`` its noise level on the scale of [0, 1], None for the
    denoiser's own default; ``step`` γ, None to derive it from the certified bound; ``box`` = (low, high) constrains the
    image; ``data_term`` f, least squares by default; ``scheme`` how T is iterated, the plain iteration by default; ``tol``
    stops an image once ‖v − T v‖ ≤ tol ‖v‖.

    Raises InputError for a setting out of its range.
    """

    denoiser: DenoiserLike
    _: dataclasses.KW_ONLY
    sigma: float | Tensor | None = None
    step: float | None = None
    box: Box = None
    data_term: DataTerm = dataclasses.field(default_factory=LeastSquares)
    scheme: Scheme = dataclasses.field(default_factory=KrasnoselskiiMann)
    tol: float = 1e-5

    theorem: ClassVar[str]
    equation: ClassVar[str]
    uses_prox: ClassVar[bool] = False  # of f; otherwise ∇f, whose Lipschitz constant must then be known
    takes_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.denoiser):
            raise InputError(f"`denoiser` must be callable as denoiser(x, sigma); got {type(self.denoiser).__name__}.")
        if not isinstance(self.scheme, Scheme):
            raise InputError(f"`scheme` must be a scheme such as Anderson(); got {self.scheme!r}.")
        check_positive("step", self.step)
        check_settings(self.tol, self.sigma, self.box)
        if self.box is not None and not self.takes_box:
            raise InputError(
                f"{type(self).__name__} takes no box, because clipping would cost the denoiser its firmness. Use DavisYin."
            )
        if self.uses_prox:
            advice = "Use ForwardBackward, RED or PrimalDual, which do not need it."
            require_prox(self.data_term, type(self).__name__, advice)

    @abc.abstractmethod
    def bind(self, known: Known) -> Iteration:
        """The fixed-point map T with its bound, what its theorem asks, and the parameters, given or derived."""

    def solve(
        self,
        y: Tensor,
        physics: PhysicsLike,
        *,
        x0: Tensor | None = None,
        reference: Tensor | None = None,
        max_iter: int = 1000,
        guarantee: str = "require",
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> Result:
        """Reconstruct the images behind ``y``.

        ``y`` (B, ...) are the data of ``physics``, a deepinv linear physics or any object with A and A_adjoint; ``x0``
        (B, C, H, W) the start, by default a scaled Aᵀy; ``reference`` the true images, for the PSNR curve; ``max_iter``
        updates at most; ``guarantee`` "require" refuses to run where no theorem applies, "assume" takes the denoiser as
        firmly nonexpansive on your word, "report" runs in any case: the result says what was proved. ``progress`` shows a
        bar; ``callback(iteration, x, relative_residuals)`` is called after every update; ``checkpoint`` is a file from
        which an interrupted run goes on.

        Raises InputError or ShapeError for unusable data, CertificateError for a denoiser that is not certified and
        GuaranteeError when no convergence theorem applies, unless ``guarantee`` allows it.
        """
        check_max_iter(max_iter)
        with torch.no_grad(), evaluating(self.denoiser):
            p = self.prepare(y, physics, x0=x0, guarantee=guarantee)
            if reference is not None:
                reference = check_like("reference", reference, p.x)
            store = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
            origin = None if store is None else origin_of(fields_of(self), p.maps, x0, p.x, p.settings)
            name = type(self).__name__ if progress else None
            monitor = Monitor(self.tol, max_iter, p.guarantee.proved, reference, name, callback, store, origin)
            state = iterate(p.iteration, p.maps, self.scheme, p.x, monitor)
            if p.guarantee.proved:
                state.broken = p.witness.changed(p.maps, self.denoiser) or state.broken
            return state.result(p.guarantee, p.settings, p.iteration, p.maps)

    def check(self, y: Tensor, physics: PhysicsLike) -> Guarantee:
        """As ``require``, but that no theorem applies is reported, and not refused."""
        return self.require(y, physics, guarantee="report")

    def require(self, y: Tensor, physics: PhysicsLike, *, guarantee: str = "require") -> Guarantee:
        """The guarantee that ``solve`` would run under, after one pass of the denoiser; raises what ``solve`` would at once."""
        with torch.no_grad(), evaluating(self.denoiser):
            p = self.prepare(y, physics, guarantee=guarantee)
            p.maps.D(p.x)  # which refuses, say, other channels or another dtype
            return p.guarantee

    def prepare(self, y: Tensor, physics: PhysicsLike, *, x0: Tensor | None = None, guarantee: str = "require") -> Prepared:
        """Examine, bind and judge: everything before the first update. Raises what ``solve`` raises."""
        start, x = starts(y, physics, x0, guarantee, self.box, self.data_term)
        prior = fixed_map(self.denoiser)
        maps = Maps(y, physics, prior, self.sigma, self.data_term.fitted(y), self.box, tuple(x.shape[1:]))
        known, witness = examine(maps, start, self.denoiser, guarantee)
        iteration = self.bind(known)
        tested = list(examine_code(self, self.scheme, self.data_term))
        tested += [verify_prox(maps, start, iteration.parameters["step"])] if self.uses_prox else []
        if "dual_step" in iteration.parameters:
            tested += verify_dual_prox(maps, start, iteration.parameters["dual_step"])
        advice = BOX if self.takes_box else BOX_ELSEWHERE
        judged = judge(
            iteration, self.scheme, (*known.hypotheses, *tested),
            theorem=self.theorem, equation=self.equation, box_advice=advice, maps=maps, x=start,
        )  # fmt: skip
        refuse(self, judged, guarantee)
        return Prepared(maps, iteration, judged, maps.project(x), describe(self, known, iteration, y), witness)


def starts(y: Tensor, physics: PhysicsLike, x0: Tensor | None, guarantee: str, box: Box, term: DataTerm) -> tuple[Tensor, Tensor]:
    """The default start and the one of this run, after everything that can be said of the arguments at once."""
    if guarantee not in GUARANTEES:
        raise InputError(f"`guarantee` must be one of {GUARANTEES}; got {guarantee!r}.")
    check_data(y)
    check_box(box, y.dtype)
    term.check(y)
    start = starting_point(term.linearised(y), physics)
    x = start if x0 is None else check_like("x0", x0, start)
    warn_of_units(box, start)
    return start, x


def refuse(solver: object, judged: Guarantee, guarantee: str) -> None:
    """Raise GuaranteeError for the first hypothesis without which ``guarantee`` does not allow to run."""
    refused = next((h for h in judged.hypotheses if not h.allows_to_run), None)
    if guarantee != "report" and refused is not None:
        raise GuaranteeError(f"{type(solver).__name__}: {refused}")


def warn_of_units(box: Box, start: Tensor) -> None:
    """Say so when the data are those of images far outside of the box, which then cuts everything off."""
    if box is None:
        return
    size, reach = float(start.abs().mean()), max(map(abs, box))
    if size > FAR * reach:
        warnings.warn(
            f"the data are those of images of about {size:.3g}, far outside of box={box}: divide them and the noise level "
            "by 255 if they are 8-bit levels, or rescale them otherwise.",
            stacklevel=5,
        )


def fields_of(solver: Solver) -> dict[str, object]:
    """What was chosen, by name."""
    return {"solver": type(solver).__name__} | {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}


def describe(solver: Solver, known: Known, iteration: Iteration, y: Tensor) -> Settings:
    """Every parameter of the run in plain data."""
    sigma = solver.sigma.tolist() if isinstance(solver.sigma, Tensor) else solver.sigma
    plain = {k: v for k, v in fields_of(solver).items() if v is None or isinstance(v, (bool, int, float, str))}
    return {
        **plain,
        "denoiser": type(solver.denoiser).__name__,
        "sigma": sigma,
        **iteration.parameters,
        "step_derived": solver.step is None,
        "box": solver.box,
        "scheme": repr(solver.scheme),
        "data_term": type(solver.data_term).__name__,
        **known.record,
        "map_averagedness": averagedness_of(iteration.bound),
        "dtype": str(y.dtype).removeprefix("torch."),
    }


@contextlib.contextmanager
def evaluating(denoiser: object) -> Iterator[None]:
    """The denoiser in evaluation mode, put back afterwards."""
    modules = [m for m in denoiser.modules() if m.training] if isinstance(denoiser, nn.Module) else []
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m in modules:
            m.training = True

"""Large images: what can be solved, under which guarantee, and how the image is cut."""

import copy
import dataclasses
import hashlib
import math
import multiprocessing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import round_down, round_up
from pnp_lip.denoisers.exact_tiling import network_of
from pnp_lip.denoisers.tiling import windows
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.fingerprint import hash_tensor, is_plain
from pnp_lip.large.jobs import Averaged, Descent, Job, Objective, zarr
from pnp_lip.large.run import LargeResult, Run
from pnp_lip.operators import Blur
from pnp_lip.operators.blur_windows import WINDOWED_PADDINGS, ArrayLike, BlurWindows
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import Denoising, ForwardBackward, Guarantee, KrasnoselskiiMann, LeastSquares, Variational
from pnp_lip.solvers.descent import SHARE
from pnp_lip.solvers.examiner import examine_code, judge_certificate, judge_denoiser
from pnp_lip.solvers.guarantee import judge
from pnp_lip.solvers.hypothesis import Hypothesis, check_max_iter
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import BOX, refuse

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["solve"]

LargeSolver: TypeAlias = ForwardBackward | Denoising | Variational


def solve(
    solver: LargeSolver,
    y: ArrayLike,
    physics: Blur | None = None,
    *,
    out: str | Path,
    max_iter: int = 1000,
    chunk: int | tuple[int, int] = 2048,
    client: "Client | None" = None,
    progress: bool = False,
) -> LargeResult:
    """``solver.solve(y, physics)`` for one image that need not fit into memory.

    x_0 = P_C y, x_{k+1} = P_C D(x_k − γAᵀ(Ax_k − y)) for ``ForwardBackward`` and a ``Blur`` with the padding "zeros", "valid"
    (where y is extended by its edge) or "circular"; x = D(y) for ``Denoising``, without physics. ``Variational`` with a
    RidgePotential minimises ½‖Ax − y‖² + λR_σ(x), A such a blur or the identity, by Nesterov's steps, of which each hundredth
    is tested (``Descent``); the result is the last x that was accepted.

    Each chunk is computed from a window that shows all it depends on, and the window ends where the image does: the result is
    that of the map on the whole image, for which the certificate of D or R and ‖A‖ ≤ Σ|k| are proved, for every ``chunk``: to
    the bit where ``GradientFlowDenoiser.tiled`` is, and to rounding with a potential. γ = 1.9/(Σ|k|)² by default.

    ``y`` (H, W) or (C, H, W), floating-point: a Zarr, Dask or numpy array. ``out`` a folder on a disk that all workers
    see, which holds the state after each chunk: called again, a killed run goes on where it was and ends with the same bytes,
    and a finished one with a larger ``max_iter`` or smaller ``tol`` goes on. ``chunk`` rows and columns that are computed
    at once, on the ``client``'s workers (``distributed.Client``) or, without one, one after the other in this process.

    Raises what ``Solver.solve`` raises; InputError for what does not run here, and for an ``out`` of another run.
    Source: as ``ForwardBackward`` and ``Variational``; Young's inequality for ‖A‖ ≤ Σ|k|; Nesterov (1983; 2004, section 2.2).
    """
    check_max_iter(max_iter)
    zarr()
    reach, wraps = reach_of(solver)
    prior = copy.deepcopy(prior_of(solver)).cpu().eval()
    solver = dataclasses.replace(solver, **{"potential" if isinstance(solver, Variational) else "denoiser": cast(Any, prior)})
    shape = check(solver, y, physics, chunk)
    refuse_forks(client)
    blur = None if physics is None else BlurWindows.of(physics)
    tile = (chunk, chunk) if isinstance(chunk, int) else chunk
    axes = [windows(n, t, reach, wraps) for n, t in zip(shape[1:], tile, strict=True)]
    spans = tuple((rows, columns) for rows in axes[0] for columns in axes[1])
    norm = 1.0 if blur is None else blur.norm_upper
    if not norm > 0:
        raise InputError("the forward model is zero, so the data say nothing about the image.")
    shared = (Path(out).absolute(), prior, solver.sigma)
    if isinstance(solver, Variational):
        judged, parameters = judge_objective(solver, blur, norm, shape)
        L, m = parameters["lipschitz"], parameters["convexity"]
        J = Objective(solver.weight, L, m, norm, math.prod(shape))
        job: Job = Descent(*shared, SHARE / L, solver.box, blur, spans, J)
        tol = solver.tol if solver.accuracy is None else solver.accuracy * m
    else:
        judged, parameters = judge_map(solver, physics, norm, shape)
        job = Averaged(*shared, parameters["step"], solver.box, blur, spans)
        tol = math.inf if isinstance(solver, Denoising) else solver.tol
    kept = tuple(len(seen[given]) for given, seen in (axis[0] for axis in axes))
    run = Run(job, (*y.shape[:-2], *shape[1:]), kept, str(dtype_of(prior, physics)).removeprefix("torch."))
    run.begin(y, origin_of(job, solver, shape, kept))
    run.iterate(tol, 1 if isinstance(solver, Denoising) else max_iter, client, progress)
    return run.result(tol, judged, parameters)


def refuse_forks(client: "Client | None") -> None:
    """Raises InputError for workers in which torch would wait forever."""
    kinds = {} if client is None else client.run(lambda: type(multiprocessing.current_process()).__name__, on_error="ignore")
    if "ForkProcess" in kinds.values():
        raise InputError(
            "the client's workers are forks, and torch waits forever in a fork of a process in which it used several threads; "
            "leave Dask's setting distributed.worker.multiprocessing-method at spawn."
        )


def check(solver: LargeSolver, y: ArrayLike, physics: Blur | None, chunk: int | tuple[int, int]) -> tuple[int, int, int]:
    """The image's shape (C, H, W). Raises InputError or ShapeError for what does not run here."""
    scheme = KrasnoselskiiMann() if isinstance(solver, Variational) else solver.scheme
    if (scheme, solver.data_term) != (KrasnoselskiiMann(), LeastSquares()):
        raise InputError("large images are solved by the plain scheme with LeastSquares(); leave out `scheme` and `data_term`.")
    if isinstance(y, Tensor) or not hasattr(y, "dtype"):
        raise ShapeError(f"`y` must be a Zarr, Dask or numpy array; got {type(y).__name__}.")
    sides = (chunk, chunk) if isinstance(chunk, int) else tuple(chunk)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise InputError(f"`chunk` is a number of rows and columns, or one for both, at least 1; got {chunk!r}.")
    if not np.issubdtype(y.dtype, np.floating):
        raise ShapeError(f"`y` must hold floating-point numbers, images on [0, 1]; got {y.dtype}.")
    if len(y.shape) not in (2, 3) or 0 in y.shape:
        raise ShapeError(f"`y` must have the shape (H, W) or (C, H, W); got {tuple(y.shape)}.")
    channels, height, width = (1, *y.shape)[-3:]
    shape = (channels, height, width)
    if isinstance(solver, Denoising):
        if physics is not None:
            raise InputError("Denoising takes no physics; leave it out.")
    elif isinstance(solver, Variational) and physics is None:
        pass
    elif type(physics) is not Blur or physics.padding not in WINDOWED_PADDINGS:
        given = f"padding {physics.padding!r}" if type(physics) is Blur else type(physics).__name__
        raise InputError(f"large images need a Blur whose padding is one of {', '.join(WINDOWED_PADDINGS)}; got {given}.")
    elif tuple(physics.data_size) != shape:
        raise ShapeError(f"the data of this blur have the shape {tuple(physics.data_size)}; got {tuple(y.shape)}.")
    else:
        shape = physics.img_size
    prior = prior_of(solver)
    with torch.no_grad():  # it refuses other channels, another noise level and another dtype
        prior(torch.zeros(1, shape[0], 8, 8, dtype=dtype_of(prior, physics)), solver.sigma)
    return shape


def prior_of(solver: LargeSolver) -> nn.Module:
    """Its denoiser or potential."""
    return cast(nn.Module, solver.potential if isinstance(solver, Variational) else solver.denoiser)


def reach_of(solver: LargeSolver) -> tuple[int, bool]:
    """How far away a pixel can influence another, and whether across the image's ends.

    Raises InputError for solvers that do not run here, and for priors of which that is not known.
    """
    if type(solver) not in (ForwardBackward, Denoising, Variational):
        name = type(solver).__name__
        raise InputError(f"large images are solved by ForwardBackward, Denoising or Variational; got {name}.")
    if isinstance(solver, Variational):
        if type(solver.potential) is not RidgePotential:
            raise InputError(f"large images take a RidgePotential, or a denoiser; got {type(solver.potential).__name__}.")
        return solver.potential.weight.shape[-1] - 1, solver.potential.padding_mode == "circular"
    network = network_of(solver.denoiser)
    if network.padding_mode != "zeros":
        raise InputError(f"large images need a denoiser with zero padding; got {network.padding_mode} padding.")
    return sum(network.reaches), False


def dtype_of(prior: nn.Module, physics: Blur | None) -> torch.dtype:
    """The dtype of the run: that of the operator, or of the prior's weights."""
    return next(prior.parameters()).dtype if physics is None else physics.psf.dtype


def bounded(norm: float, blur: object) -> Hypothesis:
    """The bound of A."""
    return Hypothesis("‖A‖", norm, "be bounded (by the sum of |k|)" if blur else "be bounded (A is the identity)", True)


def judge_map(
    solver: ForwardBackward | Denoising, physics: Blur | None, norm: float, shape: tuple[int, int, int]
) -> tuple[Guarantee, dict[str, float]]:
    """The guarantee of the solver for an image of this shape, with ‖A‖ ≤ ``norm``, and the numbers of its map.

    Raises CertificateError for a denoiser without a certificate, GuaranteeError where no theorem applies.
    """
    certificate = certify(solver.denoiser)  # type: ignore[arg-type]  # whatever else it is, it refuses
    certificate.require_nonexpansive()
    bound, nonexpansive = judge_denoiser(certificate, "", "require")
    like = torch.zeros(()).expand(1, *shape)  # of the image's shape, without its memory
    L = solver.data_term.lipschitz_upper(norm)
    code = examine_code(solver, solver.scheme, solver.data_term)
    shared = (nonexpansive, *judge_certificate(certificate, like), bounded(norm, physics), *code)
    iteration = solver.bind(Known(bound, Fraction(L), Fraction(0), L, norm, shared))
    maps = Maps(like, physics, solver.denoiser, solver.sigma, solver.data_term, solver.box, shape)  # type: ignore[arg-type]
    judged = judge(
        iteration, solver.scheme, shared, theorem=solver.theorem, equation=solver.equation, box_advice=BOX, maps=maps, x=like
    )
    refuse(solver, judged, "require")
    return judged, dict(iteration.parameters)


def judge_objective(
    solver: Variational, blur: BlurWindows | None, norm: float, shape: tuple[int, int, int]
) -> tuple[Guarantee, dict[str, float]]:
    """The guarantee of the objective for an image of this shape, with ‖A‖ ≤ ``norm``, and its L and m.

    Raises InputError for a potential without a certificate, GuaranteeError where no theorem applies.
    """
    certificate, curvature = solver.bound_potential()
    if certificate is None or curvature is None:
        raise InputError("large images need a potential with a certificate, and this one has been changed; see certify().")
    λ, like = Fraction(solver.weight), torch.zeros(()).expand(1, *shape)
    text = f"[{curvature.lower:.6g}, {curvature.upper:.6g}]"
    hypotheses = (
        bounded(norm, blur),
        *examine_code(solver, solver.data_term),
        Hypothesis("curvature of the potential", text, "be bounded, by certificate", True),
        *judge_certificate(certificate, like),
    )
    L = round_up(Fraction(norm) ** 2 + λ * Fraction(max(curvature.upper, curvature.rho)))
    m = round_down((1 if blur is None else 0) - λ * Fraction(curvature.rho))
    judged = solver.judge(hypotheses, m, "μ_f − λρ", L)
    refuse(solver, judged, "require")
    return judged, {"lipschitz": L, "convexity": m, "weight": solver.weight}


def origin_of(job: Job, solver: LargeSolver, shape: tuple[int, ...], chunk: tuple[int, ...]) -> dict[str, str]:
    """What must be the same where a run goes on, by name; the data have a hash of their own."""
    digest = hashlib.sha256()
    for path, part in job.prior.named_modules():
        plain = sorted((name, repr(v)) for name, v in vars(part).items() if is_plain(v) or isinstance(v, tuple))
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        digest.update(repr((path, type(part).__name__, plain, [(name, hash_tensor(t)) for name, t in tensors])).encode())
    sigma = None if job.sigma is None else torch.as_tensor(job.sigma).tolist()
    blur = job.blur
    return {
        job.kind: digest.hexdigest(),
        "psf": "none" if blur is None else hash_tensor(blur.psf),
        "padding": "none" if blur is None else repr((blur.shift, blur.data_size, blur.wrap)),
        "settings": repr((type(solver).__name__, sigma, job.gamma, job.box, *job.others)),
        "shape": repr(shape),
        "chunk": repr(chunk),
    }

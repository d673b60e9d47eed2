"""Generated attacks on what runs: certificates and weights tampered with, honest runs, and runs in which one thing is a lie."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv.optim.data_fidelity as fidelity
import torch
from attacks import Dense, Draw, Outcome, Verdict, judged, matrix_of, refusal, spectral_norm
from torch import Tensor, nn

from pnp_lip import check, save_denoiser
from pnp_lip.certificates import MapBound, Proof, rule
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, RelaxedDenoiser
from pnp_lip.layers import GradientFlowConv2d, Identity, project
from pnp_lip.operators import Blur, ParallelBeamTomography
from pnp_lip.solvers import (
    ADMM,
    FISTA,
    RED,
    Anderson,
    Checkpoint,
    DavisYin,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    ProximalRED,
    Result,
    Solver,
    UserFidelity,
    WeightedLeastSquares,
)

SHAPE = (1, 8, 8)
Lie = Callable[[Draw, "Problem"], None]


# ---- certificates and weights on disk


@functools.cache
def saved(mode: str, layers: int) -> tuple[bytes, str]:
    """An honest file of weights and its certificate."""
    torch.manual_seed(layers)
    net = GradientFlowDenoiser(hidden_channels=3, kernel_size=3, dilations=(1,) * layers, padding_mode=mode)
    for layer in net.layers:
        layer.activation.shift.data.normal_(std=0.1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.safetensors"
        save_denoiser(project(net), path)
        return path.read_bytes(), path.with_suffix(".certificate.json").read_text()


def checked(weights: bytes, certificate: str) -> list[str]:
    """What the independent checker finds wrong; a file that it cannot read is refused, too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.safetensors"
        path.write_bytes(weights)
        (Path(folder) / "d.json").write_text(certificate)
        try:
            return check.check(path, Path(folder) / "d.json")
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
            return [f"unreadable: {type(error).__name__}: {error}"]


def lower(text: str | None, factor: float) -> str:
    return (float.fromhex(text or "0x1p0") * factor).hex()


def tamper(draw: Draw, weights: bytes, record: dict[str, Any]) -> tuple[bytes, dict[str, Any], str]:
    """One claim made stronger than what is true, or one byte of the weights changed."""
    layer, bound, factor = draw.one_of(*record["layers"]), record["bound"], draw.uniform(0.2, 0.95)
    length = int.from_bytes(weights[:8], "little")
    kinds: dict[str, Callable[[], Any]] = {
        "upper": lambda: layer["norm"].update(upper=lower(layer["norm"]["upper"], factor)),
        "lower": lambda: layer["norm"].update(lower=lower(layer["norm"]["lower"], 1.05 / factor)),
        "tau": lambda: layer.update(tau=lower(layer["tau"], factor)),
        "margin": lambda: layer.update(margin=(float.fromhex(layer["margin"]) + 0.1 / factor).hex()),
        "slopes": lambda: layer.update(slopes=draw.one_of([0, factor], [factor, 1], [0, 2], [-1, 1], [0], [])),
        "layer averagedness": lambda: layer.update(averagedness=lower(layer["averagedness"], factor)),
        "layer Lipschitz constant": lambda: layer.update(lipschitz_upper=factor.hex()),
        "averagedness": lambda: bound.update(averagedness=lower(bound["averagedness"], factor)),
        "Lipschitz constant": lambda: bound.update(lipschitz=factor.hex()),
        "proximal": lambda: bound.update(proximal=True),
        "box": lambda: bound.update(box=draw.one_of([0.0, 1.0], [-1, 1], [])),
        "rounding": lambda: record.update(rounding=lower(record["rounding"], 0.9 * factor)),
        "hash": lambda: record["weights"].update({draw.one_of(*record["weights"]): f"{draw.integer(0, 2**60):064x}"}),
        "a tensor less": lambda: record["weights"].pop(draw.one_of(*record["weights"])),
        "a tensor more": lambda: record["weights"].update(extra="0" * 64),
        "padding": lambda: layer["norm"].update(padding_mode=draw.one_of("reflect", "replicate", None, "Zeros", "other")),
        "smallest image": lambda: layer["norm"].update(smallest_image=draw.one_of([2, 2], [0, 0], [1], [], None)),
        "divisor": lambda: layer["norm"].update(divisible_by=draw.one_of([2, 1], [0, 0], [1], None)),
        "method": lambda: layer["norm"].update(method=draw.one_of("CLOSED_FORM", "SYMBOL", "x", None)),
        "dtype": lambda: record.update(dtype=draw.one_of("float64", "bfloat16", "", None)),
        "schema": lambda: record.update(schema=draw.one_of("pnp-lip certificate 1", "pnp-lip certificate 9", None)),
        "a layer less": lambda: record["layers"].pop(),
        "a layer twice": lambda: record["layers"].append(copy.deepcopy(layer)),
        "path": lambda: layer.update(path=draw.one_of("layers.9", "", None)),
        "not a number": lambda: layer["norm"].update(upper=draw.one_of("nan", "-0x1p0", "0x0p0", "x", None)),
        "NaN averagedness": lambda: bound.update(averagedness="nan"),
        "NaN Lipschitz constant": lambda: bound.update(lipschitz=draw.one_of("nan", "-inf", "0x0p0")),
        "NaN margin": lambda: layer.update(margin=draw.one_of("nan", "inf")),
        "NaN layer averagedness": lambda: layer.update(averagedness="nan"),
        "NaN rounding": lambda: record.update(rounding=draw.one_of("nan", "-0x1p0", "0x0p0")),
    }
    kind = draw.one_of(*kinds, *["bytes"] * 6)
    if kind == "bytes":  # anywhere in the tensors; the header's texts are seen when it no longer parses
        at = draw.integer(8 + length, len(weights) - 1)
        return weights[:at] + bytes([weights[at] ^ (1 << draw.integer(0, 7))]) + weights[at + 1 :], record, kind
    kinds[kind]()
    return weights, record, kind


def checker(draw: Draw) -> Outcome:
    """An honest pair of files is verified, one that was tampered with is not."""
    weights, text = saved(draw.one_of("zeros", "circular"), draw.integer(1, 3))
    if draw.chance(0.1):
        wrong = checked(weights, text)
        return Outcome(Verdict.HONEST_REFUSED if wrong else Verdict.TRUE, "; ".join(wrong), "honest")
    record = json.loads(text)
    bytes_, changed, kind = tamper(draw, weights, copy.deepcopy(record))
    if (bytes_ == weights and changed == record) or (kind == "proximal" and record["bound"]["proximal"]):
        return Outcome(Verdict.TRUE, "unchanged", "honest")
    wrong = checked(bytes_, json.dumps(changed))
    return Outcome(Verdict.REFUSED if wrong else Verdict.FALSE_PASS, wrong[0] if wrong else "verified", kind)


# ---- runs


@dataclasses.dataclass
class Problem:
    """What a run is made of; a lie changes one of its parts. ``during`` is called after each update."""

    physics: Any
    denoiser: Any
    y: Tensor
    dtype: torch.dtype
    term: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_term: Any = None
    during: Callable[[int], None] | None = None
    forge: Callable[[dict[str, Any]], None] | None = None
    exact: Callable[[Tensor, Tensor, float], Tensor] | None = None  # a prox of which the lie is
    solvers: tuple[type[Solver], ...] = ()
    lie: str = ""


class Shrink(nn.Module):
    """x ↦ w ⊙ x + (1 − w)/2 with 0 < w ≤ 1 for each pixel, by a rule of one's own: linear, firm, of a closed form."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return self.weights * x + (1 - self.weights) / 2


def linear_denoiser(draw: Draw, dtype: torch.dtype, firm: bool) -> nn.Module:
    """Id − τWᵀW."""
    layer = GradientFlowConv2d(1, 3, 3, padding_mode=draw.one_of("zeros", "circular"), activation=Identity())
    with torch.no_grad():
        layer.weight[0, 0, 1, 1] += 0.3
    limit = draw.uniform(0.2, 0.5) if firm else draw.uniform(0.2, 0.97)
    return project(layer, limit=limit).to(dtype).eval().requires_grad_(False)


def nonlinear_denoiser(draw: Draw, dtype: torch.dtype, firm: bool) -> nn.Module:
    net = GradientFlowDenoiser(hidden_channels=3, kernel_size=3, dilations=(1,) * (1 if firm else draw.integer(1, 3)))
    for layer in net.layers:
        layer.activation.log_scale.data.fill_(math.log(0.5))
    net = project(net, limit=draw.uniform(0.2, 0.49 if firm else 0.97)).to(dtype).eval().requires_grad_(False)
    return net if firm or draw.chance(0.5) else draw.one_of(RelaxedDenoiser(net, 0.5), ClippedDenoiser(net, -1.0, 2.0))


def random_problem(draw: Draw, *, linear: bool, firm: bool) -> Problem:
    """A small honest problem."""
    dtype = draw.one_of(torch.float64, torch.float64, torch.float32)
    psf = draw.tensor(*draw.integers(2, 3)).abs() if draw.chance(0.7) else draw.tensor(3, 3)
    kind = draw.integer(0, 3)
    if kind <= 1:
        physics: Any = Blur(psf / psf.abs().sum(), SHAPE, padding=draw.one_of("circular", "zeros", "reflect"), dtype=dtype)
    elif kind == 2:
        physics = Dense(draw.tensor(draw.integer(30, 70), 64, dtype=dtype) / 8, SHAPE)
    else:
        physics = ParallelBeamTomography([0.0, 30.0, 60.0, 90.0, 120.0, 150.0], SHAPE, normalize=True, dtype=dtype)
    denoiser = (linear_denoiser if linear else nonlinear_denoiser)(draw, dtype, firm)
    batch = draw.integer(1, 3)
    x = torch.from_numpy(draw.rng.random((batch, *SHAPE))).to(dtype)
    clean = physics.A(x)
    y = clean + 0.01 * clean.abs().max() * draw.tensor(*clean.shape, dtype=dtype)
    return Problem(physics, denoiser, y, dtype)


FIRM = (DouglasRachford, ADMM, PrimalDual, DavisYin)  # ask for a firm denoiser
GRADIENT = (ForwardBackward, RED, DavisYin)
PROX = (HalfQuadratic, DouglasRachford, ADMM, ProximalRED)
EVERY = (*GRADIENT, *PROX, PrimalDual)


def random_solver(draw: Draw, problem: Problem, kind: type[Solver], *, tol: float) -> Solver:
    """A solver with a scheme, a data term and a box that it takes."""
    options: dict[str, Any] = {"tol": tol, "sigma": 0.1}
    options["scheme"] = draw.one_of(KrasnoselskiiMann(), KrasnoselskiiMann(0.5), Halpern(), Anderson())
    if kind in (ForwardBackward, HalfQuadratic, RED, ProximalRED):
        options["box"] = draw.one_of(None, None, (0.0, 1.0), (-1.0, 1.5))
    if problem.data_term is not None:
        options["data_term"] = problem.data_term
    elif draw.chance(0.2):
        weights = torch.from_numpy(draw.rng.uniform(0.1, 1, tuple(problem.y.shape))).to(problem.dtype)
        options["data_term"] = WeightedLeastSquares(weights, **problem.term)
    else:
        options["data_term"] = LeastSquares(**problem.term)
    return kind(problem.denoiser, **options)


def honest_runs(draw: Draw) -> Outcome:
    """A run whose hypotheses hold is proved, and a linear one without a box ends at the fixed point of dense algebra."""
    linear, kind = draw.chance(0.6), draw.one_of(*EVERY, FISTA)
    firm = kind in (*FIRM, FISTA)
    problem = random_problem(draw, linear=linear, firm=firm)
    if kind is FISTA:  # γ ≤ 1/L
        length = spectral_norm(matrix_of(problem.physics.A, SHAPE, problem.dtype)) ** 2
        solver: Solver = ForwardBackward(problem.denoiser, scheme=FISTA(), step=0.9 / length, sigma=0.1, tol=1e-10)
    else:
        solver = random_solver(draw, problem, kind, tol=1e-11 if problem.dtype == torch.float64 else 1e-6)
    what = f"{type(solver).__name__} {solver.scheme} {type(problem.physics).__name__} {problem.dtype} box {solver.box}"
    try:
        result = solver.solve(problem.y, problem.physics, max_iter=draw.one_of(20, 20, 150))
    except Exception as error:
        return refusal(error, honest=True, what=what)
    if not result.guarantee.proved:
        return Outcome(
            Verdict.HONEST_REFUSED, str(result.guarantee.failure or result.guarantee.title), "all hypotheses hold", what
        )
    if not linear or result.status != "converged" or solver.box is not None or type(solver.data_term) is not LeastSquares:
        return Outcome(Verdict.TRUE, "proved", "all hypotheses hold", what)
    off, allowed = distance_to_fixed_point(problem, solver, result)
    return Outcome(Verdict.TRUE if off <= allowed else Verdict.FALSE_PASS, allowed, off, f"fixed point of {what}")


def distance_to_fixed_point(problem: Problem, solver: Solver, result: Result) -> tuple[float, float]:
    """‖Mx − b‖/‖b‖ for the linear equation that the theorem's fixed points solve, and what the residual and rounding allow."""
    d = copy.deepcopy(problem.denoiser).double()
    D, A = matrix_of(d, SHAPE), matrix_of(problem.physics.A, SHAPE, problem.dtype)
    one, H = torch.eye(len(D), dtype=D.dtype), A.T @ A
    y, x = problem.y.double().flatten(1).T, result.x.double().flatten(1).T
    step, weight = result.parameters["step"], result.parameters.get("weight", 0.0)
    if isinstance(solver, RED):  # ProximalRED too
        M, b = H + weight * (one - D), A.T @ y
    elif isinstance(solver, HalfQuadratic):
        inverse = torch.linalg.inv(one + step * H)
        M, b = one - D @ inverse, step * D @ inverse @ A.T @ y
    else:
        M, b = one - D @ (one - step * H), step * D @ A.T @ y
    size = spectral_norm(M) * float(x.norm()) + float(b.norm())
    unit = torch.finfo(problem.dtype).eps
    allowed = (1e3 * max(h.relative[-1] for h in result.histories) + 1e3 * unit) * (1 + 1 / min(step, 1.0))
    return float((M @ x - b).norm()) / size, allowed


# ---- lies


def state_small_norm(draw: Draw, p: Problem) -> None:
    truth = spectral_norm(matrix_of(p.physics.A, SHAPE, p.dtype))
    p.term["norm_upper"] = draw.uniform(0.1, 0.8) * truth
    p.lie, p.solvers = f"norm_upper = {p.term['norm_upper']:.3g} of {truth:.3g}", (*GRADIENT, PrimalDual)


def state_convexity(draw: Draw, p: Problem) -> None:
    least = float(torch.linalg.svdvals(matrix_of(p.physics.A, SHAPE, p.dtype))[-1]) ** 2 if p.y[0].numel() >= 64 else 0.0
    largest = spectral_norm(matrix_of(p.physics.A, SHAPE, p.dtype)) ** 2
    p.term["convexity"] = least + draw.uniform(0.1, 0.9) * (largest - least)
    p.lie = f"convexity = {p.term['convexity']:.3g}, true {least:.3g}"


class Scaled(fidelity.L2):
    """w/2 ‖u − y‖² under the name of a fidelity."""

    def __init__(self, factor: float) -> None:
        super().__init__(sigma=factor**-0.5)


def state_curvature(draw: Draw, p: Problem) -> None:
    factor = draw.uniform(1.3, 20)
    p.data_term = UserFidelity(Scaled(factor), curvature_upper=1.0)
    p.lie, p.solvers = f"curvature 1 for {factor:.3g}", (*GRADIENT, PrimalDual)


class Wrong(Dense):
    """A matrix, and what is wrong with A or with A_adjoint."""

    def __init__(self, matrix: Tensor, forward: Any, back: Any) -> None:
        super().__init__(matrix, SHAPE)
        self.forward_error, self.back_error = forward, back

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        changed = x.flatten(1) if self.forward_error is None else self.forward_error(x.flatten(1))
        return (changed @ self.matrix.T).to(x.dtype)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        x = super().A_adjoint(y.to(self.matrix.dtype)).to(y.dtype)
        return x if self.back_error is None else self.back_error(x.flatten(1)).reshape(x.shape)


def wrong_adjoint(draw: Draw, p: Problem) -> None:
    """One pixel, a patch, all, an exchange of two pixels."""
    matrix = matrix_of(p.physics.A, SHAPE, p.dtype).to(p.dtype)
    at, other, factor = draw.integer(0, 63), draw.integer(0, 62), draw.one_of(-1.0, 0.0, 2.0, draw.uniform(-1, 0.9))
    gain = torch.ones(64, dtype=p.dtype)
    kind = draw.one_of("pixel", "patch", "all", "exchange")
    if kind == "pixel":
        gain[at] = factor
    if kind == "patch":
        gain.view(8, 8)[at // 8 : at // 8 + 2, at % 8 : at % 8 + 2] = factor
    if kind == "all":
        gain[:] = draw.one_of(1.01, 0.9, -1.0)
    order = torch.arange(64)
    if kind == "exchange":
        order[[at, (at + 1 + other) % 64]] = order[[(at + 1 + other) % 64, at]]
    p.physics, p.lie = Wrong(matrix, None, lambda x: gain * x[:, order]), f"adjoint wrong: {kind}, factor {factor:.3g}"


def wrong_forward(draw: Draw, p: Problem) -> None:
    """A that is clipped, noisy, affine, or depends on the batch, the dtype or the number of calls."""
    matrix, calls, size = matrix_of(p.physics.A, SHAPE, p.dtype).to(p.dtype), [0], draw.uniform(0.05, 0.5)
    limit, level, when, large = draw.uniform(0.3, 4.5), draw.log_uniform(-2, 0), draw.integer(1, 12), draw.uniform(3, 30)

    def drifting(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * (1 + size * (calls[0] > when))

    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        f"clipped at {limit:.3g}": lambda x: x.clamp(-limit, limit),
        f"noise {level:.3g}": lambda x: x + level * torch.randn_like(x),
        f"affine {level:.3g}": lambda x: x + level,
        "batch": lambda x: x * (1 + size * (len(x) > 1)),
        "batch mean": lambda x: x - size * x.mean(0, keepdim=True) * (len(x) > 1),
        "own dtype": lambda x: x * (1 + 5 * size),
        "calls": drifting,
        "absolute": lambda x: x + size * x.abs(),
        "size": lambda x: x * (1 + size * (x.norm(dim=1, keepdim=True) > large)),
    }
    name = draw.one_of(*kinds)
    if name.startswith("batch"):
        p.y = p.y[:1].expand(2, -1, *p.y.shape[2:]).contiguous() if p.y.ndim > 2 else p.y[:1].repeat(2, 1)
    p.physics, p.lie = Wrong(matrix, kinds[name], None), f"A wrong: {name}"
    if name == "own dtype":  # quiet in the dtype of its buffers, in which its norm is found
        quiet = torch.float32 if p.dtype == torch.float64 else torch.float64
        p.physics = Wrong(matrix.to(quiet), lambda x: (x * (1 + 5 * size) if x.dtype == p.dtype else x).to(quiet), None)
    p.y = p.y.flatten(1)


class Liar(nn.Module):
    """A denoiser whose rule vouches for it wrongly: by what ``how`` does to the output of an honest one."""

    def __init__(self, inner: nn.Module, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return self.how(self.inner(x, sigma))


@rule(Liar)
def vouch(module: Liar, path: str, rtol: float) -> Proof:
    from fractions import Fraction

    return Proof(MapBound(Fraction(1), Fraction(1, 2)))


def lying_denoiser(draw: Draw, p: Problem) -> None:
    calls, level, above = [0], draw.log_uniform(-2, 0), draw.uniform(0.3, 0.9)

    def drift(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * (1 + level * math.sin(calls[0]))

    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "stochastic": lambda x: x + level * torch.randn_like(x),
        "stateful": drift,
        "expansive": lambda x: (1.5 + level) * x,
        "NaN region": lambda x: torch.where(x > above, math.nan, x),
        "jump": lambda x: x + level * (x > 0.5),
        "batch": lambda x: x + level * x.mean(0, keepdim=True),
    }
    name = draw.one_of(*kinds)
    p.denoiser, p.lie = Liar(p.denoiser, kinds[name]), f"D wrong: {name} {level:.3g}"


def inexact_prox(draw: Draw, p: Problem) -> None:
    """A prox_l2 that calls itself a closed form and is off."""
    honest, off = Dense(matrix_of(p.physics.A, SHAPE, p.dtype).to(p.dtype), SHAPE), draw.log_uniform(-2, 0)
    matrix = honest.matrix
    kind, at = draw.one_of("scaled", "one pixel", "other gamma", "no data"), draw.integer(0, 63)

    def exact(z: Tensor, y: Tensor, gamma: float) -> Tensor:
        H = torch.eye(64, dtype=p.dtype) + gamma * matrix.T @ matrix
        return torch.linalg.solve(H, (z.flatten(1) + gamma * (y.flatten(1) @ matrix)).T).T.reshape(-1, *SHAPE)

    def prox(z: Tensor, y: Tensor, gamma: float, **kwargs: Any) -> Tensor:
        x = exact(z, 0 * y if kind == "no data" else y, gamma * (1 + 2 * off) if kind == "other gamma" else gamma)
        x = x * (1 + off) if kind == "scaled" else x
        if kind == "one pixel":
            x.flatten(1)[:, at] += off
        return x

    honest.closed_form_prox, honest.prox_l2 = True, prox
    p.data_term = LeastSquares()  # weights would need another prox than the physics'
    p.physics, p.y, p.lie, p.solvers, p.exact = honest, p.y.flatten(1), f"prox off: {kind} {off:.3g}", PROX, exact


def mutation(draw: Draw, p: Problem) -> None:
    """A or D changed in a callback, after a few updates."""
    when, factor = draw.integer(1, 12), draw.uniform(1.5, 4)
    tensors = [t for t in (*p.physics.buffers(), *p.physics.parameters()) if t.is_floating_point() and t.numel() > 1]
    weights = [w for n, w in p.denoiser.named_parameters() if n.endswith("weight")]
    which = draw.one_of("A", "D")
    chosen = tensors if which == "A" else weights

    def change(k: int) -> None:
        if k == when:
            for t in chosen:
                t.data.mul_(factor)

    p.during, p.lie = change, f"{which} times {factor:.3g} after update {when}"


def forged_checkpoint(draw: Draw, p: Problem) -> None:
    """A file that says that all has converged, at an image that has not."""
    noise = draw.log_uniform(-2, 1)

    def forge(state: dict[str, Any]) -> None:
        for track in state["tracks"]:
            track.update(status="converged")
            track["residual"][-1] = track["relative"][-1] = 0.0
        for name in ("x", "v"):
            state[name] = state[name] + noise * torch.randn_like(state[name])

    p.forge, p.lie = forge, f"checkpoint forged, off by {noise:.3g}"


LIES: tuple[Lie, ...] = (
    state_small_norm, state_convexity, state_curvature, wrong_adjoint, wrong_adjoint, wrong_forward, wrong_forward,
    lying_denoiser, inexact_prox, mutation, mutation, forged_checkpoint,
)  # fmt: skip


def lying_runs(draw: Draw) -> Outcome:
    """One lie at random; the run must not be titled "proved"."""
    firm, lie = draw.chance(0.7), draw.one_of(*LIES)
    problem = random_problem(draw, linear=draw.chance(0.3), firm=firm)
    lie(draw, problem)
    kinds = problem.solvers or EVERY
    kind = draw.one_of(*(k for k in kinds if firm or k not in FIRM))
    solver = random_solver(draw, problem, kind, tol=0.0)
    what = f"{problem.lie}; {kind.__name__} {solver.scheme} {type(problem.physics).__name__} {problem.dtype}"

    def solve() -> Result:
        callback = None if problem.during is None else (lambda k, x, r: problem.during(k))
        most = 20
        if problem.forge is None:
            return solver.solve(problem.y, problem.physics, max_iter=most, guarantee="report", callback=callback)
        with tempfile.TemporaryDirectory() as folder:
            store = Checkpoint(Path(folder) / "run.pt")
            solver.solve(problem.y, problem.physics, max_iter=5, guarantee="report", checkpoint=store)
            state = torch.load(store.path, weights_only=True)
            problem.forge(state)
            torch.save(state, store.path)
            result = solver.solve(problem.y, problem.physics, max_iter=5, guarantee="report", checkpoint=store)
            if result.status != "converged":
                raise_refused()
            return result

    kept: list[Result] = []
    outcome = judged(lambda: kept.append(solve()) or kept[0], lie=what)
    if (
        problem.exact is not None and kept and outcome.verdict is Verdict.FALSE_PASS
    ):  # the solver may have found the truth by itself
        z = 0.5 + 0.1 * draw.tensor(*kept[0].x.shape, dtype=problem.dtype)
        gamma = kept[0].parameters["step"]
        found, exact = kept[0].maps.prox(z, gamma), problem.exact(z, problem.y, gamma)
        if float((found - exact).norm() / exact.norm()) < 1e-4:
            return Outcome(Verdict.TRUE, "proved", "the prox was solved all the same", what)
    return outcome


def raise_refused() -> None:
    """The forged status was not believed."""
    from pnp_lip.errors import GuaranteeError

    raise GuaranteeError("the stored status was not believed")

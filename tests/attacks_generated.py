"""Attacks made by the thousand: each case is a number, drawn from its own seed, so that a failure can be run again alone.

``python tests/attacks_generated.py [first [last]]`` runs the cases and prints a table and what did not hold.
"""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import deepinv.physics as dp
import numpy as np
import scipy.sparse
import torch
from attacks import Dense, Draw, Outcome, Verdict, at_most, jacobian, kernel, matrix_of, refusal, spectral_norm, table, worst
from attacks_runs import checker, honest_runs, lying_runs
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip import certify
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, RelaxedDenoiser
from pnp_lip.layers import Clip, GradientFlowConv2d, GradientFlowLinear, Identity, ReLU, SoftThreshold, project
from pnp_lip.operators import Blur, FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, certify_norm, from_scipy
from pnp_lip.spectral import border_norm_bound, norm_bound
from pnp_lip.theory import FixedWidthNetwork, UnboundedWidthNetwork, certified_radius, output_lipschitz_upper, seal

BORDERS = ("replicate", "reflect")


def padded(x: Tensor, mode: str, padding: Sequence[int]) -> Tensor:
    """x continued by (top, bottom, left, right), from first principles: an index for each new place."""
    places = []
    for size, (before, after) in zip(x.shape[-2:], (padding[:2], padding[2:]), strict=True):
        i = torch.arange(-before, size + after)
        outside = (i < 0) | (i >= size)
        i = {
            "zeros": i.clamp(0, size - 1), "circular": i % size, "replicate": i.clamp(0, size - 1),
            "reflect": (size - 1) - ((size - 1) - i.abs()).abs(),
        }[mode]  # fmt: skip
        places.append((i, outside & (mode == "zeros")))
    (rows, no_row), (columns, no_column) = places
    return x[..., rows[:, None], columns].masked_fill(no_row[:, None] | no_column, 0.0)


def convolution_norms(draw: Draw) -> Outcome:
    """``norm_bound`` and ``border_norm_bound`` against dense matrices, for kernels of every scale."""
    groups = draw.one_of(1, 1, 1, 2)
    out, into = groups * draw.integer(1, 3), draw.integer(1, 3)
    w = kernel(draw, out, into, *draw.integers(1, 4))
    scale = 2.0 ** draw.integer(-990, 990) if draw.chance(0.3) else 1.0
    stride, dilation = draw.one_of((1, 1), (1, 1), draw.integers(1, 3)), draw.one_of((1, 1), draw.integers(1, 2))
    mode = draw.one_of("zeros", "circular", *BORDERS)
    reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    around = [draw.integer(0, r) for r in reach for _ in range(2)] if mode != "zeros" else list(draw.integers(0, 4, 4))
    if mode == "circular":
        around = [a for r in reach for a in (r // 2, r - r // 2)]
    options = {"stride": stride, "dilation": dilation, "groups": groups, "rtol": draw.one_of(1e-2, 1e-3, 1e-3, 1e-5)}
    try:
        if mode in BORDERS:
            found = border_norm_bound(w * scale, mode, around, **options)
        else:
            found = norm_bound(w * scale, padding_mode=mode, **options)
    except Exception as error:
        return refusal(error, honest=True)
    if mode == "circular":  # any number of whole strides that the kernel, wrapped around, may exceed
        size = tuple(d * draw.integer(1, 6 // d) for d in found.divisible_by)
    else:
        least = [
            max(s, r + 1 - a - b, 1) for s, r, a, b in zip(found.smallest_image, reach, around[::2], around[1::2], strict=True)
        ]
        size = tuple(n + draw.integer(0, 3) for n in least)

    def dense(x: Tensor) -> Tensor:
        return F.conv2d(padded(x, mode, around), w, stride=stride, dilation=dilation, groups=groups)

    truth = spectral_norm(matrix_of(dense, (into * groups, *size)))
    what = f"{mode} {tuple(w.shape)} {options} on {size}, scale {scale:g}"
    top = max(
        spectral_norm(torch.einsum("oiab,a,b->oi", w.to(torch.complex128), *waves)) for waves in witness_waves(w, found.witness)
    )
    outcomes = [at_most(lambda: found.upper / scale, lambda: truth, what=what)]
    if stride == (1, 1) and len(found.witness) == 2 and groups == 1:  # the lower bound is attained at its witness
        outcomes.append(at_most(lambda: top, lambda: found.lower / scale, what=f"lower bound, {what}"))
    if mode not in BORDERS and found.lower > 0 and found.upper > found.lower * (1 + options["rtol"]):
        outcomes.append(Outcome(Verdict.FALSE_PASS, found.gap, options["rtol"], f"gap, {what}"))
    return worst(outcomes)


def witness_waves(w: Tensor, witness: Sequence[float]) -> list[list[Tensor]]:
    """The frequency at which a lower bound is attained, as it is counted after leading zero taps are cut off."""
    first, second = witness if len(witness) == 2 else (0.0, 0.0)
    pairs = [(first, second), (first, -second)]
    return [
        [torch.exp(-1j * f * torch.arange(k, dtype=torch.float64)) for f, k in zip(p, w.shape[2:], strict=True)] for p in pairs
    ]


def random_layer(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    """A layer of a plain network that takes this shape (C, H, W), settings drawn freely."""
    c, h, w = shape
    kind, k = draw.integer(0, 9), draw.integers(1, 3)
    if kind <= 3:
        mode, d = draw.one_of("zeros", "zeros", "circular", *BORDERS), draw.integer(1, 2)
        padding = draw.integers(0, 2)
        if mode == "circular":
            padding = tuple(d * (n - 1) // 2 for n in k)
        groups = c if draw.chance(0.2) else 1
        made = nn.Conv2d(c, groups * draw.integer(1, 2), k, draw.integers(1, 2), padding, d, groups, padding_mode=mode)
        with torch.no_grad():
            made.weight.copy_(kernel(draw, *made.weight.shape) * draw.log_uniform(-1, 0.3))
        return made
    if kind == 4:
        stride = draw.integer(1, 3)
        extra = draw.integer(0, stride - 1)
        return nn.ConvTranspose2d(c, draw.integer(1, 2), k, stride, draw.integer(0, 1), extra, bias=draw.chance(0.5))
    if kind == 5:
        n, padding = draw.one_of((1, 2), (2, 1), (2, 2), (3, 3)), draw.one_of(0, 0, 1)
        if draw.chance(0.5):
            return nn.MaxPool2d(n, padding=0 if 1 in n else padding, ceil_mode=draw.chance(0.5))
        half = 0 if 1 in n else padding
        divisor = draw.one_of(None, None, 1, 3)
        return nn.AvgPool2d(
            n, padding=half, ceil_mode=draw.chance(0.5), count_include_pad=draw.chance(0.5), divisor_override=divisor
        )
    if kind == 6:
        up = nn.PixelShuffle(2) if c % 4 == 0 else nn.PixelUnshuffle(2)
        return up if c % 4 == 0 or h % 2 == w % 2 == 0 else nn.Identity()
    if kind == 7:
        made = nn.BatchNorm2d(c, eps=draw.log_uniform(-6, -3))
        made.running_mean.copy_(draw.tensor(c))
        made.running_var.copy_(draw.tensor(c).square() * draw.log_uniform(-4, 2))
        made.weight.data.copy_(draw.tensor(c))
        return made
    return draw.one_of(
        nn.ReLU(), nn.LeakyReLU(draw.uniform(-1.5, 1.5)), nn.ELU(draw.uniform(0.1, 3)), nn.Tanh(), nn.Sigmoid(),
        nn.Softplus(2.0, 40.0),
        nn.ReLU6(), nn.Hardtanh(), nn.Dropout(0.4), nn.Identity(),
    )  # fmt: skip


def plain_networks(draw: Draw) -> Outcome:
    """A random Sequential against its Jacobian at several points, on the image it was made for and on the smallest."""
    size = (draw.integer(1, 2), *draw.integers(3, 7))
    net, probe = nn.Sequential(), draw.tensor(1, *size)
    for _ in range(draw.integer(1, 5)):
        layer = random_layer(draw, tuple(probe.shape[1:])).double().eval()
        try:
            following = layer(probe)
        except (RuntimeError, ValueError):
            continue
        if 0 < following.numel() <= 400:
            net.append(layer)
            probe = following.detach()
    ends_dense = draw.chance(0.3)
    if ends_dense:
        net.extend([nn.Flatten(), nn.Linear(probe.numel(), draw.integer(1, 4)).double()])
    net.requires_grad_(False)
    try:
        certificate = certify(net)
    except Exception as error:
        circular = any(isinstance(m, nn.Conv2d) and m.padding_mode == "circular" for m in net.modules())
        unusual = circular or any(isinstance(m, nn.PixelUnshuffle) for m in net.modules())  # sizes that divisors cannot name
        return refusal(error, honest=not unusual, what=str(net))
    least, steps = certificate.smallest_image, divisors(certificate)
    small = [s * math.ceil(n / s) for n, s in zip(least, steps, strict=True)]
    fits = all(n >= m and n % s == 0 for n, m, s in zip(size[1:], least, steps, strict=True))
    sizes = [size] * fits + ([] if ends_dense else [(size[0], *small), (size[0], small[0] + steps[0], small[1])])
    reached = 0.0
    for shape in sizes:
        for scale in (0.3, 3.0):
            try:
                reached = max(reached, spectral_norm(jacobian(net, scale * draw.tensor(1, *shape))))
            except RuntimeError:  # too small for the layers: nothing is claimed of what does not run
                continue
    return at_most(lambda: certificate.lipschitz_upper, lambda: reached, what=f"{net} on {sizes}")


def divisors(certificate: Any) -> tuple[int, int]:
    """The numbers that must divide an image's sides."""
    stored = getattr(certificate, "divisible_by", None)
    if stored is not None:
        return tuple(stored)
    sides = [layer.norm.divisible_by for layer in certificate.layers]
    return math.lcm(*(h for h, _ in sides)), math.lcm(*(w for _, w in sides))


def symbol_norm(w: Tensor, points: int = 48) -> float:
    """The largest norm of a kernel's symbol over a grid: below the kernel's norm by at most a factor cos(π r/points)."""
    p = torch.arange(points, dtype=torch.float64) / points
    waves = [torch.exp(-2j * math.pi * p[:, None] * torch.arange(k, dtype=torch.float64)) for k in w.shape[2:]]
    symbol = torch.einsum("oiab,pa,qb->pqoi", w.to(torch.complex128), *waves)
    return float(torch.linalg.matrix_norm(symbol, 2).max())


def random_flow(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    """A gradient-flow layer or denoiser with steps around the limit, and the shape of its images."""
    if draw.chance(0.2):
        n = draw.integer(1, 5)
        layer: nn.Module = GradientFlowLinear(n, draw.integer(1, 6), activation=draw.one_of(ReLU(), Identity()))
        layer.weight.data.copy_(kernel(draw, *layer.weight.shape, 1, 1)[..., 0, 0])
        norm = spectral_norm(layer.weight.detach().double())
        layer.tau.data.copy_(torch.tensor(draw.one_of(1.0, 0.5, 2.0, draw.uniform(0.9, 1.1)) * 2 / max(norm, 1e-3) ** 2))
        return layer, (n,)
    c, hidden, mode = draw.integer(1, 2), draw.integer(1, 4), draw.one_of("zeros", "circular")
    k, dilations = draw.one_of(1, 3, 3, 5), tuple(draw.integer(1, 2) for _ in range(draw.integer(1, 3)))
    if draw.chance(0.5):
        net = GradientFlowDenoiser(
            in_channels=c,
            channels=c + draw.integer(0, 1),
            hidden_channels=hidden,
            kernel_size=k,
            dilations=dilations,
            padding_mode=mode,
        )
        layers = list(net.layers)
        for layer in layers:
            layer.activation.log_scale.data.copy_(draw.tensor(*layer.activation.log_scale.shape))
            layer.activation.shift.data.copy_(draw.tensor(*layer.activation.shift.shape))
    else:
        activation = draw.one_of(ReLU(), Identity(), Clip(hidden, threshold=0.3), SoftThreshold(hidden, threshold=0.3))
        net = GradientFlowConv2d(
            c, hidden, k, dilation=dilations[0], padding_mode=mode, activation=activation, bias=draw.chance(0.5)
        )
        layers = [net]
    for layer in layers:
        layer.weight.data.copy_(kernel(draw, *layer.weight.shape))
        norm = symbol_norm(layer.weight.detach().double())
        layer.tau.data.copy_(torch.tensor(draw.one_of(1.0, 0.5, draw.uniform(0.2, 1.05)) * 2 / max(norm, 1e-3) ** 2))
    return net, (c, *draw.integers(2, 4))


def flows(draw: Draw) -> Outcome:
    """Gradient-flow maps and their wrappers: averagedness as an inequality of Jacobians, nonexpansive only if certified."""
    net, shape = random_flow(draw)
    net = net.double() if draw.chance(0.5) else net
    steps = [m for m in net.modules() if isinstance(m, GradientFlowConv2d | GradientFlowLinear)]
    sharp = [math.sqrt(float(m.tau)) * upper_and_lower(m.weight.detach().double()) for m in steps]
    honest = all(upper <= math.sqrt(2) * (1 - 2e-6) for _, upper in sharp)
    if isinstance(net, GradientFlowDenoiser) and draw.chance(0.6):
        kind = draw.integer(0, 2)
        if kind == 0:
            net = RelaxedDenoiser(net, draw.uniform(0.05, 1))
        elif kind == 1:
            net = ClippedDenoiser(net, draw.uniform(-1, 0), draw.uniform(0.5, 2))
        else:
            net = RelaxedDenoiser(ClippedDenoiser(net), draw.uniform(0.05, 1))
    net = net.eval().requires_grad_(False)
    try:
        certificate = certify(net)
    except Exception as error:
        return refusal(error, honest=honest, what=str(net))
    if honest and not certificate.nonexpansive:
        return Outcome(Verdict.HONEST_REFUSED, certificate.lipschitz_upper, max(u for _, u in sharp), str(net))
    exact, lipschitz, alpha = copy.deepcopy(net).double(), certificate.lipschitz_upper, certificate.averagedness
    level = torch.tensor([draw.log_uniform(-3, -0.7)], dtype=torch.float64)
    firm = excess = 0.0
    for scale in (0.05, 0.5, 5.0):
        x = scale * draw.tensor(1, *shape) + 0.5
        j = jacobian(lambda v: exact(v, level), x)
        firm = max(firm, spectral_norm(j))
        if alpha:  # T is α-averaged if and only if (T − (1 − α) Id)/α is nonexpansive
            excess = max(excess, spectral_norm((j - (1 - alpha) * torch.eye(len(j), dtype=j.dtype)) / alpha))
    identity = alpha == 0 and firm > 0 and spectral_norm(j - torch.eye(len(j), dtype=j.dtype)) > 1e-9
    return worst(
        [
            at_most(lambda: lipschitz, lambda: firm, what=f"Lipschitz constant of {net}"),
            at_most(lambda: 1.0, lambda: max(excess, 2.0 * identity), slack=1e-7, what=f"averagedness {alpha} of {net}"),
        ]
    )


def upper_and_lower(w: Tensor) -> np.ndarray:
    """‖W‖ of a matrix or a convolution from below and from above, with nothing of the package."""
    if w.ndim == 2:
        return np.array([spectral_norm(w)] * 2)
    low = symbol_norm(w)
    r = sum((k - 1) / 2 for k in w.shape[2:])
    return np.array([low, low / math.cos(math.pi * r / 48)])


def execution(draw: Draw) -> Outcome:
    """The executed float32 network against the same weights in float64: within the certificate's ``rounding``."""
    c, hidden = draw.integer(1, 3), draw.integer(1, 8)
    dilations = tuple(draw.integer(1, 2) for _ in range(draw.integer(1, 4)))
    net = GradientFlowDenoiser(
        in_channels=c,
        hidden_channels=hidden,
        kernel_size=draw.one_of(1, 3, 3, 5),
        dilations=dilations,
        padding_mode=draw.one_of("zeros", "circular"),
    )
    for layer in net.layers:
        layer.activation.log_scale.data.copy_(draw.tensor(*layer.activation.log_scale.shape))
        layer.activation.shift.data.copy_(0.3 * draw.tensor(*layer.activation.shift.shape))
    net = project(net, limit=draw.uniform(0.3, 0.99)).eval()
    try:
        claimed = certify(net).rounding
    except Exception as error:
        return refusal(error, honest=True)
    if claimed is None:
        return Outcome(Verdict.HONEST_REFUSED, "no rounding", "", str(net))
    batch, size = draw.integer(1, 2), draw.integers(1, 16)
    x = torch.from_numpy(draw.rng.uniform(-1, 1, (batch, c, *size))).float()
    x = draw.one_of(x, x.sign(), x.contiguous(memory_format=torch.channels_last), x[:1].expand(batch, -1, -1, -1))
    sigma = torch.tensor([draw.log_uniform(-2.7, -0.7)]).float()
    net.requires_grad_(draw.chance(0.3))
    executed = net(x, sigma).detach().double()
    exact = copy.deepcopy(net).double()(x.double(), sigma.double()).detach()
    off = float(((executed - exact).flatten(1).norm(dim=1) / math.sqrt(size[0] * size[1])).max())
    return at_most(lambda: claimed, lambda: off, what=str(net))


def random_operator(draw: Draw, dtype: torch.dtype) -> Any:
    """One of our operators, small."""
    kind = draw.integer(0, 5)
    if kind <= 2:
        size = (draw.integer(1, 2), *draw.integers(4, 8))
        psf = kernel(draw, draw.one_of(1, size[0]), 1, *draw.integers(1, 4))[:, 0]
        psf[0, 0, 0] += 0.1
        return Blur(
            psf, size, padding=draw.one_of("circular", "zeros", *BORDERS, "valid"), normalize=draw.chance(0.3), dtype=dtype
        )
    if kind == 5:
        matrix = scipy.sparse.random_array((draw.integer(3, 30), 20), density=0.4, rng=draw.rng).tocsr()
        matrix.data -= draw.one_of(0.0, 0.5)
        matrix = matrix if matrix.nnz else scipy.sparse.eye_array(20).tocsr()
        return from_scipy(matrix, (draw.integer(1, 2), 4, 5), dtype=dtype)
    n, views = draw.integer(3, 7), np.sort(draw.rng.uniform(0, 360, draw.integer(1, 6)))
    views = draw.one_of(views, np.arange(0, 180, 30.0))
    options: dict[str, Any] = {"storage": draw.one_of(*["sparse"] * 5, "free"), "normalize": draw.chance(0.4), "dtype": dtype}
    model = draw.one_of({}, {"model": "joseph"}, {"det_offset": 0.4, "n_det": n + 2})
    beam = (
        ParallelBeam(views, **model) if kind == 3 else FanBeam(views, source_distance=2.0 * n, detector_distance=1.0 * n, **model)
    )
    make: Any = ParallelBeamTomography if kind == 3 else FanBeamTomography
    if draw.chance(0.3):
        count = beam.fitted((n, n)).count
        options |= {"mask": "circle", "weights": torch.rand(count, len(views), dtype=torch.float64) + 0.01}
    return make(beam, (draw.integer(1, 2), n, n), **options)


def our_operators(draw: Draw) -> Outcome:
    """Norm, adjoint and the certified error of the prox, against dense linear algebra."""
    dtype = draw.one_of(torch.float32, torch.float64)
    try:
        physics = random_operator(draw, dtype)
        bound = physics.norm_bound()
    except Exception as error:
        return refusal(error, honest="no ray meets" not in str(error))
    forward = matrix_of(physics.forward_map, physics.img_size)
    back = matrix_of(physics.adjoint_map, physics.data_size)
    truth, what = (
        spectral_norm(forward),
        f"{type(physics).__name__} {vars(physics).get('padding', '')} {physics.img_size} {dtype}",
    )
    gap = spectral_norm(forward - back.T) / max(truth, 1e-300)
    outcomes = [
        at_most(lambda: bound.upper, lambda: truth, slack=1e-11, what=f"upper, {what}"),
        at_most(lambda: truth, lambda: bound.lower, slack=1e-11, what=f"lower, {what}"),
        at_most(lambda: 1e-11, lambda: gap, what=f"adjoint, {what}"),
    ]
    gamma = draw.log_uniform(-2, 6) / max(truth, 1e-3) ** 2
    z, y = draw.tensor(2, *physics.img_size, dtype=dtype), draw.tensor(2, *physics.data_size, dtype=dtype)
    gamma = float(torch.tensor(gamma, dtype=dtype))
    found = physics.solve_prox(z, y, gamma, tol=draw.log_uniform(-9, -1))
    exact = dense_prox(forward, z.double().flatten(1).T, y.double().flatten(1).T, gamma)
    off = (found.x.double().flatten(1).T - exact).norm(dim=0)
    rounding = 1e-13 * (1 + gamma * truth**2) * float(exact.norm() + y.double().norm() / max(truth, 1e-3))  # of the dense answer
    outcomes += [
        at_most(lambda b=b: float(b) + rounding, lambda o=o: float(o), what=f"prox γ = {gamma:g}, {what}")
        for o, b in zip(off, found.error_bound, strict=True)
    ]
    return worst(outcomes)


def dense_prox(a: Tensor, z: Tensor, y: Tensor, gamma: float) -> Tensor:
    """(Id + γAᵀA)⁻¹(z + γAᵀy), refined in long double."""
    wide = [np.asarray(t.numpy(), dtype=np.longdouble) for t in (a, z, y)]
    h = np.eye(a.shape[1], dtype=np.longdouble) + gamma * wide[0].T @ wide[0]
    b = wide[1] + gamma * wide[0].T @ wide[2]
    x = np.zeros_like(b)
    for _ in range(4):
        x = x + np.linalg.solve(h.astype(np.float64), (b - h @ x).astype(np.float64))
    return torch.from_numpy(x.astype(np.float64))


def random_physics(draw: Draw, size: tuple[int, int, int]) -> dp.LinearPhysics:
    """One of deepinv's forward models for images of this size."""
    filter_ = kernel(draw, 1, 1, *draw.integers(1, 3)).float()
    filter_[..., 0, 0] += 0.1
    padding = draw.one_of("circular", "constant", "replicate", "reflect", "valid")
    kind = draw.integer(0, 9)
    if kind == 0:
        return dp.Inpainting(size, mask=draw.tensor(*size).float())
    if kind == 1:
        return dp.Blur(filter=filter_, padding=padding)
    if kind == 2:
        return dp.BlurFFT(img_size=size, filter=filter_)
    if kind == 3:
        return dp.Downsampling(img_size=size, filter=filter_, factor=2, padding=draw.one_of("circular", "constant", "reflect"))
    if kind == 4:
        return dp.Upsampling(img_size=(size[0], 2 * size[1], 2 * size[2]), filter=filter_, factor=2, padding="circular")
    if kind == 5:
        return dp.Denoising()
    if kind == 6:
        return dp.MRI(mask=draw.tensor(1, 2, *size[1:]).float(), img_size=(2, *size[1:]))
    if kind == 7:
        return Dense(kernel(draw, draw.integer(1, 9), math.prod(size), 1, 1)[..., 0, 0], size)
    if kind == 8:
        return dp.StackedLinearPhysics(
            [dp.Inpainting(size, mask=draw.tensor(*size).float()), dp.BlurFFT(img_size=size, filter=filter_)]
        )
    first = dp.BlurFFT(img_size=size, filter=filter_)
    return first * dp.Inpainting(size, mask=draw.tensor(*size).float())


def deepinv_operators(draw: Draw) -> Outcome:
    """``certify_norm`` of deepinv's physics against dense matrices."""
    size = (draw.one_of(1, 1, 2), *(2 * n for n in draw.integers(2, 4)))
    physics = random_physics(draw, size)
    shape = (2, *size[1:]) if isinstance(physics, dp.MRI) else size
    dtype = torch.float64 if isinstance(physics, Dense) else torch.float32
    try:
        physics.A_adjoint(physics.A(torch.zeros(1, *shape, dtype=dtype)))
    except RuntimeError:  # deepinv's transposed filters of even size
        return Outcome(Verdict.REFUSED, "does not run", "")
    what = f"{type(physics).__name__} {vars(physics).get('padding', '')} {shape}"
    return at_most(
        lambda: certify_norm(physics, img_size=shape).upper, lambda: spectral_norm(matrix_of(physics.A, shape, dtype)),
        honest=True, slack=2e-6, what=what,
    )  # fmt: skip


def theory_networks(draw: Draw) -> Outcome:
    """Joint and single constants of the universal networks against Jacobians; certified radii against classes nearby."""
    d, out, depth = draw.integer(1, 3), draw.integer(1, 3), draw.integer(0, 3)
    fixed = draw.chance(0.5)
    net: Any = (
        FixedWidthNetwork(d, depth=depth, width=draw.integer(1, 4), out_features=out)
        if fixed
        else UnboundedWidthNetwork(d, width=draw.integer(1, 6), depth=depth, out_features=out)
    )
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + draw.one_of(0.0, 0.3, 1.0) * torch.randn_like(p))
            p.add_(draw.one_of(0.0, 0.0, 0.3) * torch.randn_like(p))
    net = (seal(net) if draw.chance(0.3) else net).double().requires_grad_(False)
    try:
        jointly, each = certify(net).lipschitz_upper, output_lipschitz_upper(net)
        x = 2 * draw.tensor(12, d)
        radii = certified_radius(net, x)
    except Exception as error:
        return refusal(error, honest=True, what=str(net))
    jacobians = [jacobian(net, point[None]) for point in x]
    outcomes = [at_most(lambda: jointly, lambda: max(map(spectral_norm, jacobians)), what=f"jointly {net}")]
    outcomes += [
        at_most(lambda k=k: each[k], lambda k=k: max(float(j[k].norm()) for j in jacobians), what=f"output {k} {net}")
        for k in range(out)
    ]
    classes = net(x).argmax(1) if out > 1 else net(x)[:, 0] > 0
    for point, radius, label, j in zip(x, radii, classes, jacobians, strict=True):
        ways = torch.cat([draw.tensor(16, d), j, -j, j[:1] - j, j - j[:1]])
        ways = ways[ways.norm(dim=1) > 0]
        near = point + min(float(radius), 1e6) * (1 - 1e-6) * F.normalize(ways, dim=1) * torch.rand(
            len(ways), 1, dtype=x.dtype
        ).sqrt().round(decimals=1).clamp_min(0.5)
        seen = net(near).argmax(1) if out > 1 else net(near)[:, 0] > 0
        if bool((seen != label).any()):
            outcomes.append(
                Outcome(
                    Verdict.FALSE_PASS, float(radius), float((near - point)[seen != label].norm(dim=1).min()), f"radius {net}"
                )
            )
    return worst(outcomes)


Family = Callable[[Draw], Outcome]
OFTEN: dict[Family, int] = {
    convolution_norms: 12, plain_networks: 10, flows: 10, execution: 3, our_operators: 8, deepinv_operators: 6,
    theory_networks: 6, checker: 6, honest_runs: 4, lying_runs: 13,
}  # fmt: skip
SCHEDULE = [family for family, times in OFTEN.items() for _ in range(times)]  # case n belongs to family n % length


def run(case: int) -> tuple[str, Outcome]:
    """One case by its number: the family's name and the outcome."""
    family = SCHEDULE[case % len(SCHEDULE)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return family.__name__, family(Draw(case))
        except Exception as error:
            return family.__name__, Outcome(Verdict.UNNAMED, f"{type(error).__name__}: {error}", "", "while the truth was found")


def main(first: int = 0, last: int = 520) -> None:
    """Run the cases first … last − 1, and print a table, the seconds of each family, and what did not hold."""
    torch.set_num_threads(1)
    rows, seconds = [], {}
    for case in range(first, last):
        began = time.perf_counter()
        name, outcome = run(case)
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        rows.append((name.replace("_", " "), outcome, False))
        if not outcome.verdict.held:
            sys.stderr.write(f"case {case} {name}: {outcome}\n")
    spent = {name: f"{1e3 * sum(s) / len(s):.0f} ms" for name, s in seconds.items()}
    sys.stdout.write(table(rows, new=False) + f"\n\n{last - first} cases in {sum(map(sum, seconds.values())):.0f} s: {spent}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

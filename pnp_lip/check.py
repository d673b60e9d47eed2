"""An independent check of the certificate of a denoiser or a potential: ``python -m pnp_lip.check WEIGHTS CERTIFICATE``.

It needs numpy and nothing of ours, bounds every layer's norm by a method of its own and redoes the composition in
fractions. Exit status: 0 verified, 1 refuted or not verified, 2 unreadable.

A layer x − τ Wᵀ σ(Wx + b), slopes of σ in [0, s], is τ s ‖W‖²/2-averaged (Baillon & Haddad 1977); αᵢ-averaged layers
compose to an S/(1 + S)-averaged map, S = Σ αᵢ/(1 − αᵢ) (Combettes & Yamada 2015); so does Qᵀ N Q, Q appending zero
channels. ‖W‖ ≤ U is proved as ‖K̂(p)‖ ≤ U for K̂(p) = Σ_ab K_ab exp(−2πi(a p₁ + b p₂)) and all p: a cell with centre
c and half-widths h holds no maximiser of a norm above U when ‖K̂(c)‖ ≤ U cos(π Σ (k_i − 1) h_i) (Duffin & Schaeffer
1938), and ‖K̂(c)‖² ≤ max w · ‖V‖² + ‖K̂ᴴK̂ − V diag(w) Vᴴ‖_F for any w and V: computed eigenvectors serve, and need
not be trusted. This holds for zero and circular padding and every image size. So a certificate must name the padding
of the configuration, a smallest image of 1 x 1 and sides divisible by 1, and nothing that a user stated.

A potential R with ∇R(x) = Wᵀ φ(Wx), slopes of φ in [−s, μ], has curvatures in [−sU², μU²]. φ is a sum of clips. Just
below a limit all clips act that have no smaller one; limits are log-linear in σ between knots, reordered where they cross.

Files are read as strictly as they are written: each byte belongs to one tensor, each key stands once, no field is unknown
or missing, and the tensors are those of the network that the configuration names, in one dtype, in its shapes.

The rounding of the executed network is bounded anew by the formula of docs/certificates.md, section 6. VERIFIED says what
is not checked. Sine and cosine of numpy are taken as accurate within 4e-15.
"""

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check", "main"]

Array = npt.NDArray[Any]
Record = dict[str, Any]  # what JSON holds
SCHEMA, DENOISER, POTENTIAL = "pnp-lip certificate 4", "pnp-lip denoiser 1", "pnp-lip potential 1"
DTYPES = {"F64": ("<f8", "float64"), "F32": ("<f4", "float32"), "F16": ("<f2", "float16"), "BF16": ("<u2", "bfloat16")}
EXACT = 32  # columns up to which matrices are bounded in integers, with no slack for rounding
MAX_CELLS = 400_000  # after which a norm counts as unproved; the shipped layers need at most 10,500
VERIFIED = """verified anew: the SHA-256 of each tensor, and that they are the network's; of each layer the kind, the upper and
lower bound of the norm, the padding, the smallest image and the method that the kernel calls for, step, slopes, margin,
averagedness and Lipschitz constant, and that its thresholds are numbers; of the network the averagedness and Lipschitz
constant, potential, curvature and range, the smallest image, that nothing was stated, the rounding of its execution.
not verified: the number of cells, the version, and that the program which runs the weights computes what they configure.
"""
LARGEST_SIGMA = 55 / 255  # the end of the range of noise levels for which denoisers of this format have thresholds
SIGMA_FLOOR = 1e-6  # the noise level below which thresholds stop falling with it
KNOTS = 6  # noise levels at which they are stored
CLIP = ("rise", "fall", "log_rise_limit", "log_fall_limit", "log_scale")  # the tensors of a potential's activation
U = 2.0**-53  # unit roundoff of float64
RANGES = {"float64": (-1022, 1.797e308), "float32": (-126, 3.402e38), "float16": (-14, 65504.0), "bfloat16": (-126, 3.389e38)}
UNITS = {"float64": U, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def strict_json(data: str | bytes) -> Record:
    """A JSON object. Raises ValueError for anything else, for a key that stands twice in an object, for NaN and infinity."""

    def once(pairs: list[tuple[str, object]]) -> Record:
        names = [name for name, _ in pairs]
        if len({*names}) < len(names):
            raise ValueError(f"the key {max(names, key=names.count)!r} stands twice")
        return dict(pairs)

    def finite(digits: str) -> float:
        if not math.isfinite(float(digits)):
            raise ValueError(f"{digits} is no finite number")
        return float(digits)

    plain = data.decode() if isinstance(data, bytes) else data
    found = json.loads(plain, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    if not isinstance(found, dict):
        raise ValueError("expected an object")
    return found


def integer(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least  # True is no 1


def several(value: object, is_right: Callable[..., bool], *counts: int) -> bool:
    """Whether it is a list of right entries, of one of these lengths if any are given."""
    return isinstance(value, list) and len(value) in (counts or (len(value),)) and all(map(is_right, value))


def text(value: object) -> bool:
    return isinstance(value, str)


def hexadecimal(value: object) -> bool:
    """Whether it is a finite float exactly as ``float.hex`` writes it."""
    return isinstance(value, str) and math.isfinite(float.fromhex(value)) and float.fromhex(value).hex() == value


def real(value: object) -> bool:
    return type(value) is float or integer(value)


def pair(value: object) -> bool:
    return several(value, integer, 2)


Spec = dict[str, Callable[..., bool]]  # what each field of a record must be
NORM: Spec = {
    **dict.fromkeys(("upper", "lower"), hexadecimal),
    **dict.fromkeys(("smallest_image", "divisible_by"), pair),
    **{"method": text, "padding_mode": lambda v: v is None or text(v), "cells": integer},
    "witness": lambda v: several(v, real, 0, 2),
}
LAYER: Spec = {
    **{"path": text, "kind": text, "norm": lambda v: fits(v, NORM, "norm"), "slopes": lambda v: several(v, real, 2)},
    **dict.fromkeys(("tau", "margin", "averagedness"), lambda v: v is None or hexadecimal(v)),
    "lipschitz_upper": hexadecimal,
}
BOUND: Spec = {
    **{"lipschitz": hexadecimal, "averagedness": lambda v: v is None or hexadecimal(v)},
    **{"proximal": lambda v: type(v) is bool, "box": lambda v: v is None or several(v, real, 2)},
}
CURVATURE: Spec = dict.fromkeys(("lower", "upper"), hexadecimal)
CERTIFICATE: Spec = {
    "curvature": lambda v: v is None or fits(v, CURVATURE, "curvature"),
    "layers": lambda v: several(v, lambda layer: fits(layer, LAYER, "layer")),
    "bound": lambda v: fits(v, BOUND, "bound"),
    "weights": lambda v: isinstance(v, dict) and all(map(text, v.values())),
    "rounding": lambda v: v is None or hexadecimal(v),
    **dict.fromkeys(("schema", "dtype", "version"), text),
    **dict.fromkeys(("smallest_image", "divisible_by"), pair),
    **dict.fromkeys(("failures", "stated"), lambda v: several(v, text)),
}
ENTRY: Spec = {"dtype": lambda v: v in DTYPES, "shape": lambda v: several(v, integer), "data_offsets": pair}
CONFIG: Spec = {
    **dict.fromkeys(("in_channels", "channels", "hidden_channels"), lambda v: integer(v, 1)),
    **{"kernel_size": lambda v: integer(v, 1) and v % 2 == 1, "padding_mode": lambda v: v in ("zeros", "circular")},
    "dilations": lambda v: several(v, lambda d: integer(d, 1)) and len(v) > 0,
    "default_sigma": lambda v: real(v) and v >= 0,
}
RIDGE: Spec = {
    **{name: CONFIG[name] for name in ("in_channels", "kernel_size", "padding_mode", "default_sigma")},
    **dict.fromkeys(("filters", "rising"), CONFIG["channels"]) | {"falling": integer, "knots": lambda v: integer(v, 2)},
}


def fits(record: object, spec: Spec, where: str) -> bool:
    """Raise ValueError unless the record has exactly these fields, each right; otherwise True."""
    if not isinstance(record, dict) or {*record} != {*spec}:
        raise ValueError(f"{where}: expected the fields {', '.join(spec)}, and no others")
    for name, value in record.items():
        if not spec[name](value):
            raise ValueError(f"{where}: {name} is {str(value)[:40]!r}, which it cannot be")
    return True


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str], Record, str]:
    """Tensors in float64, the SHA-256 of each, the metadata, and the dtypes' names; ValueError where bytes are left."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = strict_json(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors, hashes, dtypes, reached = {}, {}, set(), 0
    for name, entry in sorted(header.items(), key=lambda item: fits(item[1], ENTRY, item[0]) and item[1]["data_offsets"]):
        kind, dtype = DTYPES[entry["dtype"]]
        (start, end), shape = entry["data_offsets"], tuple(entry["shape"])
        if start != reached or end - start != math.prod(shape) * np.dtype(kind).itemsize:
            raise ValueError(f"{name}: the bytes {start} to {end} do not follow the last tensor, or are not {dtype} {shape}")
        raw, reached = body[start:end], end
        array = np.frombuffer(raw, kind).reshape(shape)
        if dtype == "bfloat16":
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array.astype(np.float64)
        dtypes.add(dtype)
        hashes[name] = hashlib.sha256(f"{dtype} {shape} ".encode() + raw).hexdigest()
    if reached != len(body):
        raise ValueError(f"the tensors take {reached} of {len(body)} bytes")
    return tensors, hashes, metadata, ", ".join(sorted(dtypes))


def shapes_of(config: Record) -> dict[str, tuple[int, ...]]:
    """The tensors of the network that the configuration names."""
    if "filters" in config:
        k, filters, knots, m, n = (config[name] for name in ("kernel_size", "filters", "knots", "rising", "falling"))
        sizes = zip(CLIP, ((m,), (n,), (knots, m), (knots, n), (knots, filters)), strict=True)
        return {"weight": (filters, config["in_channels"], k, k), **{f"activation.{name}": size for name, size in sizes}}
    channels, hidden, k = config["channels"], config["hidden_channels"], config["kernel_size"]
    layer = {"weight": (hidden, channels, k, k), "tau": ()}
    layer |= dict.fromkeys(("activation.log_scale", "activation.shift"), (KNOTS, hidden))
    return {f"layers.{i}.{name}": shape for i in range(len(config["dilations"])) for name, shape in layer.items()}


def check_tensors(tensors: dict[str, Array], config: Record, dtypes: str) -> list[str]:
    """Where the tensors are not those of the network, or hold numbers with which it could not run."""
    expected = shapes_of(config)
    wrong = [f"{name}: not one of the network's tensors" for name in sorted({*tensors} - {*expected})]
    wrong += [f"{name}: missing" for name in sorted({*expected} - {*tensors})]
    wrong += [f"{n}: of shape {tensors[n].shape}, not {s}" for n, s in expected.items() if n in tensors and tensors[n].shape != s]
    wrong += [f"{name}: not finite" for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if dtypes not in UNITS:
        wrong.append(f"the tensors are of {dtypes or 'no'} dtypes, not of one")
    channels = config["in_channels"]
    if config.get("channels", channels) < channels:
        wrong.append("the configuration names no network: fewer channels than the image has")
    return wrong


def norm_squared_upper(s: Array, slack: float) -> Array:
    """An upper bound of λ_max(SᴴS) for each matrix of a stack, ``slack`` covers the rounding of S and products."""
    gram = s.conj().swapaxes(1, 2) @ s
    w, v = np.linalg.eigh(gram)
    vh = v.conj().swapaxes(1, 2)
    residual = np.linalg.norm(gram - (v * w[:, None]) @ vh, axis=(1, 2))
    stretch = 1 + np.linalg.norm(vh @ v - np.eye(v.shape[1]), axis=(1, 2)) + 8 * U * (v.shape[1] + 4) ** 2
    bound: Array = np.abs(w).max(1) * stretch + residual + slack
    return bound


def matrix_is_below(w: Array, upper: float) -> bool:
    """Whether U² I − WᵀW is positive definite, U = ``upper`` ≥ 0, by its leading minors in integers (Bareiss)."""
    w = w if w.shape[0] >= w.shape[1] else w.T
    scale = max(float(v).as_integer_ratio()[1] for v in (*w.flat, upper))
    *rows, (u,) = [[int(Fraction(float(v)) * scale) for v in row] for row in (*w, [upper])]
    n = range(w.shape[1])
    a = [[u * u * (i == j) - sum(row[i] * row[j] for row in rows) for j in n] for i in n]
    before = 1
    for k in n:
        pivot = a[k][k]
        if pivot <= 0:
            return False
        for row in a[k + 1 :]:
            row[:] = [(x * pivot - row[k] * y) // before for x, y in zip(row, a[k], strict=True)]
        before = pivot
    return True


def norm_is_at_most(weight: Array, upper: float) -> bool:
    """Whether ‖W‖ ≤ ``upper`` could be proved; W dense (2-D) or a convolution (4-D), for every image size."""
    kernel = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    top = float(np.abs(kernel).max())
    if top == 0 or not math.isfinite(top) or upper < 0:
        return top == 0 and upper >= 0
    used = np.argwhere(kernel.any((0, 1)))
    if len(used) == 1:  # a shift of one matrix
        kernel = kernel[:, :, used[0][0], used[0][1]][..., None, None]
        if min(kernel.shape[:2]) <= EXACT:
            return matrix_is_below(kernel[:, :, 0, 0], upper)
    scale = 2.0 ** -math.frexp(top)[1]
    kernel, upper = kernel * scale, upper * scale
    kernel = kernel.swapaxes(0, 1) if kernel.shape[0] < kernel.shape[1] else kernel
    sizes = kernel.shape[2:]
    taps = np.moveaxis(kernel, (0, 1), (2, 3)).reshape(-1, *kernel.shape[:2])
    positions = np.array([(a, b) for a in range(sizes[0]) for b in range(sizes[1])], dtype=float)
    slack = 8 * (sum(taps.shape) + 40) * U * float(np.linalg.norm(np.abs(taps).sum(0))) ** 2
    counts = [2 ** math.ceil(math.log2(8 * (k - 1))) if k > 1 else 1 for k in sizes]
    halves = [1 / (2 * n) for n in counts]
    p = np.array([((i + 0.5) / counts[0], (j + 0.5) / counts[1]) for i in range(counts[0]) for j in range(counts[1])])
    p = p[p[:, 1] <= 0.5 + halves[1]]  # K̂(−p) is the conjugate of K̂(p)
    cells = 0
    while len(p):
        cells += len(p)
        if cells > MAX_CELLS:
            return False
        target = upper * (math.cos(math.pi * sum((k - 1) * h for k, h in zip(sizes, halves, strict=True))) - 1e-14)
        squares = []
        for part in np.array_split(p, len(p) // 512 + 1):
            phases = np.exp(-2j * np.pi * ((part @ positions.T) % 1.0))  # exact up to exp, because p is dyadic
            squares.append(norm_squared_upper(np.tensordot(phases, taps, axes=1), slack))
        found = np.concatenate(squares)
        p = p[found > target**2 * (1 - 1e-14)]
        if (len(p) and sizes == (1, 1)) or found.max() > upper**2 * (1 + 1e-9):  # nothing will prove this
            return False
        for axis in (0, 1):
            if sizes[axis] > 1:
                halves[axis] /= 2
                step = halves[axis] * np.eye(2)[axis]
                p = np.concatenate([p - step, p + step])
    return True


def rounding_upper(tensors: dict[str, Array], paths: list[str], channels: int, u: float) -> float:
    """How far the network executed with unit roundoff ``u`` may lie from the real one, root mean square per pixel."""
    error, r = 0.0, math.sqrt(channels)
    for path in paths:
        weight, tau = tensors[f"{path}.weight"], float(tensors[f"{path}.tau"])
        beta = float(np.linalg.norm(np.abs(tensors[f"{path}.activation.shift"]).max(0))) * LARGEST_SIGMA
        total = np.abs(weight).reshape(*weight.shape[:2], -1).sum(2)[None]
        slack = 8 * sum(weight.shape[:2]) * U * float(np.linalg.norm(total)) ** 2
        a = math.sqrt(float(norm_squared_upper(total, slack)[0])) * (1 + 1e-9)  # ≥ ‖Σ_ab |K_ab|‖
        n = min(a, math.sqrt(2 / tau)) if tau > 0 else a
        counts = (weight.shape[1] * weight[0, 0].size + 6, weight.shape[0] * weight[0, 0].size + 6)
        if max(counts) * u >= 0.25:
            return math.inf
        g, h = (k * u / (1 - k * u) for k in counts)
        size = r + error
        own = g * tau * n * (a * size + beta) + h * tau * a * (n * size + beta + g * (a * size + beta))
        error += (1 + u) * own + u * (size + tau * n * beta)
        r += tau * n * beta
    return error


def method_of(weight: Array) -> str:
    """The certifier's method: branch and bound where more than one tap is used, otherwise one factorisation."""
    taps = np.abs(weight).reshape(*weight.shape[:2], -1).max((0, 1))
    return "BRANCH_AND_BOUND" if np.count_nonzero(taps) > 1 else "CHOLESKY"


def number(value: str | None) -> Fraction:
    """A hexadecimal float as a rational; None counts as 1, the averagedness of a map that is only nonexpansive."""
    return Fraction(1) if value is None else Fraction(float.fromhex(value))


def in_range(dtype: str, scale: Array, limits: Array, largest: Callable[[float, float], tuple[float, ...]]) -> bool:
    """Whether λ = σ exp(scale) for noise levels σ up to 1, 1/λ, exp(limits) and ``largest`` of min λ and max λ fit ``dtype``."""
    top, tiny = RANGES[dtype][1], 2.0 ** RANGES[dtype][0]
    low, high = (math.exp(min(t, 709.0)) for t in (float(scale.min()) + math.log(SIGMA_FLOOR), float(scale.max())))
    ends = [low, high, *np.exp(np.minimum(limits, 709.0)).flat]
    return bool(tiny <= min(ends) and max(ends) <= min(top, 1 / tiny) and max(largest(low, high)) <= top)


def stays_in_range(tensors: dict[str, Array], path: str, dtype: str) -> bool:
    """Whether λ, 1/λ, W, W/λ, τWλ and b/λ fit, with which the layer computes, for |x| ≤ 1, where S = Σ|W| bounds Wx."""
    weight, tau, scale, shift = (tensors[f"{path}.{n}"] for n in ("weight", "tau", "activation.log_scale", "activation.shift"))
    total, t, b = float(np.abs(weight).sum()), abs(float(tau)), float(np.abs(shift).max())
    return in_range(dtype, scale, shift[:0], lambda low, high: (total, total / low, total * high, t * total * high, b / low))


def check_norm(layer: Record, weight: Array, padding_mode: str) -> dict[str, bool]:
    """What a line of the certificate claims of ‖W‖, and whether it holds."""
    norm, upper = layer["norm"], float(number(layer["norm"]["upper"]))
    waves = [np.exp(-1j * w * np.arange(k)) for w, k in zip(norm["witness"] or (0, 0), weight.shape[2:], strict=True)]
    attained = float(np.linalg.norm(np.einsum("oiab,a,b->oi", weight, *waves), 2))
    return {
        f"‖W‖ ≤ {upper:.9g} is not proved": norm_is_at_most(weight, upper),
        "the lower bound is not in [0, ‖W‖] by the witness": 0 <= float(number(norm["lower"])) <= attained * (1 + 1e-10),
        f"the padding is not {padding_mode}": norm["padding_mode"] == padding_mode,
        "the norm's smallest image is not 1 x 1, with any divisor": norm["smallest_image"] == norm["divisible_by"] == [1, 1],
        f"the method is not {method_of(weight)}": norm["method"] == method_of(weight),
    }


def check_layer(layer: Record, tensors: dict[str, Array], padding_mode: str, dtype: str) -> tuple[Fraction, list[str]]:
    """A layer's proved α = τ s U²/2 and what is wrong with its line in the certificate."""
    weight, tau = tensors[f"{layer['path']}.weight"], Fraction(float(tensors[f"{layer['path']}.tau"]))
    curvature = tau * Fraction(layer["slopes"][1]) * number(layer["norm"]["upper"]) ** 2
    claims = check_norm(layer, weight, padding_mode) | {
        "the layer is no GradientFlowConv2d": layer["kind"] == "GradientFlowConv2d",
        "τ differs from the weights": layer["tau"] is not None and number(layer["tau"]) == tau,
        "τ is negative": tau >= 0,
        f"its numbers leave the range of {dtype}": stays_in_range(tensors, layer["path"], dtype),
        "the slopes are not a clip's, [0, 1]": layer["slopes"] == [0, 1],
        f"τ‖W‖² ≤ {float(curvature):.9g} is not ≤ 2": curvature <= 2,
        "the margin is overstated": layer["margin"] is not None and number(layer["margin"]) <= 2 - curvature,
        "the layer's averagedness is understated": number(layer["averagedness"]) >= curvature / 2,
        "the layer's Lipschitz constant is understated": number(layer["lipschitz_upper"]) >= max(Fraction(1), curvature - 1),
    }
    return curvature / 2, [f"{layer['path']}: {claim}" for claim, holds in claims.items() if not holds]


def slope_range(rise: Array, fall: Array, rise_limits: Array, fall_limits: Array) -> tuple[Fraction, Fraction]:
    """The range of the slopes of φ for every σ, exactly; limits, in logarithms, cross at d/(d − e) from differences d to e."""
    slopes = [Fraction(float(v)) for v in (*rise, *-fall)]
    rows = [[Fraction(float(v)) for v in row] for row in np.concatenate([rise_limits, fall_limits], 1)]
    found = {Fraction(0)}
    for start, end in itertools.pairwise(rows):
        gaps = [(start[i] - start[j], end[i] - end[j]) for i, j in itertools.combinations(range(len(slopes)), 2)]
        places = sorted({Fraction(0), Fraction(1), *(d / (d - e) for d, e in gaps if d * e < 0)})
        for t in (*places, *((a + b) / 2 for a, b in itertools.pairwise(places))):
            limits = [a + t * (b - a) for a, b in zip(start, end, strict=True)]
            found |= {sum((s for s, limit in zip(slopes, limits, strict=True) if limit >= u), Fraction(0)) for u in limits}
    return min(found), max(found)


def check_potential(claimed: Record, tensors: dict[str, Array], config: Record, dtype: str) -> dict[str, bool]:
    """What the certificate of a ridge potential claims, and whether it holds; S and M sum |W| and the slopes."""
    (line,), bound, weight = claimed["layers"], claimed["bound"], tensors["weight"]
    rise, fall, *limits, scale = (tensors[f"activation.{n}"] for n in CLIP)
    low, high = slope_range(rise, fall, *limits)
    square, total, m = number(line["norm"]["upper"]) ** 2, float(np.abs(weight).sum()), float(np.abs([*rise, *fall]).sum())
    least, most = (number((claimed["curvature"] or {}).get(end)) for end in ("lower", "upper"))
    others = [line["tau"], line["margin"], line["averagedness"], bound["averagedness"], bound["box"], claimed["rounding"]]
    steepest, lipschitz = max(-low, high) * square, min(number(line["lipschitz_upper"]), number(bound["lipschitz"]))
    largest = lambda low, high: (high * total, total / low, m * total / low, m * total**2, m * (total / low) ** 2)  # noqa: E731
    curvature = f"the curvature {float(low * square):.9g} to {float(high * square):.9g} is not within the claimed one"
    return check_norm(line, weight, config["padding_mode"]) | {
        "the line is not that of a RidgePotential": line["kind"] == "RidgePotential",
        f"the slopes are not in {line['slopes']}": line["slopes"][0] <= low and high <= line["slopes"][1],
        curvature: claimed["curvature"] is not None and least <= low * square and high * square <= most,
        "the Lipschitz constant of the gradient is understated": steepest <= lipschitz,
        "more is claimed than can be of a potential": all(v is None for v in others) and not bound["proximal"],
        f"its numbers leave the range of {dtype}": in_range(dtype, scale, np.concatenate(limits, 1), largest),
    }  # fmt: skip


def check_composition(alphas: list[Fraction], lipschitz: Fraction, averagedness: Fraction | None, proximal: bool) -> list[str]:
    """What does not follow of a composition of layers with these averagednesses."""
    total = sum((a / (1 - a) for a in alphas), Fraction(0)) if max(alphas) < 1 else None
    understated = averagedness is not None and (total is None or averagedness < total / (1 + total))
    claims = {
        "the averagedness of the composition is understated": not understated,
        "the Lipschitz constant of the composition is not proved": lipschitz >= 1 and min(alphas) >= 0 and max(alphas) <= 1,
        "the map is not the proximal map of a convex function by these layers": not proximal
        or (len(alphas) == 1 and max(alphas) <= Fraction(1, 2)),
    }
    return [claim for claim, holds in claims.items() if not holds]


def check(weights: str | Path, certificate: str | Path) -> list[str]:
    """What is wrong with the certificate, an empty list when every claim was verified again.

    Raises OSError, ValueError, KeyError or TypeError for files that cannot be read as what they should be.
    """
    tensors, hashes, metadata, dtype = read_safetensors(Path(weights))
    claimed = strict_json(Path(certificate).read_text(encoding="utf-8"))
    ridge = metadata.get("format") == POTENTIAL
    if claimed["schema"] != SCHEMA or metadata.get("format") not in (DENOISER, POTENTIAL):
        raise ValueError(f"expected the schema {SCHEMA!r} and weights of the format {DENOISER!r} or {POTENTIAL!r}")
    fits(claimed, CERTIFICATE, "certificate")
    fits(metadata, dict.fromkeys(("format", "config"), text), "metadata")
    config = strict_json(metadata["config"])
    fits(config, RIDGE if ridge else CONFIG, "config")
    wrong = [
        f"{n}: the SHA-256 differs" for n in sorted({*hashes, *claimed["weights"]}) if hashes.get(n) != claimed["weights"].get(n)
    ]
    unfit = check_tensors(tensors, config, dtype)
    expected = [""] if ridge else [f"layers.{i}" for i in range(len(config["dilations"]))]
    if unfit or [layer["path"] for layer in claimed["layers"]] != expected:
        return [*wrong, *(unfit or ["the certificate's layers are not those of the network that the weights describe"])]
    claims = {
        "the smallest image is not 1 x 1, with any divisor": claimed["smallest_image"] == claimed["divisible_by"] == [1, 1],
        "something was stated by a user or not proved": not claimed["stated"] and not claimed["failures"],
        f"the weights are {dtype}, not {claimed['dtype']}": claimed["dtype"] == dtype,
    }
    if ridge:
        claims |= check_potential(claimed, tensors, config, dtype)
    else:
        checked = [check_layer(layer, tensors, config["padding_mode"], dtype) for layer in claimed["layers"]]
        bound, stated, alpha = claimed["bound"], claimed["rounding"], claimed["bound"]["averagedness"]
        wrong += [line for _, found in checked for line in found]
        alphas, lipschitz = [own for own, _ in checked], number(bound["lipschitz"])
        wrong += check_composition(alphas, lipschitz, alpha and number(alpha), bound["proximal"])
        rounding = 0.0 if stated is None else rounding_upper(tensors, expected, config["in_channels"], UNITS[dtype])
        claims |= {
            "a range is claimed that the layers do not give": bound["box"] is None,
            "a curvature is claimed of what is no potential": claimed["curvature"] is None,
            # the tolerance is for the rounding of the two evaluations of the formula
            "the rounding of the executed network is understated": float(number(stated)) >= (1 - 1e-6) * rounding,
        }
    return wrong + [claim for claim, holds in claims.items() if not holds]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m pnp_lip.check WEIGHTS.safetensors CERTIFICATE.json\n")
        return 2
    try:
        wrong = check(*arguments)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        sys.stderr.write(f"could not be read: {type(error).__name__}: {str(error)!a}\n")
        return 2
    printed = [line if line.isprintable() else ascii(line) for line in wrong]  # names come from the files
    sys.stdout.write("".join(f"NOT VERIFIED {line}\n" for line in printed) or VERIFIED)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

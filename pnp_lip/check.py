"""An independent check of a denoiser's certificate: ``python -m pnp_lip.check WEIGHTS CERTIFICATE``.

It needs numpy and nothing of ours, bounds every layer's norm by a method of its own and redoes the composition in
fractions. Exit status: 0 verified, 1 refuted or not verified, 2 unreadable.

A layer x − τ Wᵀ σ(Wx + b), slopes of σ in [0, s], is τ s ‖W‖²/2-averaged (Baillon & Haddad 1977); αᵢ-averaged layers
compose to an S/(1 + S)-averaged map, S = Σ αᵢ/(1 − αᵢ) (Combettes & Yamada 2015); so does Qᵀ N Q, Q appending zero
channels. ‖W‖ ≤ U is proved as ‖K̂(p)‖ ≤ U for K̂(p) = Σ_ab K_ab exp(−2πi(a p₁ + b p₂)) and all p: a cell with centre
c and half-widths h holds no maximiser of a norm above U when ‖K̂(c)‖ ≤ U cos(π Σ (k_i − 1) h_i) (Duffin & Schaeffer
1938), and ‖K̂(c)‖² ≤ max w · ‖V‖² + ‖K̂ᴴK̂ − V diag(w) Vᴴ‖_F for any w and V: computed eigenvectors serve, and need
not be trusted. This holds for zero and circular padding and every image size. So a certificate must name the padding
of the configuration, a smallest image of 1 x 1 and sides divisible by 1.

The rounding of the executed network is bounded anew by the formula of docs/certificates.md, section 6. VERIFIED says what
is not checked. Sine and cosine of numpy are taken as accurate within 4e-15.
"""

import hashlib
import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check", "main"]

Array = npt.NDArray[Any]
Record = dict[str, Any]  # what JSON holds
SCHEMA, FORMAT = "pnp-lip certificate 2", "pnp-lip denoiser 1"
DTYPES = {"F64": ("<f8", "float64"), "F32": ("<f4", "float32"), "F16": ("<f2", "float16"), "BF16": ("<u2", "bfloat16")}
PADDING_MODES = ("zeros", "circular")
MAX_CELLS = 400_000  # after which a norm counts as unproved; the shipped layers need at most 10,500
VERIFIED = """verified anew: the SHA-256 of each tensor; of each layer the upper and lower bound of the norm, the padding, the
smallest image and the method that the kernel calls for, step, slopes, margin, averagedness and Lipschitz constant; the
averagedness and Lipschitz constant of the network, its potential and range; the rounding of its execution.
not verified: the layers' kinds, the number of cells, the version, texts, and that the program which runs the weights
computes the layers that the configuration names.
"""
LARGEST_SIGMA = 55 / 255  # the end of the range of noise levels for which denoisers of this format have thresholds
U = 2.0**-53  # unit roundoff of float64
UNITS = {"float64": U, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str], dict[str, str]]:
    """Tensors in float64, the SHA-256 of each, and the metadata with the dtypes' names."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors, hashes, dtypes = {}, {}, set()
    for name, entry in header.items():
        kind, dtype = DTYPES[entry["dtype"]]
        start, end = entry["data_offsets"]
        raw, shape = body[start:end], tuple(entry["shape"])
        array = np.frombuffer(raw, kind).reshape(shape)
        if dtype == "bfloat16":
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array.astype(np.float64)
        dtypes.add(dtype)
        hashes[name] = hashlib.sha256(f"{dtype} {shape} ".encode() + raw).hexdigest()
    return tensors, hashes, {**metadata, "dtype": ", ".join(sorted(dtypes))}


def norm_squared_upper(s: Array, slack: float) -> Array:
    """An upper bound of λ_max(SᴴS) for each matrix of a stack, ``slack`` covers the rounding of S and products."""
    gram = s.conj().swapaxes(1, 2) @ s
    w, v = np.linalg.eigh(gram)
    vh = v.conj().swapaxes(1, 2)
    residual = np.linalg.norm(gram - (v * w[:, None]) @ vh, axis=(1, 2))
    stretch = 1 + np.linalg.norm(vh @ v - np.eye(v.shape[1]), axis=(1, 2)) + 8 * U * (v.shape[1] + 4) ** 2
    bound: Array = np.abs(w).max(1) * stretch + residual + slack
    return bound


def norm_is_at_most(weight: Array, upper: float) -> bool:
    """Whether ‖W‖ ≤ ``upper`` could be proved; W dense (2-D) or a convolution (4-D), for every image size."""
    kernel = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    top = float(np.abs(kernel).max())
    if top == 0 or not math.isfinite(top):
        return top == 0 and upper >= 0
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
        p = p[np.concatenate(squares) > target**2 * (1 - 1e-14)]
        if len(p) and sizes == (1, 1):
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


def check_layer(layer: Record, tensors: dict[str, Array], padding_mode: str) -> tuple[Fraction, list[str]]:
    """A layer's proved α = τ s U²/2 and what is wrong with its line in the certificate."""
    weight, tau = tensors[f"{layer['path']}.weight"], Fraction(float(tensors[f"{layer['path']}.tau"]))
    norm, slopes = layer["norm"], layer["slopes"]
    upper = number(norm["upper"])
    curvature = tau * Fraction(slopes[1]) * upper**2
    waves = [np.exp(-1j * w * np.arange(k)) for w, k in zip(norm["witness"] or (0, 0), weight.shape[2:], strict=True)]
    attained = float(np.linalg.norm(np.einsum("oiab,a,b->oi", weight, *waves), 2))
    claims = {
        f"‖W‖ ≤ {float(upper):.9g} is not proved": norm_is_at_most(weight, float(upper)),
        "the lower bound exceeds the norm at the witness": float(number(norm["lower"])) <= attained * (1 + 1e-10),
        f"the padding is not {padding_mode}": norm["padding_mode"] == padding_mode,
        "the smallest image is not 1 x 1, with any divisor": norm["smallest_image"] == norm["divisible_by"] == [1, 1],
        f"the method is not {method_of(weight)}": norm["method"] == method_of(weight),
        "τ differs from the weights": layer["tau"] is not None and number(layer["tau"]) == tau,
        "τ is negative": tau >= 0,
        "the slopes are not a clip's, [0, 1]": slopes == [0, 1],
        f"τ‖W‖² ≤ {float(curvature):.9g} is not ≤ 2": curvature <= 2,
        "the margin is overstated": layer["margin"] is not None and number(layer["margin"]) <= 2 - curvature,
        "the layer's averagedness is understated": number(layer["averagedness"]) >= curvature / 2,
        "the layer's Lipschitz constant is understated": number(layer["lipschitz_upper"]) >= max(Fraction(1), curvature - 1),
    }
    return curvature / 2, [f"{layer['path']}: {claim}" for claim, holds in claims.items() if not holds]


def check(weights: str | Path, certificate: str | Path) -> list[str]:
    """What is wrong with the certificate, an empty list when every claim was verified again.

    Raises OSError, ValueError, KeyError or TypeError for files that cannot be read as what they should be.
    """
    tensors, hashes, metadata = read_safetensors(Path(weights))
    claimed = json.loads(Path(certificate).read_text())
    if claimed["schema"] != SCHEMA or metadata.get("format") != FORMAT:
        raise ValueError(f"expected the schema {SCHEMA!r} and weights of the format {FORMAT!r}")
    config = json.loads(metadata["config"])
    names = sorted({*hashes, *claimed["weights"]})
    wrong = [f"{n}: the SHA-256 differs" for n in names if hashes.get(n) != claimed["weights"].get(n)]
    expected = [f"layers.{i}" for i in range(len(config["dilations"]))]
    if [layer["path"] for layer in claimed["layers"]] != expected or config["padding_mode"] not in PADDING_MODES:
        return [*wrong, "the certificate's layers are not those of the network that the weights describe"]
    wrong += [f"{name}: not finite" for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    checked = [check_layer(layer, tensors, config["padding_mode"]) for layer in claimed["layers"]]
    alphas, wrong = [alpha for alpha, _ in checked], wrong + [line for _, found in checked for line in found]
    total = sum((a / (1 - a) for a in alphas), Fraction(0)) if max(alphas) < 1 else None
    bound = claimed["bound"]
    if bound["averagedness"] is not None and (total is None or number(bound["averagedness"]) < total / (1 + total)):
        wrong.append("the averagedness of the composition is understated")
    if number(bound["lipschitz"]) < 1 or max(alphas) > 1:
        wrong.append("the Lipschitz constant of the composition is not proved")
    if bound["proximal"] and (len(alphas) > 1 or max(alphas) > Fraction(1, 2)):
        wrong.append("the map is not the proximal map of a convex function by these layers")
    if bound["box"] is not None:
        wrong.append("a range is claimed that the layers do not give")
    if claimed["dtype"] != metadata["dtype"]:
        wrong.append(f"the weights are {metadata['dtype']}, not {claimed['dtype']}")
    elif claimed["rounding"] is not None and float(number(claimed["rounding"])) < (1 - 1e-6) * rounding_upper(
        tensors, expected, config["in_channels"], UNITS[metadata["dtype"]]
    ):  # the tolerance is for the rounding of the two evaluations of the formula
        wrong.append("the rounding of the executed network is understated")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m pnp_lip.check WEIGHTS.safetensors CERTIFICATE.json\n")
        return 2
    try:
        wrong = check(*arguments)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        sys.stderr.write(f"could not be read: {type(error).__name__}: {error}\n")
        return 2
    sys.stdout.write("".join(f"NOT VERIFIED {line}\n" for line in wrong) or VERIFIED)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

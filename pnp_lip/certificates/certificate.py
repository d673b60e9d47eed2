"""The certificate: what was proved of one map with one set of weights, in a form that others can re-check."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from pnp_lip.errors import CertificateError
from pnp_lip.images import write_atomically
from pnp_lip.version import __version__

__all__ = ["SCHEMA", "Certificate", "LayerCertificate"]

SCHEMA = "pnp-lip certificate 1"
AVERAGED = ("ForwardBackward", "HalfQuadratic", "RED", "ProximalRED")  # the solvers of an averaged map
SMALLEST = re.compile(r"images of at least (\d+) x (\d+) pixels")  # in a scope, where it ends
HEXADECIMAL = (
    "norm_upper",
    "norm_lower",
    "tau",
    "margin",
    "lipschitz_upper",
    "averagedness",
    "rounding",
)  # numbers that carry proof


@dataclasses.dataclass(frozen=True)
class LayerCertificate:
    """What was proved of one layer x − τ Wᵀ σ(Wx + b), or of a plain layer Wx + b, where τ and margin are None.

    norm_lower ≤ ‖W‖ ≤ norm_upper; ``margin`` ≤ 2 − τ s ‖W‖², positive when the layer is averaged; ``averagedness`` is None
    when no α < 1 was proved. ``method``, ``scope`` and ``witness`` are those of the norm bound.
    """

    path: str
    kind: str
    norm_upper: float
    norm_lower: float
    tau: float | None
    margin: float | None
    slopes: tuple[float, float]
    lipschitz_upper: float
    averagedness: float | None
    method: str
    scope: str
    witness: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was proved of a whole map, as a real function of its stored weights.

    ``lipschitz_upper`` bounds the Lipschitz constant; the map is ``averagedness``-averaged when that is not None;
    ``proximal`` says that the map is the prox of a convex function, so that an objective exists; ``box`` bounds its output.
    ``rounding`` bounds ‖fl(D)(x, σ) − D(x, σ)‖₂/√(HW), the distance between the map as executed in ``dtype`` and the map
    that all else here speaks of, for images (H, W pixels) with values in [−1, 1] and one noise level σ of the range that
    the denoiser's thresholds are given for; ``execution_error_upper`` states the conditions. None when it is not known,
    as for maps other than a nonexpansive ``GradientFlowDenoiser`` with its own activations.
    ``weights`` maps each tensor's name to its SHA-256. The certificate speaks of exactly these weights: ``certify`` makes
    it, and loading weights makes it anew instead of trusting a file.
    """

    layers: tuple[LayerCertificate, ...]
    lipschitz_upper: float
    averagedness: float | None
    proximal: bool
    box: tuple[float, float] | None
    scope: str
    weights: dict[str, str]
    dtype: str
    failures: tuple[str, ...] = ()
    rounding: float | None = None
    version: str = __version__
    schema: str = SCHEMA

    @property
    def smallest_image(self) -> tuple[int, int]:
        """The rows and columns that an image must have at least for the bounds to hold, by the layers' scopes."""
        sizes = [(int(h), int(w)) for layer in self.layers for h, w in SMALLEST.findall(layer.scope)]
        return max((h for h, _ in sizes), default=1), max((w for _, w in sizes), default=1)

    @property
    def nonexpansive(self) -> bool:
        """Whether ‖Dx − Dy‖ ≤ ‖x − y‖ was proved."""
        return self.lipschitz_upper <= 1

    @property
    def averaged(self) -> bool:
        """Whether D was proved α-averaged for some α < 1."""
        return self.averagedness is not None

    @property
    def firmly_nonexpansive(self) -> bool:
        """Whether D was proved 1/2-averaged."""
        return self.averagedness is not None and self.averagedness <= 0.5

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The solvers whose convergence theorem this map's averagedness licenses."""
        if self.firmly_nonexpansive:
            return (*AVERAGED, "ADMM", "DouglasRachford", "DavisYin", "PrimalDual")
        if self.averaged:
            return AVERAGED
        return ()

    def require_nonexpansive(self) -> Certificate:
        """Return self, or raise CertificateError with every layer that failed and its numbers."""
        if not self.nonexpansive:
            raise CertificateError(
                "this map is not certified as nonexpansive: "
                + (
                    "; ".join(self.failures)
                    or f"its Lipschitz constant is only known to be at most {self.lipschitz_upper:.6g}"
                )
                + ". Shorten the steps with pnp_lip.enforce(module), or train under constrain(module)."
                * any(layer.tau is not None for layer in self.layers)
            )
        return self

    def to_json(self) -> str:
        """A JSON text; numbers that carry a proof are hexadecimal floats, so that no digit is lost."""
        data = dataclasses.asdict(self)
        encode(data)
        for layer in data["layers"]:
            encode(layer)
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read what ``to_json`` wrote. Raises CertificateError for anything else."""
        try:
            data = json.loads(text)
            if data.get("schema") != SCHEMA:
                raise CertificateError(f"expected the schema {SCHEMA!r}; got {data.get('schema')!r}.")
            decode(data)
            for layer in data["layers"]:
                decode(layer)
                layer["slopes"], layer["witness"] = tuple(layer["slopes"]), tuple(layer["witness"])
            data["layers"] = tuple(LayerCertificate(**layer) for layer in data["layers"])
            data["failures"] = tuple(data["failures"])
            data["box"] = None if data["box"] is None else tuple(data["box"])
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CertificateError(f"this is not a certificate ({error}).") from error

    def save(self, path: str | Path) -> None:
        """Write the JSON text in one atomic step."""
        with write_atomically(path) as temporary:
            temporary.write_text(self.to_json() + "\n")

    def __str__(self) -> str:
        alpha = "not averaged" if self.averagedness is None else f"{self.averagedness:.6f}-averaged"
        firm = ", firmly nonexpansive" if self.firmly_nonexpansive else ""
        rows = [f"{'layer':<24}{'‖W‖ ≤':>12}{'‖W‖ ≥':>12}{'τ':>10}{'2 − τ‖W‖²':>12}{'α ≤':>10}"]
        for layer in self.layers:
            tau, margin, share = (show(v) for v in (layer.tau, layer.margin, layer.averagedness))
            rows.append(
                f"{layer.path or layer.kind:<24}{layer.norm_upper:>12.6f}{layer.norm_lower:>12.6f}{tau:>10}"
                f"{margin:>12}{share:>10}"
            )
        rows.append(f"Lipschitz constant ≤ {self.lipschitz_upper:.9g}; {alpha}{firm}; {self.scope}")
        if self.rounding is not None:
            rows.append(f"executed in {self.dtype}, at most {self.rounding:.2g} off per pixel (root mean square)")
        rows.append("licensed solvers: " + (", ".join(self.algorithms) or "none"))
        return "\n".join(rows + [f"not proved: {failure}" for failure in self.failures])


def show(value: float | None) -> str:
    """Six decimals, a dash for None."""
    return "-" if value is None else f"{value:.6f}"


def encode(record: dict[str, Any]) -> None:
    """Replace the floats that carry a proof by their hexadecimal form, in place."""
    for name in HEXADECIMAL:
        if isinstance(record.get(name), float):
            record[name] = record[name].hex()


def decode(record: dict[str, Any]) -> None:
    """Undo ``encode``, in place."""
    for name in HEXADECIMAL:
        if isinstance(record.get(name), str):
            record[name] = float.fromhex(record[name])

"""The certificate: what was proved of one map with one set of weights, in a form that others can check again."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from pnp_lip.certificates.calculus import CurvatureBound, MapBound
from pnp_lip.check import CERTIFICATE, fits, strict_json
from pnp_lip.errors import CertificateError
from pnp_lip.images import write_atomically
from pnp_lip.spectral import Method, NormBound, PaddingMode
from pnp_lip.spectral.polyphase import Pair, pair
from pnp_lip.version import __version__

__all__ = ["SCHEMA", "Certificate", "LayerCertificate"]

SCHEMA = "pnp-lip certificate 4"


@dataclasses.dataclass(frozen=True)
class LayerCertificate:
    """What was proved of one layer x − τ Wᵀ σ(Wx + b), or of a plain layer Wx + b, where τ and margin are None.

    ``norm`` bounds ‖W‖ from both sides and says by which method, and for which padding and images; ``margin`` ≤
    2 − τ s ‖W‖², positive when the layer is averaged; ``averagedness`` is None when no α < 1 was proved.
    """

    path: str
    kind: str
    norm: NormBound
    tau: float | None
    margin: float | None
    slopes: tuple[float, float]
    lipschitz_upper: float
    averagedness: float | None


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was proved of a whole map, as a real function of its stored weights.

    ``bound`` holds what is proved of the map, each number a float. ``rounding`` bounds ‖fl(D)(x, σ) − D(x, σ)‖₂/√(HW), the
    distance between the map as executed in ``dtype`` and the real one, for images (H, W pixels) with values in [−1, 1] and
    one noise level σ of the range of the denoiser's thresholds; ``execution_error_upper`` states the conditions. It is None
    for maps other than a nonexpansive ``GradientFlowDenoiser`` with its own activations. ``weights`` maps each tensor's
    name to its SHA-256: the certificate speaks of exactly these weights, and loading weights makes it again instead of
    trusting a file. ``failures`` tells people what was not proved, ``stated`` what was taken from a user: the slopes of an
    activation of theirs, a rule of theirs. All this holds for images with at least ``smallest_image`` rows and columns,
    whose numbers ``divisible_by`` divides: then the size that each layer meets is one for which its norm was bounded.

    ``curvature`` is that of a potential, for every noise level, and None for maps of images. A potential gives one number for
    each image: ``bound`` then speaks of the gradient map x ↦ ∇R_σ(x), and the certificate of no denoiser.
    """

    layers: tuple[LayerCertificate, ...]
    bound: MapBound
    weights: dict[str, str]
    dtype: str
    failures: tuple[str, ...] = ()
    rounding: float | None = None
    smallest_image: Pair = (1, 1)
    divisible_by: Pair = (1, 1)
    stated: tuple[str, ...] = ()
    curvature: CurvatureBound | None = None
    version: str = __version__

    @property
    def lipschitz_upper(self) -> float:
        """An upper bound of the Lipschitz constant, for a potential of its gradient's."""
        return float(self.bound.lipschitz)

    @property
    def averagedness(self) -> float | None:
        """An upper bound of α; None when no α < 1 was proved."""
        return None if self.bound.averagedness is None else float(self.bound.averagedness)

    @property
    def proximal(self) -> bool:
        """Whether D was proved to be the prox of a convex function."""
        return self.bound.proximal

    @property
    def box(self) -> tuple[float, float] | None:
        """Bounds of the output's values; None when unbounded."""
        return self.bound.box

    @property
    def scope(self) -> str:
        """For which images this holds, in words."""
        modes = dict.fromkeys(layer.norm.padding_mode for layer in self.layers if layer.norm.padding_mode is not None)
        (rows, columns), (m, n) = self.smallest_image, self.divisible_by
        if not modes and (rows, columns, m, n) == (1, 1, 1, 1):
            return "any input"
        size = "any image size" if self.smallest_image == (1, 1) else f"images of at least {rows} x {columns} pixels"
        divisible = [] if self.divisible_by == (1, 1) else [f"sides divisible by {m} and {n}"]
        return ", ".join([size, *divisible, *(f"{mode} padding" for mode in modes)])

    @property
    def nonexpansive(self) -> bool:
        """Whether ‖Dx − Dy‖ ≤ ‖x − y‖ was proved; of a potential, which is no map of images, it is not."""
        return self.curvature is None and self.bound.lipschitz <= 1

    @property
    def averaged(self) -> bool:
        """Whether D was proved α-averaged for some α < 1."""
        return self.bound.averagedness is not None

    @property
    def firmly_nonexpansive(self) -> bool:
        """Whether D was proved 1/2-averaged."""
        return self.bound.averagedness is not None and self.bound.averagedness <= Fraction(1, 2)

    def require_nonexpansive(self) -> "Certificate":
        """Return self, or raise CertificateError with every layer that failed and its numbers."""
        if self.nonexpansive:
            return self
        if self.curvature is not None:
            raise CertificateError(
                "this is a potential R, which gives one number for each image, and no denoiser; its certificate bounds R's "
                "curvature. Use its prox, pnp_lip.solvers.ProximalDenoiser(potential), or minimise with it: Variational."
            )
        unknown = f"its Lipschitz constant is only known to be at most {self.lipschitz_upper:.6g}"
        advice = ". Shorten the steps with pnp_lip.enforce(module), or train under constrain(module)."
        raise CertificateError(
            f"this map is not certified as nonexpansive: {'; '.join(self.failures) or unknown}"
            + advice * any(layer.tau is not None for layer in self.layers)
        )

    def to_json(self) -> str:
        """A JSON text; numbers that carry a proof are hexadecimal floats, so that no digit is lost."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self, dict_factory=encode)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read what ``to_json`` wrote. Raises CertificateError for anything else, files of older versions included."""
        try:
            data = strict_json(text)
            if data.get("schema") != SCHEMA:
                raise CertificateError(f"expected the schema {SCHEMA!r}; got {data.get('schema')!r}. Certify the weights anew.")
            fits(data, CERTIFICATE, "certificate")
            del data["schema"]
            data["layers"] = tuple(map(decode_layer, data["layers"]))
            bound = data["bound"]
            constant, alpha = Fraction(float.fromhex(bound["lipschitz"])), number(bound["averagedness"])
            exact = {"lipschitz": constant, "averagedness": None if alpha is None else Fraction(alpha)}
            data["bound"] = MapBound(**{**bound, **exact, "box": None if bound["box"] is None else tuple(bound["box"])})
            texts = {name: tuple(map(str, data[name])) for name in ("failures", "stated")}
            sizes = {name: pair(data[name]) for name in ("smallest_image", "divisible_by")}
            found, error = data["curvature"], number(data["rounding"])
            curvature = None if found is None else CurvatureBound(*(float.fromhex(found[end]) for end in ("lower", "upper")))
            certificate = cls(**{**data, **texts, **sizes, "rounding": error, "curvature": curvature})
            require_possible(certificate)
            return certificate
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
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
            values = (layer.tau, layer.margin, layer.averagedness)
            tau, margin, share = ("-" if v is None else f"{v:.6f}" for v in values)
            name, norm = layer.path or layer.kind, layer.norm
            rows.append(f"{name:<24}{norm.upper:>12.6f}{norm.lower:>12.6f}{tau:>10}{margin:>12}{share:>10}")
        known = f"Lipschitz constant ≤ {self.lipschitz_upper:.9g}"
        if self.curvature is None:
            rows.append(f"{known}; {alpha}{firm}; {self.scope}")
        else:
            rows.append(
                f"{self.curvature.lower:.9g} ≤ curvature ≤ {self.curvature.upper:.9g} for every noise level; {self.scope}"
            )
            rows.append(f"a potential, one number for each image; its gradient has a {known}")
        if self.rounding is not None:
            rows.append(f"executed in {self.dtype}, at most {self.rounding:.2g} off per pixel (root mean square)")
        rows += [f"stated by the user: {statement}" for statement in self.stated]
        return "\n".join(rows + [f"not proved: {failure}" for failure in self.failures])


def require_possible(certificate: Certificate) -> None:
    """Raise ValueError for numbers that no proof gives, whatever the map."""
    bound = certificate.bound
    constants = [float(bound.lipschitz), *(line.lipschitz_upper for line in certificate.layers), certificate.rounding or 0.0]
    shares = [bound.averagedness, *(line.averagedness for line in certificate.layers)]
    intervals = [(line.norm.lower, line.norm.upper) for line in certificate.layers]
    intervals += [line.slopes for line in certificate.layers] + ([] if bound.box is None else [bound.box])
    if min(constants) < 0 or any(line.norm.upper < 0 for line in certificate.layers):
        raise ValueError("a bound of a Lipschitz constant, a norm or an error is negative")
    if not all(share is None or 0 <= share <= 1 for share in shares):
        raise ValueError("an averagedness lies outside of [0, 1]")
    if not all(low <= high for low, high in intervals):
        raise ValueError("a lower bound is above its upper bound")
    curvature = certificate.curvature
    if curvature is not None and bound.lipschitz < max(-curvature.lower, curvature.upper):
        raise ValueError("the gradient's Lipschitz constant is below the curvature")


def encode(fields: list[tuple[str, object]]) -> dict[str, object]:
    """One record for JSON: methods by their names, numbers as hexadecimal floats (but not those of tuples)."""
    names = {name: value.name for name, value in fields if isinstance(value, Method)}
    numbers = {name: float(value).hex() for name, value in fields if isinstance(value, float | Fraction)}
    return {**dict(fields), **names, **numbers}


def number(text: str | None) -> float | None:
    """Undo ``encode`` for a float or None."""
    return None if text is None else float.fromhex(text)


def decode_layer(data: dict[str, Any]) -> LayerCertificate:
    """Undo ``encode`` for a layer. Raises ValueError for an unknown padding or method."""
    norm = data["norm"]
    if norm["padding_mode"] not in (*get_args(PaddingMode), None):
        raise ValueError(f"unknown padding {norm['padding_mode']!r}")
    norm |= {name: float.fromhex(norm[name]) for name in ("upper", "lower")}
    norm |= {name: pair(norm[name]) for name in ("smallest_image", "divisible_by")} | {"witness": tuple(norm["witness"])}
    found = {name: number(data[name]) for name in ("tau", "margin", "lipschitz_upper", "averagedness")}
    bound = NormBound(**{**norm, "method": Method[norm["method"]]})
    return LayerCertificate(**{**data, **found, "slopes": tuple(data["slopes"]), "norm": bound})

"""What a guarantee speaks of, kept in little memory, to tell whether it has changed since."""

import dataclasses
from collections.abc import Hashable

import torch
from torch import Tensor

from pnp_lip.certificates import certify
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError
from pnp_lip.fingerprint import trace
from pnp_lip.solvers.maps import Maps

__all__ = ["DOT_LIMIT", "Pairs", "Witness"]

DOT_LIMIT = {torch.float32: 1e-4, torch.float64: 1e-9}  # rounding of inner products of honest operators, relative
SKETCH = 2**16  # numbers that are kept of an image: the length of a difference is then known to 1 %

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]  # u, A u, v, A*v


@dataclasses.dataclass(frozen=True)
class Witness:
    """What a guarantee speaks of, as it was before the run, to tell whether it has changed since.

    The denoiser's ``certificate``, a fingerprint of the ``data`` (y, σ, the data term), and of random signs u and v what A
    and A* made: sketches of ``image`` = A u, of signs v, and ``back`` = A*v, of signs u.
    """

    certificate: Certificate | None
    data: Hashable
    u: Tensor
    image: Tensor
    v: Tensor
    back: Tensor

    @classmethod
    def of(cls, certificate: Certificate | None, maps: Maps, pairs: Pairs) -> "Witness":
        """The witness of examples with random signs u and v."""
        u, image, v, back = pairs
        return cls(certificate, described(maps), u.to(torch.int8), sketch(image, v), v.to(torch.int8), sketch(back, u))

    def changed(self, maps: Maps, denoiser: object) -> str | None:
        """What is no longer the same, None if nothing is."""
        if (found := self.moved(maps)) is not None:
            return found
        try:
            same = self.certificate is not None and certify(denoiser) == self.certificate  # type: ignore[arg-type]
        except CertificateError:
            same = False
        return None if same else "the denoiser changed during the run"

    def moved(self, maps: Maps) -> str | None:
        """What is no longer the same of data and forward model, None if nothing is."""
        u, v = self.u.to(maps.y), self.v.to(maps.y)
        pairs = (self.image, sketch(maps.physics.A(u), v)), (self.back, sketch(maps.physics.A_adjoint(v), u))
        if self.data != described(maps):
            return "the data, the noise level or the data term changed during the run"
        if not all(float((new - old).norm()) <= DOT_LIMIT.get(old.dtype, 1e-4) * float(old.norm()) for old, new in pairs):
            return "the forward model changed during the run"
        return None


def sketch(t: Tensor, signs: Tensor) -> Tensor:
    """The sums of t·signs over the numbers with the same place modulo SKETCH: as long as t, on average over random signs.

    Source: Charikar, Chen & Farach-Colton (2002), with places that are not random.
    """
    product = (t * signs).flatten()
    total = product[:SKETCH].clone()
    for start in range(SKETCH, len(product), SKETCH):
        part = product[start : start + SKETCH]
        total[: len(part)] += part
    return total


def described(maps: Maps) -> Hashable:
    """A fingerprint of the data, the noise level and the data term."""
    return trace((maps.y, maps.sigma, maps.data_term))

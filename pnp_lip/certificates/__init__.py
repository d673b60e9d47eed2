"""Certificates: what was proved of a map, by which argument, for which weights."""

from pnp_lip.certificates import plain, potentials  # noqa: F401 (they register their rules)
from pnp_lip.certificates.calculus import CurvatureBound, MapBound
from pnp_lip.certificates.certificate import Certificate, LayerCertificate
from pnp_lip.certificates.certify import Proof, certify, describe, hash_weights, rule
from pnp_lip.certificates.enforce import Change, enforce, firm
from pnp_lip.renamed import renamed

__all__ = [
    "Certificate",
    "Change",
    "CurvatureBound",
    "LayerCertificate",
    "MapBound",
    "Proof",
    "certify",
    "describe",
    "enforce",
    "firm",
    "hash_weights",
    "rule",
]

__getattr__ = renamed(
    __name__,
    {
        "certified_radius": "pnp_lip.theory:certified_radius",
        "output_lipschitz_upper": "pnp_lip.theory:output_lipschitz_upper",
    },
)

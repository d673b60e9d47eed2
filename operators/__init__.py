"""Forward models with exact adjoints, certified norms and prox maps of certified accuracy."""

from pnp_lip.operators.astra import from_astra
from pnp_lip.operators.blur import Blur
from pnp_lip.operators.certified_physics import CertifiedPhysics
from pnp_lip.operators.certify_norm import certify_norm
from pnp_lip.operators.cone_beam import ConeBeamTomography
from pnp_lip.operators.cone_geometry import ConeBeam
from pnp_lip.operators.conjugate_gradient import ProxResult
from pnp_lip.operators.fan_beam import FanBeam, FanBeamTomography
from pnp_lip.operators.foreign_operator import ForeignOperator, from_linear_operator
from pnp_lip.operators.hounsfield import attenuation_to_hounsfield, hounsfield_to_attenuation
from pnp_lip.operators.norm_rules import norm_rule, stated_norm
from pnp_lip.operators.parallel_beam import ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import Sinogram, demo_sinogram
from pnp_lip.operators.psf import box_psf, check_psf, disk_psf, gaussian_psf, load_psf, motion_psf, parse_psf, shake_psf
from pnp_lip.operators.sparse_operator import SparseOperator, from_scipy
from pnp_lip.renamed import renamed

__all__ = [
    "Blur",
    "CertifiedPhysics",
    "ConeBeam",
    "ConeBeamTomography",
    "FanBeam",
    "FanBeamTomography",
    "ForeignOperator",
    "ParallelBeam",
    "ParallelBeamTomography",
    "ProxResult",
    "Sinogram",
    "SparseOperator",
    "attenuation_to_hounsfield",
    "box_psf",
    "certify_norm",
    "check_psf",
    "demo_sinogram",
    "disk_psf",
    "from_astra",
    "from_linear_operator",
    "from_scipy",
    "gaussian_psf",
    "hounsfield_to_attenuation",
    "load_psf",
    "motion_psf",
    "norm_rule",
    "parse_psf",
    "shake_psf",
    "stated_norm",
]

KINDS = ("box", "disk", "gaussian", "load", "motion", "shake")
__getattr__ = renamed(__name__, {f"{kind}_kernel": f"{kind}_psf" for kind in KINDS})

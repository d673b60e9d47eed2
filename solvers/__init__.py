"""Splitting algorithms that say which convergence theorem holds, with the numbers that met its hypotheses."""

from pnp_lip.fingerprint import recognise
from pnp_lip.renamed import renamed
from pnp_lip.solvers.admm import ADMM
from pnp_lip.solvers.anderson import Anderson
from pnp_lip.solvers.checkpoint import Checkpoint
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares, UserFidelity, WeightedLeastSquares
from pnp_lip.solvers.davis_yin import DavisYin
from pnp_lip.solvers.denoising import Denoising
from pnp_lip.solvers.douglas_rachford import DouglasRachford
from pnp_lip.solvers.fista import FISTA
from pnp_lip.solvers.fixed_map import fixed_map
from pnp_lip.solvers.forward_backward import ForwardBackward
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.half_quadratic import HalfQuadratic
from pnp_lip.solvers.halpern import Halpern
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.krasnoselskii_mann import KrasnoselskiiMann
from pnp_lip.solvers.licences import SOLVERS, licensed
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.parameter_choice import Choice, choose_by_discrepancy, choose_by_held_out, choose_by_reference
from pnp_lip.solvers.photon_counts import PoissonLikelihood, TransmissionLikelihood
from pnp_lip.solvers.potential_prior import PotentialPrior
from pnp_lip.solvers.primal_dual import PrimalDual
from pnp_lip.solvers.proximal_denoiser import ProximalDenoiser
from pnp_lip.solvers.proximal_red import ProximalRED
from pnp_lip.solvers.red import RED
from pnp_lip.solvers.result import History, Result
from pnp_lip.solvers.scan_strength import SCAN_WEIGHT, choose_for_scan, noise_of_scan
from pnp_lip.solvers.scheme import Scheme
from pnp_lip.solvers.solver import Solver
from pnp_lip.solvers.variational import NOISE_FACTOR, Variational

__all__ = [
    "ADMM",
    "FISTA",
    "NOISE_FACTOR",
    "RED",
    "SCAN_WEIGHT",
    "Anderson",
    "Checkpoint",
    "Choice",
    "DataTerm",
    "DavisYin",
    "Denoising",
    "DouglasRachford",
    "ForwardBackward",
    "Guarantee",
    "HalfQuadratic",
    "Halpern",
    "History",
    "Hypothesis",
    "Iteration",
    "Known",
    "KrasnoselskiiMann",
    "LeastSquares",
    "Maps",
    "PoissonLikelihood",
    "PotentialPrior",
    "PrimalDual",
    "ProximalDenoiser",
    "ProximalRED",
    "Result",
    "Scheme",
    "Solver",
    "TransmissionLikelihood",
    "UserFidelity",
    "Variational",
    "WeightedLeastSquares",
    "choose_by_discrepancy",
    "choose_by_held_out",
    "choose_by_reference",
    "choose_for_scan",
    "fixed_map",
    "licensed",
    "noise_of_scan",
]

# Their theorems are ours; those of other classes are the user's.
recognise(*SOLVERS, Denoising, Variational, KrasnoselskiiMann, Halpern, Anderson, FISTA)
recognise(LeastSquares, WeightedLeastSquares, PoissonLikelihood, TransmissionLikelihood, UserFidelity)

__getattr__ = renamed(
    __name__,
    {
        "Acceleration": "Scheme",
        "ChambolleDossal": "FISTA",
        "Relaxed": "KrasnoselskiiMann",
        "StatedFidelity": "UserFidelity",
    },
)

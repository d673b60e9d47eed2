"""Splitting algorithms that say which convergence theorem holds, with the numbers that met its hypotheses."""

from pnp_lip.solvers.acceleration import Acceleration
from pnp_lip.solvers.checkpoint import Checkpoint
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares, StatedFidelity, WeightedLeastSquares
from pnp_lip.solvers.forward_backward import ForwardBackward
from pnp_lip.solvers.guarantee import Guarantee, Hypothesis
from pnp_lip.solvers.relaxed import Relaxed
from pnp_lip.solvers.result import History, Result
from pnp_lip.solvers.solver import Solver

__all__ = [
    "Acceleration",
    "Checkpoint",
    "DataTerm",
    "ForwardBackward",
    "Guarantee",
    "History",
    "Hypothesis",
    "LeastSquares",
    "Relaxed",
    "Result",
    "Solver",
    "StatedFidelity",
    "WeightedLeastSquares",
]

"""The experiments of the approximation theory: each a table of cells, computed once and kept."""

from pnp_lip.theory.experiments.approximation_rate import approximation_rate_experiment
from pnp_lip.theory.experiments.classification import mnist_experiment, two_moons_experiment
from pnp_lip.theory.experiments.constraint_cost import constraint_cost_experiment
from pnp_lip.theory.experiments.experiment import Experiment, run_experiment

__all__ = [
    "Experiment",
    "approximation_rate_experiment",
    "constraint_cost_experiment",
    "mnist_experiment",
    "run_experiment",
    "two_moons_experiment",
]

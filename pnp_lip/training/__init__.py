"""Training of denoisers and potentials on a folder of photographs."""

from pnp_lip.training.curvature import constrain_curvature
from pnp_lip.training.patches import PatchSettings, load_photographs
from pnp_lip.training.potential_training import new_potential
from pnp_lip.training.problems import ProblemSettings
from pnp_lip.training.train import train, validate
from pnp_lip.training.training_run import TrainingSettings

__all__ = [
    "PatchSettings",
    "ProblemSettings",
    "TrainingSettings",
    "constrain_curvature",
    "load_photographs",
    "new_potential",
    "train",
    "validate",
]

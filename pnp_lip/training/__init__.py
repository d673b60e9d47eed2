"""Training of denoisers on a folder of photographs."""

from pnp_lip.training.equilibrium import ProblemSettings
from pnp_lip.training.patches import PatchSettings, load_photographs
from pnp_lip.training.train import train, validate
from pnp_lip.training.training_run import TrainingSettings

__all__ = [
    "PatchSettings",
    "ProblemSettings",
    "TrainingSettings",
    "load_photographs",
    "train",
    "validate",
]

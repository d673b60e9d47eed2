"""Training of denoisers on a folder of photographs."""

from pnp_lip.renamed import renamed
from pnp_lip.training.patches import load_photographs
from pnp_lip.training.ranks import join_ranks
from pnp_lip.training.settings import PatchSettings, ProblemSettings, TrainingSettings
from pnp_lip.training.train import train, validate

__all__ = [
    "PatchSettings",
    "ProblemSettings",
    "TrainingSettings",
    "join_ranks",
    "load_photographs",
    "train",
    "validate",
]

OLD = {"add_guidance": "pnp_lip.denoisers:add_guidance", "PatchSampler": "pnp_lip.training.patches:PatchSampler"}
__getattr__ = renamed(__name__, OLD)

"""Training of denoisers on a folder of photographs."""

from pnp_lip.training.enlarge import enlarge_filters
from pnp_lip.training.patches import TEXTURE_THRESHOLD, PatchSampler, load_photographs
from pnp_lip.training.ranks import join_ranks
from pnp_lip.training.train import TrainingSettings, train, validate

__all__ = [
    "TEXTURE_THRESHOLD",
    "PatchSampler",
    "TrainingSettings",
    "enlarge_filters",
    "join_ranks",
    "load_photographs",
    "train",
    "validate",
]

"""Gradient-flow layers, their activations, the isometric lift, and the two ways of keeping the constraint."""

from pnp_lip.layers.activations import Activation, Clip, Identity, NoiseClip, ReLU, SoftThreshold
from pnp_lip.layers.constraints import constrain, project, release
from pnp_lip.layers.gradient_flow_conv2d import PADDING_MODES, GradientFlowConv2d
from pnp_lip.layers.gradient_flow_linear import GradientFlowLinear
from pnp_lip.layers.isometric_lift import IsometricLift
from pnp_lip.layers.redescending_clip import RedescendingClip
from pnp_lip.layers.unet import UNet

__all__ = [
    "PADDING_MODES",
    "Activation",
    "Clip",
    "GradientFlowConv2d",
    "GradientFlowLinear",
    "Identity",
    "IsometricLift",
    "NoiseClip",
    "ReLU",
    "RedescendingClip",
    "SoftThreshold",
    "UNet",
    "constrain",
    "project",
    "release",
]

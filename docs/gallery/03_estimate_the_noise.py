"""
Estimate the noise
==================

``estimate_noise`` reads the noise level from the image itself. The line is the true level.
"""

import matplotlib.pyplot as plt
import torch
from skimage import data

import pnp_lip

truth = torch.tensor(data.camera() / 255).float()[None, None, 100:228, 180:308]
noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
levels = [0.01, 0.02, 0.04, 0.06, 0.08, 0.1]
estimates = [pnp_lip.estimate_noise(truth + level * noise) for level in levels]

fig, axis = plt.subplots(figsize=(5, 4), layout="constrained")
axis.plot(levels, levels, label="true")
axis.plot(levels, estimates, "o", label="estimated")
axis.set(xlabel="noise level", ylabel="estimate")
axis.legend()

"""
Deblur a photograph
===================

The camera moved during the exposure. ``deblur`` needs the photograph and its blur, here in words: a straight
motion of 12 pixels at 35 degrees. It estimates the noise level.
"""

import matplotlib.pyplot as plt
import torch
from skimage import data

import pnp_lip
from pnp_lip.operators import Blur, motion_psf

truth = torch.tensor(data.camera()[100:212, 180:292] / 255).float()
camera = Blur(motion_psf(12, 35), (1, 112, 112), padding="valid")  # what lies beyond the border is unknown
y = camera(truth[None, None])[0, 0]
y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))

restored = pnp_lip.deblur(y, "motion:12:35")
print(restored)
images = {"truth": truth, "photograph": y, "restored": restored.image}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

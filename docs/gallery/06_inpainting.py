"""
Fill in missing pixels
======================

Any linear forward model of deepinv works. Here 60 % of the pixels are missing.
"""

import matplotlib.pyplot as plt
import torch
from deepinv.physics import Inpainting
from skimage import data

from pnp_lip import load_pretrained
from pnp_lip.solvers import Anderson, ForwardBackward

truth = torch.tensor(data.camera()[100:196, 180:276] / 255).float()[None, None]
known = (torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) > 0.6).float()
physics = Inpainting((1, 96, 96), mask=known[0])
y = physics(truth)

solver = ForwardBackward(load_pretrained("tiny"), sigma=0.02, box=(0, 1), scheme=Anderson(), tol=1e-4)
result = solver.solve(y, physics)
print(result.status, result.guarantee.title)
images = {"truth": truth[0, 0], "data": y[0, 0], "filled in": result.x[0, 0]}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

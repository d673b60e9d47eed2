"""
Few photons
===========

A detector counts photons. With few of them the logarithm of the counts is biased, so the counts themselves are the
data, with their likelihood.
"""

import matplotlib.pyplot as plt
import torch

from pnp_lip import Variational, load_pretrained
from pnp_lip.operators import ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.solvers import TransmissionLikelihood

truth = ellipse_image(48).float()[None, None]
physics = ParallelBeamTomography(torch.arange(0.0, 180, 6), (1, 48, 48))
mean = 100 * torch.exp(-0.1 * physics(truth))
counts = torch.poisson(mean, generator=torch.Generator().manual_seed(0))

term = TransmissionLikelihood(flat=100.0, scale=0.1)
solver = Variational(load_pretrained("ridge"), sigma=0.1, weight=32, data_term=term, tol=1e-3)
result = solver.solve(counts, physics)
fbp = physics.fbp(-torch.log(counts.clamp(min=1) / 100) / 0.1)
images = {"truth": truth[0, 0], "FBP of the logarithm": fbp[0, 0], "likelihood": result.x[0, 0]}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

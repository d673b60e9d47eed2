"""Training patches from a folder of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES, read_image, to_grey
from pnp_lip.training.settings import PER_IMAGE, PatchSettings

__all__ = ["PatchSampler", "load_photographs", "turned"]

TEXTURE_THRESHOLD = 3 / 255  # of a patch's ``texture``, on the scale of images: below it a patch is smooth
SMOOTH_SHARE = 8  # under the texture rule one smooth patch in so many is kept


def load_photographs(
    folder: str | Path, *, colour: bool = False, hold_out: int = 20
) -> tuple[list[Tensor], list[Tensor]]:
    """Read every image of ``folder``, sorted by name; every ``hold_out``-th is kept for validation.

    Returns (training, validation), each a list of (C, H, W) float32 tensors on [0, 1]. Raises InputError when the folder
    holds fewer than two images.
    """
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of images.")
    if len(paths) < 2:
        raise InputError(f"{folder}: expected a folder with at least two images; found {len(paths)}.")
    images = [read_image(path) for path in paths]
    images = [x.expand(-1, 3, -1, -1)[0] if colour else to_grey(x)[0] for x in images]
    held = set(range(0, len(images), min(hold_out, len(images))))
    return [x for i, x in enumerate(images) if i not in held], [images[i] for i in sorted(held)]


def texture(patches: Tensor) -> Tensor:
    """The standard deviation of (pixel − mean of its 4 neighbours), per patch of shape (N, 1, P, P)."""
    kernel = patches.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None] / 4
    return F.conv2d(patches, kernel).flatten(1).std(1)


def at_scales(images: Sequence[Tensor], scales: Sequence[int]) -> list[Tensor]:
    """Each image (C, H, W) reduced by each factor, by averaging: photographs of several resolutions."""
    return [x if n == 1 else F.avg_pool2d(x[None], n)[0] for n in scales for x in images if min(x.shape[-2:]) >= n]


class PatchSampler:
    """Draws batches of patches with random position, flip and rotation.

    Each batch holds four patches of each of its images, which are drawn with equal probability, whatever their size. Places
    lie on a grid of stride size/2; under the texture rule those with a texture below 3/255 are left out, but for one in
    eight of all places. Around its place a patch is shifted by up to half a stride. All randomness comes from ``generator``. The
    rule costs 0.2 dB at low noise and brings photographs nearer to more detailed ones (docs/notebook/training.md).
    """

    def __init__(self, images: Sequence[Tensor], settings: PatchSettings, generator: torch.Generator) -> None:
        self.size, self.batch, self.generator = settings.size, settings.batch, generator
        self.threshold = TEXTURE_THRESHOLD if settings.texture_rule else 0.0
        self.images = [x for x in at_scales(images, settings.scales) if min(x.shape[-2:]) >= self.size]
        if not self.images:
            raise InputError(f"no image is at least {self.size} pixels wide and high; choose smaller patches.")
        self.places = [places for i, x in enumerate(self.images) if len(places := self.kept_places(i, x))]

    def kept_places(self, index: int, image: Tensor) -> Tensor:
        """Rows (image, top, left) of the places that the texture rule keeps."""
        stride = self.size // 2
        grey = to_grey(image[None])
        windows = grey.unfold(2, self.size, stride).unfold(3, self.size, stride)[0, 0]
        rough = texture(windows.reshape(-1, 1, self.size, self.size)) >= self.threshold
        rough[::SMOOTH_SHARE] = True
        places = torch.cartesian_prod(torch.arange(windows.shape[0]), torch.arange(windows.shape[1])).reshape(-1, 2)
        places = places[rough] * stride
        return torch.cat([torch.full((len(places), 1), index), places], dim=1)

    def __call__(self) -> Tensor:
        """A batch of shape (batch, C, size, size)."""
        images = torch.randint(len(self.places), (self.batch // PER_IMAGE,), generator=self.generator)
        places = torch.cat([self.some(self.places[int(i)]) for i in images])
        half = self.size // 4
        shifts = torch.randint(-half, half + 1, (self.batch, 2), generator=self.generator)
        turns = torch.randint(8, (self.batch,), generator=self.generator)
        return torch.stack(
            [self.cut(place, shift, int(turn)) for place, shift, turn in zip(places, shifts, turns, strict=True)]
        )

    def some(self, places: Tensor) -> Tensor:
        """As many of one image's places as a batch holds."""
        return places[torch.randint(len(places), (PER_IMAGE,), generator=self.generator)]

    def cut(self, place: Tensor, shift: Tensor, turn: int) -> Tensor:
        """One patch, moved by ``shift`` inside its image and turned by one of the square's eight symmetries."""
        image = self.images[int(place[0])]
        top = int((place[1] + shift[0]).clamp(0, image.shape[1] - self.size))
        left = int((place[2] + shift[1]).clamp(0, image.shape[2] - self.size))
        patch = image[:, top : top + self.size, left : left + self.size]
        return turned(patch, turn)


def turned(x: Tensor, turn: int) -> Tensor:
    """x (..., n, n) under one of the square's eight symmetries, ``turn`` from 0 to 7."""
    x = torch.rot90(x, turn % 4, (-2, -1))
    return x.flip(-1) if turn >= 4 else x

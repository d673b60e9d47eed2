"""Training patches from a folder of photographs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES, to_grey
from pnp_lip.pictures import read_image

__all__ = ["PER_IMAGE", "PatchSampler", "PatchSettings", "load_photographs"]

PER_IMAGE = 4  # patches of each image in a batch, by which its error is known (docs/notebook/training.md)
TEXTURE_THRESHOLD = 3 / 255  # on the scale of images: below it a patch is smooth
SMOOTH_SHARE = 8  # under the texture rule one smooth patch in so many is kept


@dataclasses.dataclass(frozen=True)
class PatchSettings:
    """Which patches the images of a step are: ``batch`` of them, ``size`` pixels a side, four of each photograph.

    Every photograph takes part reduced by each of the factors ``scales``. With ``texture_rule`` only one in eight of the
    smooth patches is kept. Raises InputError for numbers that are too small, and for a batch that is no multiple of four.
    """

    batch: int = 8
    size: int = 64
    scales: tuple[int, ...] = (1, 2)
    texture_rule: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % PER_IMAGE or self.size < 8:
            raise InputError(
                f"a batch is a multiple of {PER_IMAGE} patches, at least 8 pixels wide; got {self.batch} of {self.size}."
            )
        if not self.scales or min(self.scales) < 1:
            raise InputError(f"`scales` are factors of at least 1 by which photographs are reduced; got {self.scales}.")


def load_photographs(folder: str | Path, *, colour: bool = False, hold_out: int = 20) -> tuple[list[Tensor], list[Tensor]]:
    """Read every image of ``folder``, sorted by name; every ``hold_out``-th is kept for validation.

    Returns (training, validation), each a list of (C, H, W) float32 tensors on [0, 1]. Raises InputError when the folder
    holds fewer than two images.
    """
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of images.")
    if len(paths) < 2:
        raise InputError(f"{folder}: expected a folder with at least two images; found {len(paths)}.")
    images = [x.expand(-1, 3, -1, -1)[0] if colour else to_grey(x)[0] for x in map(read_image, paths)]
    held = set(range(0, len(images), min(hold_out, len(images))))
    return [x for i, x in enumerate(images) if i not in held], [images[i] for i in sorted(held)]


class PatchSampler:
    """Draws batches of patches with random position, flip and rotation.

    Each batch holds four patches of each of its images, which are drawn with equal probability, whatever their size. Places
    lie on a grid of stride size/2; around its place a patch is shifted by up to half a stride. The texture rule costs 0.2 dB
    at low noise and brings photographs nearer to more detailed ones (docs/notebook/training.md).
    """

    def __init__(self, images: Sequence[Tensor], settings: PatchSettings, generator: torch.Generator) -> None:
        self.size, self.batch, self.generator = settings.size, settings.batch, generator
        self.threshold = TEXTURE_THRESHOLD if settings.texture_rule else 0.0
        large = [(x, n) for n in settings.scales for x in images if min(x.shape[-2:]) >= n * self.size]
        self.images = [x if n == 1 else F.avg_pool2d(x[None], n)[0] for x, n in large]
        if not self.images:
            raise InputError(f"no image is at least {self.size} pixels wide and high; choose smaller patches.")
        self.places = [self.kept_places(x) for x in self.images]

    def kept_places(self, image: Tensor) -> Tensor:
        """Rows (top, left) of the places with a texture: the standard deviation of (pixel − mean of its 4 neighbours)."""
        stride = self.size // 2
        windows = to_grey(image[None]).unfold(2, self.size, stride).unfold(3, self.size, stride)[0, 0]
        kernel = image.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None] / 4
        texture = F.conv2d(windows.reshape(-1, 1, self.size, self.size), kernel).flatten(1).std(1)
        kept = texture >= self.threshold
        kept[::SMOOTH_SHARE] = True
        places = torch.cartesian_prod(torch.arange(windows.shape[0]), torch.arange(windows.shape[1])).reshape(-1, 2)
        return places[kept] * stride

    def __call__(self) -> Tensor:
        """A batch of shape (batch, C, size, size)."""
        size, half, generator = self.size, self.size // 4, self.generator
        chosen = torch.randint(len(self.images), (self.batch // PER_IMAGE,), generator=generator).tolist()
        kept = [self.places[i] for i in chosen]
        places = torch.cat([rows[torch.randint(len(rows), (PER_IMAGE,), generator=generator)] for rows in kept])
        shifts = torch.randint(-half, half + 1, (self.batch, 2), generator=generator)
        turns = torch.randint(8, (self.batch,), generator=generator).tolist()
        patches = []
        for k, (corner, turn) in enumerate(zip(places + shifts, turns, strict=True)):
            image = self.images[chosen[k // PER_IMAGE]]
            top, left = (int(c.clamp(0, n - size)) for c, n in zip(corner, image.shape[1:], strict=True))
            patch = torch.rot90(image[:, top : top + size, left : left + size], turn % 4, (-2, -1))
            patches.append(patch.flip(-1) if turn >= 4 else patch)  # one of the square's eight symmetries
        return torch.stack(patches)

"""The images a benchmark runs on: scikit-image's photographs or a folder of the user's, never a validation image."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from pnp_lip.benchmarks.config import Photographs
from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES, read_image, to_grey

__all__ = ["VALIDATION", "NamedImage", "central_crop", "hashes", "load_images", "photograph", "sha256_of", "source",
           "validation_images"]  # fmt: skip

PHOTOGRAPHS = ("camera", "chelsea", "coffee", "coins", "moon", "rocket")
VALIDATION = ("astronaut", "clock", "stereo_motorcycle")  # on which every strength is chosen; never reported
IN_COLOUR = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
SIDE = 256  # pixels, of scikit-image's photographs after reduction by averaging
SIDES = (64, 96, 128)  # pixels, of validation images in the shipped configurations


@dataclasses.dataclass(frozen=True)
class NamedImage:
    """An image (1, C, H, W) on [0, 1] with its name."""

    name: str
    x: Tensor

    @property
    def sha256(self) -> str:
        """Of its pixels in float32."""
        return sha256_of(self.x)


def whole(name: str, *, colour: bool = False) -> Tensor:
    """One of scikit-image's photographs, grey unless ``colour``; the left one of a stereo pair."""
    from skimage import data

    found = getattr(data, name)()
    pixels = torch.from_numpy(found[0] if isinstance(found, tuple) else found).float() / 255
    x = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    return x if colour else to_grey(x)


def photograph(name: str, size: int, *, colour: bool = False) -> Tensor:
    """One of scikit-image's photographs, grey unless ``colour``, its central square reduced to ``size`` pixels by averaging."""
    x = whole(name, colour=colour)
    side = min(x.shape[-2:]) // size * size
    return torch.nn.functional.avg_pool2d(central_crop(x, side, name), side // size)


def validation_images(side: int, *, colour: bool = False) -> list[NamedImage]:
    """The photographs on which strengths are chosen, at the scale of those on trial: a face, a smooth one, one full of edges.

    Their central ``side`` pixels of ``SIDE``; in colour those that have colours.
    """
    found = {n: photograph(n, SIDE, colour=colour) for n in VALIDATION if not colour or n in IN_COLOUR}
    return [NamedImage(name, central_crop(x, side, name)) for name, x in found.items()]


def load_images(which: Photographs) -> list[NamedImage]:
    """The images on trial in the order of their names.

    Raises InputError for a folder without images, an image smaller than the crop or without the colours that are asked for,
    or one with the pixels of a validation photograph.
    """
    if which.images is None:
        names = [name for name in PHOTOGRAPHS if not which.colour or name in IN_COLOUR][: which.limit]
        found = [(name, name, photograph(name, SIDE, colour=which.colour)) for name in names]
    else:
        paths = sorted(p for p in which.images.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)[: which.limit]
        if not paths:
            raise InputError(f"{which.images}: no images ({', '.join(IMAGE_SUFFIXES)}) there.")
        found = [(p.stem, str(p), read_image(p, grey=not which.colour)) for p in paths]
        without = [Path(path).name for _, path, x in found if x.shape[1] != (3 if which.colour else 1)]
        if without:
            raise InputError(f"{', '.join(without)}: grey, where colour is asked for; use a folder of colour images.")
    images = [NamedImage(name, central_crop(x, which.crop, path)) for name, path, x in found]
    refuse_validation(images, which.crop)
    return images


def source(which: Photographs) -> str:
    """Where the images come from."""
    return "scikit-image" if which.images is None else which.images.name


def sha256_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def hashes(images: list[NamedImage]) -> dict[str, str]:
    """SHA-256 of each image by name."""
    return {image.name: image.sha256 for image in images}


def central_crop(x: Tensor, side: int | None, name: str) -> Tensor:
    """The middle ``side`` × ``side`` pixels; the whole image if it is None or 0."""
    if not side:
        return x
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    if min(top, left) < 0:
        raise InputError(f"{name}: cannot crop {side} x {side} pixels from an image of {tuple(x.shape[-2:])}.")
    return x[..., top : top + side, left : left + side].contiguous()


def refuse_validation(images: list[NamedImage], crop: int | None) -> None:
    """Raise InputError when an image on trial is one of those that strengths are chosen on."""
    forms = []
    for colour in (False, True):
        forms += [photograph(name, n, colour=colour) for name in VALIDATION for n in (*SIDES, SIDE)]
        forms += [whole(name, colour=colour) for name in VALIDATION]
        forms += [image.x for n in SIDES for image in validation_images(n, colour=colour)]
    forms += [central_crop(v, crop, "") for v in forms if crop and min(v.shape[-2:]) >= crop]
    known = {sha256_of(v) for v in forms}
    for image in images:
        if image.sha256 in known:
            raise InputError(f"{image.name} is a validation photograph; a benchmark never reports on it. Remove it.")

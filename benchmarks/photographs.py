"""The images a benchmark runs on: scikit-image's photographs or a folder of the user's, never a validation image."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.benchmarks.config import Photographs
from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES, to_grey
from pnp_lip.pictures import read_image

__all__ = ["VALIDATION", "NamedImage", "central_crop", "hashes", "load_images", "on_trial", "photograph", "sha256_of",
           "validation_images"]  # fmt: skip

PHOTOGRAPHS = ("camera", "chelsea", "coffee", "coins", "moon", "rocket")
# On which every strength is chosen; never reported: a face, a smooth one, one full of edges, cells, and two textures.
VALIDATION = ("astronaut", "clock", "stereo_motorcycle", "cell", "brick", "grass")
VALIDATION_IN_COLOUR = ("astronaut", "stereo_motorcycle", "immunohistochemistry", "retina", "hubble_deep_field")
IN_COLOUR = ("chelsea", "coffee", "rocket")
SIDE = 256  # pixels, of scikit-image's photographs after reduction by averaging
SIDES = (64, 96, 128)  # pixels, of validation images in the shipped configurations


@dataclasses.dataclass(frozen=True)
class NamedImage:
    """An image (1, C, H, W) on [0, 1] with its name."""

    name: str
    x: Tensor


def whole(name: str, *, colour: bool = False) -> Tensor:
    """One of scikit-image's photographs, grey unless ``colour``; the left one of a stereo pair."""
    pixels = torch.tensor(pixels_of(name)).float() / 255
    x = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    return x if colour else to_grey(x)


@functools.cache
def pixels_of(name: str) -> NDArray[np.uint8]:
    """The photograph as scikit-image has it, which would decode its file at each call."""
    from skimage import data

    found = getattr(data, name)()
    pixels: NDArray[np.uint8] = found[0] if isinstance(found, tuple) else found
    pixels.flags.writeable = False
    return pixels


def photograph(name: str, size: int, *, colour: bool = False) -> Tensor:
    """One of scikit-image's photographs, grey unless ``colour``, its central square reduced to ``size`` pixels by averaging."""
    x = whole(name, colour=colour)
    side = min(x.shape[-2:]) // size * size
    return torch.nn.functional.avg_pool2d(central_crop(x, side, name), side // size)


def validation_images(side: int, *, colour: bool = False) -> list[NamedImage]:
    """The photographs on which strengths are chosen, at the scale of those on trial, smooth ones and ones with texture.

    Their central ``side`` pixels of ``SIDE``.
    """
    found = {n: photograph(n, SIDE, colour=colour) for n in (VALIDATION_IN_COLOUR if colour else VALIDATION)}
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
    known = held_out_hashes(which.crop)
    for name in (image.name for image in images if sha256_of(image.x) in known):
        raise InputError(f"{name} is a validation photograph; a benchmark never reports on it. Remove it.")
    return images


@functools.cache
def held_out_hashes(crop: int | None) -> frozenset[str]:
    """SHA-256 of every form of a validation photograph: whole, reduced, the part that is used, and the middle of each."""
    forms = []
    for colour, names in ((False, VALIDATION), (True, VALIDATION_IN_COLOUR)):
        for name in names:
            reduced = photograph(name, SIDE, colour=colour)
            forms += [whole(name, colour=colour), reduced, *(photograph(name, n, colour=colour) for n in SIDES)]
            forms += [central_crop(reduced, n, name) for n in SIDES]
    forms += [central_crop(v, crop, "") for v in forms if crop and min(v.shape[-2:]) >= crop]
    return frozenset(sha256_of(v) for v in forms)


def on_trial(which: Photographs) -> tuple[list[NamedImage], list[NamedImage], dict[str, object]]:
    """The images on trial, those on which strengths are chosen, and what a record says of both."""
    images, held_out = load_images(which), validation_images(which.side, colour=which.colour)
    place = "scikit-image" if which.images is None else which.images.name
    return images, held_out, {"images": hashes(images), "validation": hashes(held_out), "source": place}


def sha256_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def hashes(images: list[NamedImage]) -> dict[str, str]:
    """SHA-256 of each image by name."""
    return {image.name: sha256_of(image.x) for image in images}


def central_crop(x: Tensor, side: int | None, name: str) -> Tensor:
    """The middle ``side`` × ``side`` pixels; the whole image if it is None or 0."""
    if not side:
        return x
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    if min(top, left) < 0:
        raise InputError(f"{name}: cannot crop {side} x {side} pixels from an image of {tuple(x.shape[-2:])}.")
    return x[..., top : top + side, left : left + side].contiguous()

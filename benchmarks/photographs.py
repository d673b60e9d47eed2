"""The images a benchmark is run on: scikit-image's photographs or a folder of the user's, never a validation image."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES, read_image, to_grey

__all__ = ["VALIDATION", "NamedImage", "central_crop", "load_images", "photograph", "sha256_of", "validation_images"]

PHOTOGRAPHS = ("camera", "chelsea", "coffee", "coins", "moon", "rocket")
VALIDATION = ("astronaut", "clock", "stereo_motorcycle")  # on which every strength is chosen; never reported
IN_COLOUR = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
SIDE = 256  # of scikit-image's photographs, after reduction by averaging


@dataclasses.dataclass(frozen=True)
class NamedImage:
    """An image (1, C, H, W) on [0, 1], its name, and the SHA-256 of its pixels in float32."""

    name: str
    x: Tensor
    sha256: str


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
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    return torch.nn.functional.avg_pool2d(x[..., top : top + side, left : left + side], side // size)


def validation_images(side: int, *, colour: bool = False) -> list[NamedImage]:
    """The photographs on which strengths are chosen, a face, a smooth one and one full of edges, at the scale of those on trial.

    Their central ``side`` pixels of ``SIDE``; in colour those that have colours.
    """
    names = [name for name in VALIDATION if not colour or name in IN_COLOUR]
    return [named(name, central_crop(photograph(name, SIDE, colour=colour), side, name)) for name in names]


def load_images(
    folder: Path | None, *, crop: int | None = None, limit: int | None = None, colour: bool = False
) -> list[NamedImage]:
    """The images of ``folder`` in the order of their names, scikit-image's without one; grey, or those in ``colour``.

    ``crop`` keeps the central square of that many pixels, ``limit`` the first images. Raises InputError for a folder
    without images, an image smaller than the crop or without the colours that are asked for, or one with the pixels of the
    validation photograph.
    """
    if folder is None:
        names = [name for name in PHOTOGRAPHS if not colour or name in IN_COLOUR][:limit]
        images = [named(name, central_crop(photograph(name, SIDE, colour=colour), crop, name)) for name in names]
    else:
        paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise InputError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)}) there.")
        read = [(p, read_image(p, grey=not colour)) for p in paths[:limit]]
        without = [p.name for p, x in read if x.shape[1] != (3 if colour else 1)]
        if without:
            raise InputError(f"{', '.join(without)}: grey, where colour is asked for; use a folder of colour images.")
        images = [named(p.stem, central_crop(x, crop, str(p))) for p, x in read]
    refuse_validation(images, crop)
    return images


def named(name: str, x: Tensor) -> NamedImage:
    """The image with its fingerprint."""
    return NamedImage(name, x, sha256_of(x))


def sha256_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def central_crop(x: Tensor, side: int | None, name: str) -> Tensor:
    """The middle ``side`` × ``side`` pixels; the whole image without a side."""
    if side is None:
        return x
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    if side < 1 or min(top, left) < 0:
        raise InputError(f"{name}: cannot crop {side} x {side} pixels from an image of {tuple(x.shape[-2:])}.")
    return x[..., top : top + side, left : left + side].contiguous()


def refuse_validation(images: list[NamedImage], crop: int | None) -> None:
    """Raise InputError when an image on trial is one of those that strengths are chosen on."""
    forms = []
    for colour in (False, True):
        forms += [photograph(name, n, colour=colour) for name in VALIDATION for n in (64, 96, 128, SIDE)]
        forms += [whole(name, colour=colour) for name in VALIDATION]
        forms += [image.x for n in (64, 96, 128) for image in validation_images(n, colour=colour)]
    known = {sha256_of(v) for v in forms} | {
        sha256_of(central_crop(v, crop, "")) for v in forms if crop is not None and min(v.shape[-2:]) >= crop
    }
    for image in images:
        if image.sha256 in known:
            raise InputError(f"{image.name} is a validation photograph; a benchmark never reports on it. Remove it.")

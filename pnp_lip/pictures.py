"""Photographs as files: pixels in their own type, and what a camera wrote beside them."""

import dataclasses
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import CLIPPED, NOISE_REACH, check_output, to_grey, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Picture", "read_image", "read_picture", "write_image", "write_picture"]

Pixels = NDArray[np.generic]

CAMERA = 0x8769  # EXIF's own directory
ABOUT = (270, 271, 272, 305, 306, 315, 33432, CAMERA, 0x8825)  # what, camera, software, when, who, whose, and where
ORIENTATION, CAMERA_WIDTH, CAMERA_HEIGHT = 0x0112, 0xA002, 0xA003  # of EXIF
BITS, PHOTOMETRIC, COMPRESSION, SAMPLE_FORMAT = 258, 262, 259, 339  # of TIFF
QUALITY = 95  # of a JPEG that is written; its colours keep their resolution
STANDARD_LUMA = 57.6  # mean of the quantisation table of JPEG's quality 50
PLAIN = ("L", "LA", "RGB", "RGBA", "F")  # modes of Pillow whose pixels are taken as they are
RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
FOREIGN = (  # where in a file a kind shows itself, how, its name, and what to do
    (128, b"DICM", "a DICOM file", "export its pixels as .npy or .tif"),
    (0, b"%PDF", "a PDF document", "extract the image from it"),
    (0, b"SIMPLE  =", "a FITS file", "export it as .npy or .tif"),
    (0, b"\x89HDF", "an HDF5 file", "export its array as .npy"),
    (0, b"MATLAB", "a MATLAB file", "export its array as .npy"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (0, b"<svg", "an SVG drawing", "export it as .png"),
    (0, b"<?xml", "an XML file", "export it as .png"),
    (0, b"<!DOCTYPE", "a web page", "download the image itself"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull"),
    (4, b"ftypheic", "a HEIC file", "export it as .jpg or .png"),
    (4, b"ftypisom", "a video", "export a frame as .png"),
    (4, b"ftypmp42", "a video", "export a frame as .png"),
    (4, b"ftypqt", "a video", "export a frame as .png"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """``pixels`` upright, of the file's type: (H, W) or (H, W, C), C = 3, or 2 or 4 with alpha; of an array as it is.

    ``correlated`` says why neighbouring pixels share their noise (compression, resampling), or is None; ``notes`` what was
    converted, a line each; ``exif``, ``icc`` and ``dpi`` are what an output keeps.
    """

    path: Path
    pixels: Pixels
    correlated: str | None = None
    notes: tuple[str, ...] = ()
    exif: bytes = b""
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None


def read_picture(path: str | Path) -> Picture:
    """Read PNG, JPEG, TIFF, BMP and whatever else Pillow knows, npy, or an array of an npz file (FILE.npz:NAME).

    EXIF's orientation is applied. 16 bits, floats and negative numbers stay. CMYK and palettes become RGB, a picture of 1 bit
    8 bits, which the notes say. Raises InputError, one line that names the kind, for several pages and for anything else.
    """
    path, _, name = (Path(path), "", "") if Path(path).is_file() else split_name(path)
    if not path.is_file():
        raise InputError(f"{path}: no such image file.")
    refuse_foreign(path)
    try:
        if path.suffix.lower() in (".npy", ".npz"):
            return Picture(path, native(read_array(path, name)))
        return read_file(path)
    except InputError:
        raise
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(f"{path}: could not be read as an image ({' '.join(str(error).split())}).") from error


def read_image(path: str | Path, *, grey: bool = False, beyond: float = 0.0) -> Tensor:
    """What ``read_picture`` reads as a float32 tensor (1, C, H, W) on [0, 1], C = 1 or 3.

    Unsigned integers of 8 and 16 bits are divided by 255 and 65,535. Floating-point values must lie in
    [−beyond, 1 + beyond]. An alpha channel is dropped. Raises InputError for an unknown layout, other integer types,
    non-finite or out-of-range values.
    """
    data = read_picture(path).pixels
    data = data[..., None] if data.ndim == 2 else data
    if data.ndim != 3 or data.shape[-1] not in (1, 2, 3, 4) or 0 in data.shape:
        raise InputError(f"{path}: expected an image of shape (H, W), (H, W, 3) or (H, W, 4); got {data.shape}.")
    data = data[..., :-1] if data.shape[-1] in (2, 4) else data
    if data.dtype == np.bool_:
        data = data.astype(np.float32)
    elif data.dtype in (np.uint8, np.uint16):
        data = data.astype(np.float64) / (255 if data.dtype == np.uint8 else 65_535)
    elif np.issubdtype(data.dtype, np.integer):
        raise InputError(f"{path}: {data.dtype} does not say which number is white; save uint8, uint16 or floats in [0, 1].")
    elif not np.issubdtype(data.dtype, np.floating):
        raise InputError(f"{path}: expected real numbers; got {data.dtype}.")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: the image holds NaN or infinite values; repair them first.")
    if data.min() < -beyond or data.max() > 1 + beyond:
        limits = f"[{-beyond:g}, {1 + beyond:g}]" if beyond else "[0, 1]"
        found = f"[{data.min():.4g}, {data.max():.4g}]"
        raise InputError(f"{path}: values must lie in {limits}; got {found}. Rescale them, and the noise level with them.")
    x = torch.from_numpy(np.ascontiguousarray(data.transpose(2, 0, 1), dtype=np.float32))[None]
    return to_grey(x) if grey else x


def split_name(path: str | Path) -> tuple[Path, str, str]:
    """FILE.npz:NAME in its parts."""
    head, colon, name = str(path).rpartition(":")
    return (Path(head), colon, name) if head.lower().endswith(".npz") else (Path(path), "", "")


def refuse_foreign(path: Path) -> None:
    """InputError that names the kind of a file that holds no picture, or none that is read here."""
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise InputError(f"{path} is empty.")
    if path.suffix.lower() in RAW:
        raise InputError(f"{path} is a camera's raw file; develop it and save a TIFF of 16 bits.")
    for at, magic, kind, advice in FOREIGN:
        if head[at : at + len(magic)] == magic and not (magic[:2] == b"PK" and path.suffix.lower() == ".npz"):
            raise InputError(f"{path} is {kind}; {advice}.")


def read_array(path: Path, name: str) -> Pixels:
    """The array of an npy file, or that of this name; the only one if no name is given."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = list(loaded)
        if name not in names and (name or len(names) != 1):
            raise InputError(f"{path} holds {len(names)} arrays; choose one by {path}:NAME: {', '.join(names)}.")
        return np.asarray(loaded[name or names[0]])


def native(pixels: Pixels) -> Pixels:
    """In this machine's order of bytes, which torch asks for; a copy that can be written to."""
    return np.array(pixels, dtype=pixels.dtype.newbyteorder("="))


def read_file(path: Path) -> Picture:
    """An image file by Pillow, or by a reader that keeps more than 8 bits."""
    from PIL import Image as pillow  # noqa: N813 (its class has the same name)

    try:
        image = pillow.open(path)
    except pillow.UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff"):
            return Picture(path, upright(*read_tiff(path)))
        raise InputError(f"{path}: could not be read as an image; its kind is not known.") from None
    with image:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":  # a phone's JPEG with a preview
            raise InputError(f"{path} holds {count} pages; save the one that you mean as a file of its own.")
        pixels, orientation, notes = decoded(image, path)
        exif = image.getexif()
        orientation, camera = exif.pop(ORIENTATION, orientation), exif.get_ifd(CAMERA)
        for tag in [tag for tag in exif if tag not in ABOUT]:  # those of TIFF that say where its pixels are
            del exif[tag]
        size = camera.get(CAMERA_WIDTH), camera.get(CAMERA_HEIGHT)
        reasons = [how_compressed(image)]
        if all(size) and set(size) != set(image.size):
            reasons.append(f"reduced or cropped: the camera wrote {size[0]} x {size[1]} pixels")
        return Picture(
            path,
            native(upright(pixels, int(orientation))),
            correlated="; ".join(filter(None, reasons)) or None,
            notes=notes,
            exif=exif.tobytes() if len(exif) else b"",
            icc=None if image.mode == "CMYK" else image.info.get("icc_profile"),
            dpi=image.info.get("dpi"),
        )


def decoded(image: "Image", path: Path) -> tuple[Pixels, int, tuple[str, ...]]:
    """Pixels of all the depth that there is, the orientation if it is known here, and what was converted."""
    if image.format == "PNG":
        with path.open("rb") as file:
            head = file.read(26)
        if head[24] == 16:
            from torchvision.io import ImageReadMode, decode_png

            data = decode_png(torch.from_numpy(np.fromfile(path, np.uint8)), ImageReadMode.UNCHANGED).numpy()
            return (data[0] if len(data) == 1 else data.transpose(1, 2, 0)), 1, ()
    if image.format == "TIFF":
        tags = image.tag_v2
        if max(tags.get(BITS, (1,))) > 8 or tags.get(SAMPLE_FORMAT, (1,))[0] != 1:
            return (*read_tiff(path), ())
    image.load()  # turns a TIFF upright, and its EXIF no longer says how it lay
    mode = image.mode
    if mode in PLAIN or mode.startswith("I"):
        return np.asarray(image), 1, ()
    if mode == "1":
        return np.asarray(image.convert("L")), 1, ("1 bit became 8 bits",)
    alpha = "A" * (mode in ("PA", "RGBa", "La") or "transparency" in image.info)
    pixels = np.asarray(image.convert(("L" if mode == "La" else "RGB") + alpha))
    if mode[0] == "P" and not alpha and (pixels == pixels[..., :1]).all():
        return pixels[..., 0], 1, ("a palette of greys became grey",)
    kind = "a palette" if mode[0] == "P" else mode
    return pixels, 1, (f"{kind} became {'L' if mode == 'La' else 'RGB'}{' with alpha' * bool(alpha)}",)


def read_tiff(path: Path) -> tuple[Pixels, int]:
    """The one page of a TIFF file in its own type, and its orientation."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise InputError(f"{path} holds {len(file.pages)} pages; save the one that you mean as a file of its own.")
        page = file.pages.first
        pixels = page.asarray()
        if page.photometric == 0:  # white is zero
            pixels = np.iinfo(pixels.dtype).max - pixels
        if pixels.ndim == 3 and page.planarconfig == 2:  # one plane after the other
            pixels = np.moveaxis(pixels, 0, -1)
        tag = page.tags.get(ORIENTATION)
        return pixels, 1 if tag is None else int(tag.value)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as the camera was held, from EXIF's orientation 1 to 8.

    >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
    [[3, 1], [4, 2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def how_compressed(image: "Image") -> str | None:
    """What a lossy format did to the pixels; None if nothing is known of it."""
    if image.format in ("JPEG", "MPO"):
        from PIL.JpegImagePlugin import get_sampling

        tables = getattr(image, "quantization", {})
        scale = float(np.mean(tables[0])) / STANDARD_LUMA if 0 in tables else 1.0
        quality = round(100 - 50 * scale if scale <= 1 else 50 / scale)
        halved = get_sampling(image) in (1, 2)
        return f"JPEG of a quality of about {quality}" + ", colours at half the resolution" * halved
    if image.format == "TIFF" and image.tag_v2.get(COMPRESSION) in (6, 7):
        return "JPEG inside of TIFF"
    return f"compressed as {image.format}" if image.format in ("WEBP", "AVIF", "JPEG2000", "GIF") else None


def write_picture(path: str | Path, pixels: Pixels, like: Picture | None = None) -> tuple[str, ...]:
    """Write (H, W) or (H, W, C) in its own type, in one atomic step, with the metadata of ``like``; returns what was lost.

    PNG holds 8 and 16 bits, JPEG and BMP 8 bits without alpha, TIFF and npy everything. Floats in [0, 1] become the finest
    levels of the format. Raises InputError where a format cannot hold the range, and what ``check_output`` raises.
    """
    path, like = check_output(path), like or Picture(Path(path), pixels)
    suffix, lost, data = path.suffix.lower(), list[str](), pixels
    if suffix in (".png", ".jpg", ".jpeg", ".bmp"):
        data, lost = levels(path, pixels, most=16 if suffix == ".png" else 8)
        if suffix != ".png" and data.ndim == 3 and data.shape[-1] in (2, 4):
            data = data[..., 0] if data.shape[-1] == 2 else data[..., :3]
            lost.append(f"{suffix[1:].upper()} holds no alpha, which is dropped")
    with write_atomically(path) as temporary:
        if suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, data)
        elif suffix in (".tif", ".tiff") and data.dtype != np.uint8:
            write_tiff(temporary, data, like)
        elif data.dtype == np.uint16:
            temporary.write_bytes(deep_png(data, like))
        else:
            from PIL import Image as pillow  # noqa: N813 (its class has the same name)

            jpeg = {"quality": QUALITY, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
            kept = {"icc_profile": like.icc, "dpi": like.dpi, "exif": like.exif or None}
            given = {} if suffix == ".bmp" else {name: value for name, value in kept.items() if value is not None}
            pillow.fromarray(np.ascontiguousarray(data)).save(temporary, **jpeg, **given)
    return tuple(lost)


def write_image(path: str | Path, x: Tensor) -> None:
    """Write (1, C, H, W) or (C, H, W) on [0, 1] as 8 bits (npy: as float32), clipped, in one atomic step."""
    data = x.detach().cpu().float().clamp(0, 1).reshape(x.shape[-3:]).permute(1, 2, 0).numpy()
    data = data[..., 0] if data.shape[-1] == 1 else data
    write_picture(path, data if Path(path).suffix.lower() == ".npy" else (data * 255).round().astype(np.uint8))


def levels(path: Path, pixels: Pixels, *, most: int) -> tuple[Pixels, list[str]]:
    """The pixels as unsigned integers of at most so many bits; InputError for a range that these do not hold."""
    name, kind = path.suffix[1:].upper(), pixels.dtype
    if kind == np.uint8 or (kind == np.uint16 and most == 16):
        return pixels, []
    bits = f"{name} holds {most} bits"
    if kind == np.uint16:
        return (pixels.astype(np.float64) / 257).round().astype(np.uint8), [
            f"{bits}; the 16 bits of the input are kept by .png and .tif"
        ]
    low, high = float(pixels.min()), float(pixels.max())
    if not np.issubdtype(kind, np.floating) or low < -NOISE_REACH or high > 1 + NOISE_REACH:
        raise InputError(f"{path}: {name} cannot hold {kind} from {low:.4g} to {high:.4g}; write .tif or .npy.")
    target, inside = (np.uint16 if most == 16 else np.uint8), pixels.astype(np.float64).clip(0, 1)
    share = float(np.mean(inside != pixels))
    clipped = f"; {share:.1%} of the values lie beyond [0, 1] and were clipped" if share > CLIPPED else ""
    lost = [f"{bits}, where the input has {kind}; .tif and .npy keep it{clipped}"]
    return (inside * np.iinfo(target).max).round().astype(target), lost


def write_tiff(path: Path, data: Pixels, like: Picture) -> None:
    """Any type, with the profile and the resolution."""
    import tifffile

    colour = data.ndim == 3 and data.shape[-1] in (3, 4)
    options = {} if like.dpi is None else {"resolution": tuple(map(float, like.dpi)), "resolutionunit": "INCH"}
    if data.ndim == 3 and data.shape[-1] in (2, 4):
        options["extrasamples"] = ["UNASSALPHA"]
    kind = "rgb" if colour else "minisblack"
    tifffile.imwrite(
        path, data, photometric=kind, planarconfig="contig" if data.ndim == 3 else None, iccprofile=like.icc, **options
    )


def deep_png(data: Pixels, like: Picture) -> bytes:
    """A PNG file of 16 bits (PNG specification, third edition); Pillow writes no colours of this depth."""
    kind = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(data.shape[-1], 0)}[data.ndim]
    rows = data.astype(">u2").reshape(len(data), -1).view(np.uint8)
    filtered = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))  # each row less the one above: filter 2
    stored = np.concatenate([np.full((len(rows), 1), 2, np.uint8), filtered], 1).tobytes()
    head = struct.pack(">IIBBBBB", data.shape[1], data.shape[0], 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", head)]
    if like.icc is not None:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(like.icc)))
    if like.dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(float(d) / 0.0254) for d in like.dpi), 1)))
    if like.exif:
        chunks.append((b"eXIf", like.exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(stored)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

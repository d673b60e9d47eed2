"""The files that people have: format × depth × orientation × range × damage, through the commands. Right, or one clear line."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from pnp_lip import deblur, denoise, load_pretrained
from pnp_lip.command_line.main import main
from pnp_lip.pictures import read_picture, upright, write_picture

NOISE = 0.05
CLEAN = data.astronaut()[60:108, 200:256] / 255  # a face, 48 x 56 pixels
NOISY = (CLEAN + NOISE * np.random.default_rng(0).standard_normal(CLEAN.shape)).clip(0, 1)
CLEAN_GREY = CLEAN.mean(-1)
GREY = (CLEAN_GREY + NOISE * np.random.default_rng(1).standard_normal(CLEAN_GREY.shape)).clip(0, 1)
ALPHA = np.linspace(0, 1, CLEAN_GREY.size).reshape(*CLEAN_GREY.shape, 1)
TURNED = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # how a file must lie for each orientation to make it upright


def levels(x: np.ndarray, most: int = 255) -> np.ndarray:
    return (x * most).round().astype(np.uint8 if most == 255 else np.uint16)


def pillow(x: np.ndarray, mode: str | None = None, **how: object) -> Callable[[Path], None]:
    """A writer of 8 bits."""

    def write(path: Path) -> None:
        image = Image.fromarray(levels(x))
        (image if mode is None else image.convert(mode)).save(path, **how)

    return write


def exif(orientation: int, **more: object) -> Image.Exif:
    made = Image.Exif()
    made[0x0112], made[0x010F] = orientation, "Camera Works"
    return made


def tiff(x: np.ndarray, **how: object) -> Callable[[Path], None]:
    how.setdefault("photometric", "rgb" if x.ndim == 3 else "minisblack")
    return lambda path: tifffile.imwrite(path, x, **how)


def array(x: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, x)


def turned_jpeg(orientation: int) -> Callable[[Path], None]:
    return pillow(upright(NOISY, TURNED[orientation]), exif=exif(orientation), quality=100, subsampling=0)


def deep(x: np.ndarray) -> Callable[[Path], None]:
    return lambda path: void(write_picture(path, levels(x, 65535)))


def void(_: object) -> None:
    """Nothing."""


HU = (GREY * 4000 - 1000).round()

# name: suffix, writer, suffix of the result, noise in the units of the data, low and high of its range
RIGHT: dict[str, tuple[str, Callable[[Path], None], str, float, tuple[float, float]]] = {
    "png, colour": ("png", pillow(NOISY), "png", NOISE, (0, 255)),
    "png, grey": ("png", pillow(GREY), "png", NOISE, (0, 255)),
    "png, colour with alpha": ("png", pillow(np.concatenate([NOISY, ALPHA], -1)), "png", NOISE, (0, 255)),
    "png, grey with alpha": ("png", pillow(np.concatenate([GREY[..., None], ALPHA], -1), "LA"), "png", NOISE, (0, 255)),
    "png, palette": ("png", pillow(NOISY, "P"), "png", NOISE, (0, 255)),
    "png, 16 bits, grey": ("png", deep(GREY), "png", NOISE, (0, 65535)),
    "png, 16 bits, colour": ("png", deep(NOISY), "png", NOISE, (0, 65535)),
    "png, 16 bits with alpha": ("png", deep(np.concatenate([NOISY, ALPHA], -1)), "png", NOISE, (0, 65535)),
    "png, orientation 6": ("png", pillow(upright(NOISY, 8), exif=exif(6)), "png", NOISE, (0, 255)),
    **{f"jpeg, orientation {k}": ("jpg", turned_jpeg(k), "png", NOISE, (0, 255)) for k in TURNED},
    "jpeg, grey": ("jpg", pillow(GREY, quality=100), "png", NOISE, (0, 255)),
    "jpeg, progressive": ("jpeg", pillow(NOISY, quality=100, subsampling=0, progressive=True), "png", NOISE, (0, 255)),
    "jpeg, cmyk": ("jpg", pillow(NOISY, "CMYK", quality=100, subsampling=0), "png", NOISE, (0, 255)),
    "tiff, cmyk": ("tif", pillow(NOISY, "CMYK"), "tif", NOISE, (0, 255)),
    "tiff, colour": ("tif", pillow(NOISY), "tif", NOISE, (0, 255)),
    "tiff, orientation 8": ("tif", tiff(levels(upright(NOISY, 6)), extratags=[(274, "H", 1, 8, True)]), "tif", NOISE, (0, 255)),
    "tiff, 16 bits": ("tif", tiff(levels(NOISY, 65535)), "tif", NOISE, (0, 65535)),
    "tiff, 16 bits, orientation 3": (
        "tif", tiff(levels(upright(GREY, 3), 65535), extratags=[(274, "H", 1, 3, True)]), "tif", NOISE, (0, 65535)),
    "tiff, 12 bits in 16": ("tiff", tiff(levels(NOISY, 4095)), "tiff", NOISE, (0, 4095)),
    "tiff, planes": ("tif", tiff(levels(NOISY, 65535).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), "tif",
                     NOISE, (0, 65535)),
    "tiff, white is zero": ("tif", tiff(65535 - levels(GREY, 65535), photometric="miniswhite"), "tif", NOISE, (0, 65535)),
    "tiff, big-endian": ("tif", tiff(levels(NOISY, 65535), byteorder=">"), "tif", NOISE, (0, 65535)),
    "tiff, float32": ("tif", tiff(NOISY.astype(np.float32)), "tif", NOISE, (0, 1)),
    "tiff, float64": ("tif", tiff(GREY), "tif", NOISE, (0, 1)),
    "tiff, floats to 255": ("tif", tiff((GREY * 255).astype(np.float32)), "tif", NOISE * 255, (0, 255)),
    "tiff, negative floats": ("tif", tiff((GREY * 3 - 1).astype(np.float32)), "tif", NOISE * 3, (-1, 2)),
    "tiff, int16": ("tif", tiff(HU.astype(np.int16)), "tif", NOISE * 4000, (-1000, 3000)),
    "tiff, uint32": ("tif", tiff((GREY * 1e6).astype(np.uint32)), "tif", NOISE * 1e6, (0, 1e6)),
    "bmp": ("bmp", pillow(NOISY), "bmp", NOISE, (0, 255)),
    "webp": ("webp", pillow(NOISY, lossless=True), "png", NOISE, (0, 255)),
    "gif": ("gif", pillow(GREY), "png", NOISE, (0, 255)),
    "npy, big-endian floats": ("npy", array(GREY.astype(">f8")), "npy", NOISE, (0, 1)),
    "npy, big-endian uint16": ("npy", array(levels(NOISY, 65535).astype(">u2")), "npy", NOISE, (0, 65535)),
    "npy, float16": ("npy", array(NOISY.astype(np.float16)), "npy", NOISE, (0, 1)),
    "npy, channels first": ("npy", array(NOISY.transpose(2, 0, 1)), "npy", NOISE, (0, 1)),
    "npy, one channel": ("npy", array(GREY[None]), "npy", NOISE, (0, 1)),
    "npy, batch": ("npy", array(np.stack([GREY, GREY[::-1]])[:, None]), "npy", NOISE, (0, 1)),
    "npy, int32": ("npy", array(HU.astype(np.int32)), "npy", NOISE * 4000, (-1000, 3000)),
    "npy, faint floats": ("npy", array(GREY * 1e-3), "npy", NOISE * 1e-3, (0, 1e-3)),
    "npy, fortran order": ("npy", array(np.asfortranarray(NOISY)), "npy", NOISE, (0, 1)),
    "npz": ("npz", lambda path: np.savez(path, only=GREY), "npy", NOISE, (0, 1)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def certified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.restore.load_pretrained", loaded)


@cache
def loaded(name: str) -> object:
    return load_pretrained(name)


def truth_like(out: np.ndarray) -> np.ndarray:
    """The clean picture in the form of a result, without alpha."""
    clean = CLEAN if 3 in out.shape or 4 in out.shape[-1:] else CLEAN_GREY
    if out.shape[0] == 3:
        clean = clean.transpose(2, 0, 1)
    if out.ndim == 4:
        clean = np.stack([CLEAN_GREY, CLEAN_GREY[::-1]])[:, None]
    return clean


def decibels(out: np.ndarray, low: float, high: float) -> float:
    values = (out.astype(np.float64) - low) / (high - low)
    return float(-10 * np.log10(np.mean((values.reshape(truth_like(out).shape) - truth_like(out)) ** 2)))


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_comes_back_restored_in_its_own_depth_and_range(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, write, after, noise, (low, high) = RIGHT[name]
    path, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{after}"
    write(path)
    fast = ["--denoiser", "tiny", "--device", "cpu"]
    unsigned = "uint32" in name
    scale = ["--range", f"{low}:{high}"] if unsigned else []
    assert main(["denoise", str(path), "--noise", str(noise), *fast, *scale, "-o", str(out)]) == 0, capsys.readouterr().err
    given, found = read_picture(path).pixels, read_picture(out).pixels
    assert found.dtype == given.dtype and found.shape == given.shape
    if given.ndim == 3 and given.shape[-1] in (2, 4):
        assert np.array_equal(found[..., -1], given[..., -1])
        given, found = given[..., :-1].squeeze(), found[..., :-1].squeeze()
    floats = (given.astype(np.float64) - low) / (high - low)
    straight = np.asarray(denoise(floats, NOISE, denoiser="tiny", device="cpu", value_range=(0, 1)))
    assert decibels(given, low, high) + 2 < decibels(found, low, high)
    assert abs(decibels(found, low, high) - decibels(straight, 0, 1)) < 0.1


DEBLURRED = (
    "png, colour with alpha", "png, 16 bits, grey", "jpeg, orientation 6", "tiff, 12 bits in 16",
    "tiff, negative floats", "npy, batch",
)  # fmt: skip


@pytest.mark.parametrize("name", DEBLURRED)
def test_deblurring_makes_the_same_of_a_file_as_of_its_pixels(name: str, tmp_path: Path) -> None:
    suffix, write, after, noise, (low, high) = RIGHT[name]
    path, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{after}"
    write(path)
    fast = ["--denoiser", "tiny", "--device", "cpu", "--tol", "1e-2", "--quiet"]
    assert main(["deblur", str(path), "--psf", "gaussian:0.5", "--noise", str(noise), *fast, "-o", str(out)]) == 0
    given, found = read_picture(path).pixels, read_picture(out).pixels
    assert found.dtype == given.dtype and found.shape == given.shape
    if given.shape[-1] == 4:
        given, found = given[..., :-1], found[..., :-1]
    wide = 0.1 * np.ptp(given) if low < 0 else 0  # a range that only the data show is a little wider
    how = {"denoiser": "tiny", "tol": 1e-2, "device": "cpu"}
    limits = (given.min() - wide, given.max() + wide) if wide else (low, high)
    straight = np.asarray(deblur(given.astype(np.float64), "gaussian:0.5", NOISE * (high - low), value_range=limits, **how))
    assert abs(decibels(found, low, high) - decibels(straight, low, high)) < 0.1


def damaged(how: Callable[[bytes], bytes], writer: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        writer(path)
        path.write_bytes(how(path.read_bytes()))

    return write


def content(text: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(text))


def pages(path: Path) -> None:
    first, *others = (Image.fromarray(levels(GREY)) for _ in range(3))
    first.save(path, save_all=True, append_images=others[:2])


def animation(path: Path) -> None:
    first, second = Image.fromarray(levels(GREY)), Image.fromarray(levels(1 - GREY))
    first.save(path, save_all=True, append_images=[second])


REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cut png": ("a.png", damaged(lambda b: b[: len(b) // 2], pillow(NOISY)), "could not be read"),
    "cut jpeg": ("a.jpg", damaged(lambda b: b[: len(b) // 2], pillow(NOISY)), "could not be read"),
    "cut tiff": ("a.tif", damaged(lambda b: b[: len(b) // 2], tiff(levels(NOISY, 65535))), "could not be read"),
    "cut 16-bit png": ("a.png", damaged(lambda b: b[: len(b) // 2], deep(NOISY)), "could not be read"),
    "empty": ("a.png", content(b""), "is empty"),
    "text": ("a.png", content(b"no picture"), "could not be read"),
    "web page": ("a.jpg", content(b"<!DOCTYPE html><html>"), "is a web page"),
    "dicom": ("a.dcm", content(bytes(128) + b"DICM" + bytes(99)), "is a DICOM file"),
    "pdf": ("a.pdf", content(b"%PDF-1.7 ..."), "is a PDF document"),
    "raw": ("a.NEF", content(b"MM\0*" + bytes(99)), "is a camera's raw file"),
    "gzip": ("a.npy.gz", content(gzip.compress(b"x")), "compressed by gzip"),
    "heic": ("a.heic", content(b"\0\0\0\x18ftypheic"), "is a HEIC file"),
    "video": ("a.mp4", content(b"\0\0\0\x18ftypisom"), "is a video"),
    "svg": ("a.svg", content(b"<svg xmlns=''>"), "is an SVG drawing"),
    "pages of tiff": ("a.tif", pages, "holds 3 pages"),
    "pages of 16 bits": ("a.tif", tiff(np.stack([levels(GREY, 65535)] * 4), photometric="minisblack"), "holds 4 pages"),
    "animated gif": ("a.gif", animation, "holds 2 pages"),
    "several arrays": ("a.npz", lambda path: np.savez(path, left=GREY, right=GREY), "holds 2 arrays; choose one by"),
    "objects": ("a.npy", lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "could not be read"),
    "complex": ("a.npy", array(GREY + 0j), "expected real numbers; got complex128"),
    "mask": ("a.npy", array(GREY > 0.5), "expected real numbers; got bool"),
    "nan": ("a.npy", array(np.where(GREY > 0.9, np.nan, GREY)), "NaN"),
    "stack": ("a.npy", array(np.stack([GREY] * 7)), "has the shape (7, 1, 48, 56)"),
    "no pixels": ("a.npy", array(GREY[:0]), "got shape (0, 56)"),
    "line": ("a.npy", array(GREY[0]), "got shape (56,)"),
    "nothing there": ("a.png", void, "no such image"),
}


@pytest.mark.parametrize("command", ["denoise", "deblur"])
def test_what_is_no_picture_gets_one_line_that_names_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (file, write, message) in REFUSED.items():
        Path(file).unlink(missing_ok=True)
        write(Path(file))
        how = ["--psf", "box:3", "--quiet"] if command == "deblur" else []
        assert main([command, file, "--noise", "0.05", *how, "--denoiser", "tiny", "-o", "out.tif"]) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("pnp-lip: ") and error.count("\n") == 1 and message in error, (name, error)
        assert not Path("out.tif").exists()


def run(tmp_path: Path, source: str, out: str, *more: str) -> int:
    fast = ["--denoiser", "tiny", "--noise", "0.05", "--device", "cpu"]
    return main(["denoise", str(tmp_path / source), *fast, "-o", str(tmp_path / out), *more])


def test_metadata_is_kept_and_orientation_is_not_applied_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = b"profile" * 40
    for suffix in ("jpg", "png", "tif"):
        pillow(upright(NOISY, 8), exif=exif(6), icc_profile=profile, dpi=(300, 300))(tmp_path / f"a.{suffix}")
        assert run(tmp_path, f"a.{suffix}", f"b.{suffix}") == 0
        with Image.open(tmp_path / f"b.{suffix}") as image:
            assert image.getexif().get(0x0112, 1) == 1 and image.size == (56, 48)
            assert image.getexif()[0x010F] == "Camera Works"
            assert image.info["icc_profile"] == profile and image.info["dpi"] == pytest.approx((300, 300), rel=1e-3)
    assert "WARNING" in capsys.readouterr().out  # the JPEG


def test_deep_pictures_keep_profile_and_resolution(tmp_path: Path) -> None:
    picture = read_picture_of(tmp_path, levels(NOISY, 65535))
    for suffix in ("png", "tif"):
        write_picture(tmp_path / f"b.{suffix}", picture.pixels, picture)
        again = read_picture(tmp_path / f"b.{suffix}")
        assert np.array_equal(again.pixels, picture.pixels) and again.icc == picture.icc
        assert again.dpi == pytest.approx((300, 300), rel=1e-3)
    assert again.pixels.dtype == np.uint16


def read_picture_of(tmp_path: Path, pixels: np.ndarray):
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", resolution=(300, 300), resolutionunit="INCH", iccprofile=b"p" * 99
    )
    return read_picture(tmp_path / "a.tif")


def test_what_a_format_cannot_hold_is_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep(NOISY)(tmp_path / "deep.png")
    assert run(tmp_path, "deep.png", "a.jpg") == 0
    assert "JPG holds 8 bits" in capsys.readouterr().out
    pillow(np.concatenate([NOISY, ALPHA], -1))(tmp_path / "alpha.png")
    assert run(tmp_path, "alpha.png", "b.bmp") == 0
    assert "BMP holds no alpha, which is dropped" in capsys.readouterr().out
    np.save(tmp_path / "hu.npy", HU.astype(np.int16))
    assert run(tmp_path, "hu.npy", "c.png", "--noise", "200") == 2
    assert "PNG cannot hold int16 from" in capsys.readouterr().err and not (tmp_path / "c.png").exists()
    np.save(tmp_path / "float.npy", GREY)
    assert run(tmp_path, "float.npy", "d.png") == 0
    assert "PNG holds 16 bits, where the input has float64" in capsys.readouterr().out
    assert read_picture(tmp_path / "d.png").pixels.dtype == np.uint16


def test_a_range_is_taken_as_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", GREY * 50)
    assert run(tmp_path, "a.npy", "b.npy", "--range", "0:50", "--noise", "2.5") == 0
    straight = np.asarray(denoise(GREY, 0.05, denoiser="tiny", device="cpu"))
    assert np.allclose(np.load(tmp_path / "b.npy") / 50, straight, atol=1e-4)
    for text, message in (
        ("0", "LOW:HIGH"),
        ("5:5", "LOW < HIGH"),
        ("0:inf", "both finite"),
        ("0:1", "far outside of the range [0, 1]"),
    ):
        assert run(tmp_path, "a.npy", "c.npy", "--range", text) == 2
        assert message in capsys.readouterr().err


def test_no_file_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pillow(NOISY)(tmp_path / "a.png")
    pillow(CLEAN)(tmp_path / "mine.png")
    before = (tmp_path / "mine.png").read_bytes()
    (tmp_path / "b.json").write_text('{"notes": "of mine"}')
    for out, message in (
        ("mine.png", "pnp-lip did not write it"),
        ("b.png", "b.json exists"),
        ("a.png", "replace the image itself"),
    ):
        assert run(tmp_path, "a.png", out) == 2
        assert message in capsys.readouterr().err
    assert run(tmp_path, "a.png", "a.png", "--force") == 2
    assert (tmp_path / "mine.png").read_bytes() == before and not (tmp_path / "b.png").exists()
    assert run(tmp_path, "a.png", "c.png") == run(tmp_path, "a.png", "c.png") == 0  # its own file
    pillow(CLEAN)(tmp_path / "c.png")
    assert run(tmp_path, "a.png", "c.png") == 2  # somebody has changed it
    assert run(tmp_path, "a.png", "mine.png", "--force") == 0
    deblur = ["deblur", str(tmp_path / "a.png"), "--psf", str(tmp_path / "mine.png"), "-o", str(tmp_path / "mine.png"), "--force"]
    assert main(deblur) == 2 and "another input" in capsys.readouterr().err


def test_the_record_says_what_was_done_and_the_status_whether_it_converged(tmp_path: Path) -> None:
    pillow(GREY)(tmp_path / "a.png")
    arguments = ["deblur", str(tmp_path / "a.png"), "--psf", "box:3", "--denoiser", "tiny", "--noise", "0.05", "--quiet"]
    assert main([*arguments, "--tol", "1e-2", "-o", str(tmp_path / "b.png")]) == 0
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["noise"] == 0.05 and record["noise_is"] == "stated" and record["denoiser"] == "tiny"
    assert len(record["weights_sha256"]) == len(record["psf_sha256"]) == 64 and record["pnp_lip"]
    assert record["command"].startswith("pnp-lip deblur ") and record["status"] == "converged"
    assert main([*arguments, "--max-iter", "1", "--tol", "1e-9", "-o", str(tmp_path / "c.png")]) == 3
    assert (tmp_path / "c.png").exists()


def test_a_reduced_photograph_is_known_by_its_camera(tmp_path: Path) -> None:
    made = exif(1)
    made.get_ifd(0x8769).update({0xA002: 560, 0xA003: 480})
    buffer = io.BytesIO()
    Image.fromarray(levels(NOISY)).save(buffer, "JPEG", exif=made)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert "the camera wrote 560 x 480 pixels" in str(read_picture(tmp_path / "a.jpg").correlated)

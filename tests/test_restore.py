"""One call: data of every form and type come back as they were, with the result beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pnp_lip import GradientFlowDenoiser, Restoration, deblur, denoise, load_pretrained, reconstruct
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.colour import from_planes, planes
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.frame import Frame
from pnp_lip.operators import FanBeam, ParallelBeam, demo_sinogram
from pnp_lip.restore import device_of

TINY = load_pretrained("tiny")
FAST = {"denoiser": TINY, "device": "cpu"}
Y = data.astronaut()[100:148, 180:236]
SHAPES = (
    (48, 56),
    (1, 48, 56),
    (3, 48, 56),
    (48, 56, 3),
    (48, 56, 4),
    (48, 56, 1),
    (2, 1, 48, 56),
    (2, 3, 48, 56),
    (2, 48, 56, 3),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_and_type_comes_back(shape: tuple[int, ...]) -> None:
    y = np.resize(Y, shape)
    for kind in (np.uint8, np.uint16, np.float32, np.float64, ">f4"):
        given = (y / 255).astype(kind) if np.dtype(kind).kind == "f" else y.astype(kind) * (257 if kind == np.uint16 else 1)
        found = denoise(given, 0.05, **FAST)
        assert found.image.shape == shape and found.image.dtype == given.dtype and np.asarray(found) is found.image
    for kind in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensor = torch.from_numpy(y) if kind == torch.uint8 else torch.from_numpy(y / 255).to(kind)
        again = denoise(tensor, 0.05, **FAST).image
        assert again.shape == shape and again.dtype == kind
        levels = (again.double().numpy() * (1 if kind == torch.uint8 else 255)).clip(0, 255)
        assert np.abs(levels - denoise(y, 0.05, **FAST).image).max() < 3


@pytest.mark.parametrize("shape", [*SHAPES, (3, 5, 4), (4, 3, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("low", [0, -3.5])
def test_a_frame_is_undone_exactly(shape: tuple[int, ...], low: float) -> None:
    y = low + 7 * np.random.default_rng(0).random(shape)
    for given in (y, torch.from_numpy(y)):
        frame = Frame.of(given)
        assert frame.y.ndim == 4 and frame.y.shape[1] in (1, 3)
        back, lost = frame.back(frame.y)
        assert np.allclose(np.asarray(back), y, atol=1e-5) and lost == ()


def test_ranges() -> None:
    twelve = np.array([[0, 3042]], np.uint16)
    for given, low, high in (
        (Y, 0, 255), (twelve, 0, 4095), (twelve * 20, 0, 65535), (Y / 255, 0, 1), (Y / 255 - 0.1, 0, 1),
        (Y / 2550.0, 0, (1.1 * float(Y.max()) - 0.1 * float(Y.min())) / 2550),
        (np.array([[-1000, 3000]], np.int16), -1400, 3400), (np.array([[2.0, 2.0]]), 0, 2.1), (np.zeros((2, 2)), 0, 1),
    ):  # fmt: skip
        frame = Frame.of(given)
        assert (frame.low, frame.high) == pytest.approx((low, high), rel=1e-6)
    high = Frame.of(np.array([[-1000, 3000]], np.int16))
    image, lost = high.back(torch.ones(1, 1, 1, 2))
    assert (image == 3400).all() and "100.0% of the result lies at an end of [-1400, 3400]" in lost[0]
    assert (Frame.of(np.array([[-120, 120]], np.int8)).back(torch.ones(1, 1, 1, 2))[0] == 127).all()  # what the type holds


def test_noise_may_take_an_image_far_out_of_its_range_and_another_scale_may_not() -> None:
    """Noise of 0.3 and 0.5 leaves [−0.5, 1.5]; images on [0, S], S > 1.5, have a range of their own."""
    for name in ("camera", "astronaut", "coins"):
        x = photograph(name, 128)[0, 0].double()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for level in (0.3, 0.5):
            y = x + level * noise
            assert float(y.min()) < -0.5 and float(y.max()) > 1.5
            assert Frame.of(y).natural and Frame.of(y, (0, 1)).natural and not Frame.of(y - 0.5).natural
            with pytest.raises(InputError, match="far outside"):
                Frame.of(2 * y, (0, 1))
        for scale in (1.6, 2.0, 3.0):
            for level in (0.0, 0.05, 0.2):
                assert not Frame.of(scale * (x / x.max() + level * noise)).natural


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((7, 30, 30)), ShapeError, r"has the shape \(7, 1, 30, 30\)"),
        (np.zeros((30, 0)), ShapeError, "got shape"),
        (np.zeros(30), ShapeError, "got shape"),
        (np.zeros((2, 2, 7, 8, 9)), ShapeError, "got shape"),
        (np.zeros((30, 30), bool), InputError, "real numbers; got bool"),
        (torch.zeros(30, 30, dtype=torch.complex64), InputError, "real numbers; got complex64"),
        (np.full((30, 30), np.inf), InputError, "infinite"),
        ([["a"]], InputError, "real numbers"),
    ],
)
def test_what_is_no_image_is_refused(given: object, error: type[Exception], message: str) -> None:
    for call in (lambda: denoise(given, 0.1), lambda: deblur(given, "box:3", 0.1)):
        with pytest.raises(error, match=message):
            call()


def test_settings_that_cannot_be_meant() -> None:
    for how, message in (
        ({"denoiser": 3}, "a name, a file"), ({"denoiser": "purple"}, "purple"),
        ({"value_range": (1, 1)}, "LOW < HIGH"), ({"value_range": (0, 9)}, None), ({"device": "tpu"}, "cannot be used"),
    ):  # fmt: skip
        if message is None:
            assert denoise(Y, 0.05, **{**FAST, "value_range": (0, 300)}).record["range"] == [0, 300]
            continue
        with pytest.raises(InputError, match=message):
            denoise(Y, 0.05, **how)
    for noise, message in ((-1, "not negative"), (np.nan, "finite"), (2.55, "divide by 255")):
        with pytest.raises(InputError, match=message):
            denoise(Y, noise, **FAST)
    with pytest.raises(InputError, match="strength must be a positive number"):
        deblur(Y, "box:3", 0.1, strength=0)
    assert device_of("auto").type in ("cuda", "cpu")


def test_a_restoration_tells_everything() -> None:
    found = denoise(Image.fromarray(Y), 0.05, denoiser=TINY, device="cpu")
    assert isinstance(found, Restoration) and found.image.shape == Y.shape
    record = json.loads(found.to_json(command="by hand"))
    assert record["command"] == "by hand" and record["denoiser"] == "GradientFlowDenoiser" and record["noise"] == 0.05
    assert record["guarantee"]["proved"] and str(found.result) in str(found)
    assert isinstance(TINY, GradientFlowDenoiser) and next(TINY.parameters()).device.type == "cpu"


@pytest.mark.parametrize("in_channels", [1, 3])
def test_white_noise_of_colours_is_white_along_the_axes(in_channels: int) -> None:
    noise = torch.randn(2, 3, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (images, factors), (origin, _) = planes(noise, in_channels), planes(torch.zeros_like(noise), in_channels)
    moved = images - origin
    assert torch.allclose(moved.flatten(1).std(1), factors * torch.ones(len(images), dtype=torch.float64), rtol=0.02)
    if in_channels == 1:  # and independent
        found = torch.corrcoef(moved[:3].flatten(1))
        assert float((found - torch.eye(3)).abs().max()) < 0.04
        corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).T.reshape(1, 3, 2, 4)
        assert float(planes(corners, 1)[0].amin()) >= 0 and float(planes(corners, 1)[0].amax()) <= 1
    assert torch.allclose(from_planes(images, 3), noise)


def test_a_colour_image_is_three_grey_ones() -> None:
    """Along the axes, each with the noise that it has there, and in the same order at the end."""
    x = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    together = deblur(x, "gaussian:0.8", 0.1, denoiser=TINY, tol=1e-5, device="cpu")
    images, factors = planes(x, 1)
    assert together.result is not None and together.result.x.shape[:2] == (6, 1) and together.result.guarantee.proved
    alone = [deblur(z[None], "gaussian:0.8", 0.1 * float(f), denoiser=TINY, tol=1e-5, device="cpu", value_range=(0, 1)).image
             for z, f in zip(images, factors, strict=True)]  # fmt: skip
    expected = from_planes(torch.cat([torch.as_tensor(a) for a in alone]), 3).clamp(0, 1)
    assert torch.allclose(torch.as_tensor(together.image), expected, atol=1e-4)
    assert float(together.image.min()) >= 0 and float(together.image.max()) <= 1


def test_a_sinogram_of_every_kind_is_reconstructed() -> None:
    scan = demo_sinogram()
    y, angles = scan.y[0, 0, :, ::30], scan.angles[::30]
    how = {"sigma": 0.05, "tol": 1e-3, "size": 32}
    image = reconstruct(y, angles, **how).image
    assert image.shape == (32, 32) and image.dtype == torch.float32
    other = reconstruct(y.numpy().astype(np.float64), ParallelBeam(angles, n_det=len(y)), **how)
    assert other.image.dtype == np.float64 and np.allclose(other.image, image.numpy(), atol=1e-6)
    assert other.result.guarantee.proved and other.record["geometry"] == "ParallelBeamTomography"
    fan = FanBeam(angles, n_det=len(y), source_distance=500.0, detector_distance=100.0)
    assert reconstruct(y, fan, **how).record["geometry"] == "FanBeamTomography"
    assert other.notes == ()
    mistaken = ParallelBeam(np.deg2rad(angles[:5]), n_det=len(y))
    assert "angles seem to be radians" in str(reconstruct(y[:, :5], mistaken, **how))
    with pytest.raises(ShapeError, match="detectors, views"):
        reconstruct(y[0], angles)
    with pytest.raises(InputError, match="NaN"):
        reconstruct(torch.full_like(y, torch.nan), angles)
    with pytest.raises(InputError, match="positive image"):
        reconstruct(-y, angles, **how)
    with pytest.raises(InputError, match="`misfit`"):
        reconstruct(y, angles, misfit=2)

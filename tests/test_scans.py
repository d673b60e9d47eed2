"""From the scanner's file to a picture: each reader on a file made here, line integrals, the axis, and the command."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tifffile
import torch

from pnp_lip.command_line import main
from pnp_lip.command_line.ct_scan import batches, parse_slices
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.hounsfield import WATER_ATTENUATION
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram
from pnp_lip.scans import (
    check_theta,
    det_offset_of,
    find_center,
    from_projections,
    geometry_from_astra,
    line_integrals,
    read_dicom,
    read_frames,
    read_hdf5,
    read_matlab,
    read_tiff,
    without_stripes,
)

h5py = pytest.importorskip("h5py")

# Value, half axes, centre, angle: a skull, what is in it, two ventricles, a dense spot.
HEAD = (
    (1.0, 0.69, 0.9, 0.0, 0.0, 0.0),
    (-0.78, 0.64, 0.85, 0.0, 0.0, 0.0),
    (0.06, 0.2, 0.3, 0.25, 0.1, 20.0),
    (-0.05, 0.12, 0.3, -0.2, 0.15, -15.0),
    (0.3, 0.05, 0.05, -0.3, -0.4, 0.0),
    (0.3, 0.04, 0.06, 0.3, -0.35, 30.0),
    (-0.2, 0.06, 0.04, 0.0, 0.6, 0.0),
)
BESIDE = ((0.5, 0.3, 0.4, 0.3, 0.2, 30.0), (1.0, 0.1, 0.1, -0.5, 0.3, 0.0), (0.7, 0.05, 0.08, 0.0, 0.6, 20.0))
DARK, PEAK, FINE = 100.0, 3.0, 10  # counts without rays, largest integral, rays to a bin


class Made:
    """A scan of one slice by exact integrals: counts (views, bins), flats and darks (frames, bins), the true image."""

    def __init__(
        self,
        bins: int = 64,
        views: int = 60,
        axis: float = 31.2,
        photons: float = 2e4,
        unseen: float = 0.01,  # gain errors that the flats do not show, beside those of 5 % that they do
        dead: tuple[int, ...] = (12, 40, 41),
        span: float = 180.0,
        ellipses: tuple = HEAD,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.theta, self.axis, self.dead = np.linspace(0, span, views, endpoint=False), axis, list(dead)
        rays = ellipse_sinogram(bins, torch.from_numpy(self.theta), 2 * bins * FINE, ellipses, spacing=1 / FINE).numpy()
        starts = np.round((np.arange(bins) - axis - 0.5) * FINE + bins * FINE).astype(int)
        p = np.stack([rays[start : start + FINE].mean(0) for start in starts])
        unit = PEAK / p.max()
        self.p, self.image = (unit * p).T, lambda: unit * ellipse_image(bins, ellipses)
        seen, hidden = 1 + 0.05 * rng.standard_normal(bins), 1 + unseen * rng.standard_normal(bins)
        counts = rng.poisson(photons * seen * hidden * np.exp(-self.p)).astype(float)
        flat = rng.poisson(np.broadcast_to(photons * seen, (10, bins))).astype(float)
        counts[:, self.dead], flat[:, self.dead] = 0, 0
        self.counts, self.flat, self.darks = counts + DARK, flat + DARK, np.full((5, bins), DARK)

    @functools.cached_property
    def x(self) -> torch.Tensor:
        """The true image."""
        return self.image()

    def dxchange(self, path: Path, rows: int = 1, **replaced: object) -> Path:
        """Write it as DXchange, every row the same slice; ``replaced`` datasets, None for missing ones."""
        own = {"data": self.counts, "data_white": self.flat, "data_dark": self.darks}
        parts = {name: np.repeat(frames[:, None], rows, 1).astype(np.uint16) for name, frames in own.items()}
        with h5py.File(path, "w") as file:
            for name, values in ({**parts, "theta": self.theta} | replaced).items():
                if values is not None:
                    file[f"exchange/{name}"] = values
        return path


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(truth.max() ** 2 / np.mean((x - truth) ** 2)))


# --- Readers -----------------------------------------------------------------------------------------------------------------


def test_dxchange(tmp_path: Path) -> None:
    made = Made()
    scan = read_hdf5(made.dxchange(tmp_path / "scan.h5", rows=3))
    frames = scan.load(1, 3)
    assert scan.shape == (60, 3, 64) and np.array_equal(scan.theta, made.theta) and not scan.integrals
    assert np.array_equal(frames.data[:, 1], made.counts) and np.array_equal(frames.flat[:, 0], made.flat)
    assert frames.dark.shape == (5, 2, 64)


def test_the_units_of_theta_are_obeyed(tmp_path: Path) -> None:
    made = Made()
    path = made.dxchange(tmp_path / "scan.h5", theta=np.deg2rad(made.theta))
    with h5py.File(path, "a") as file:
        file["exchange/theta"].attrs["units"] = "rad"
    assert read_hdf5(path).theta == pytest.approx(made.theta)


def test_nexus(tmp_path: Path) -> None:
    made = Made()
    keys = np.array([2] * 5 + [1] * 4 + [0] * 30 + [1] * 6 + [0] * 30 + [3])
    frames = np.concatenate([made.darks, made.flat[:4], made.counts[:30], made.flat[4:], made.counts[30:], made.counts[:1]])
    angles = np.concatenate([np.zeros(9), made.theta[:30], np.full(6, 90.0), made.theta[30:], [180.0]])
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        entry = file.create_group("entry1/tomo_entry")
        entry["instrument/detector/data"] = frames[:, None].astype(np.float32)
        entry["instrument/detector/image_key"] = keys
        entry["sample/rotation_angle"] = angles
        entry["sample/rotation_angle"].attrs["units"] = np.bytes_("degree")
    scan = read_hdf5(tmp_path / "scan.nxs")
    read = scan.load(0, 1)
    assert scan.shape == (60, 1, 64) and np.array_equal(scan.theta, made.theta)
    assert np.array_equal(read.data[:, 0], made.counts) and np.array_equal(read.flat[:, 0], made.flat)
    assert np.array_equal(read.dark[:, 0], made.darks)


def test_tiff_in_one_file_or_a_folder(tmp_path: Path) -> None:
    frames = np.arange(12 * 3 * 5, dtype=np.uint16).reshape(12, 3, 5)
    tifffile.imwrite(tmp_path / "stack.tif", frames)
    (tmp_path / "views").mkdir()
    for view, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / "views" / f"scan_{view}.tiff", frame)  # scan_10 comes after scan_9
    for path in (tmp_path / "stack.tif", tmp_path / "views"):
        scan = read_tiff(path)
        assert scan.shape == (12, 3, 5) and np.array_equal(scan.load(1, 3).data, frames[:, 1:3])
        assert np.array_equal(read_frames(path), frames)
    np.save(tmp_path / "flat.npy", frames[0, 0])
    assert read_frames(tmp_path / "flat.npy").shape == (1, 1, 5)


HTC = {
    "type": "2D",
    "sinogram": np.random.default_rng(0).random((4, 8)),
    "parameters": {
        "angles": np.array([30.0, 30.5, 31.0, 31.5]), "numDetectorsPost": 8, "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74, "pixelSizePost": 0.2, "effectivePixelSizePost": 0.2 * 410.66 / 553.74,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["CtDataLimited", "CtDataFull"])
def test_the_helsinki_challenge(tmp_path: Path, name: str) -> None:
    scipy.io.savemat(tmp_path / "htc.mat", {name: HTC})
    scan = read_matlab(tmp_path / "htc.mat")
    pixel = HTC["parameters"]["effectivePixelSizePost"]
    assert scan.integrals and scan.shape == (4, 1, 8) and np.array_equal(scan.load(0, 1).data[:, 0], HTC["sinogram"])
    assert scan.fan.source_distance * pixel == pytest.approx(410.66)
    assert scan.fan.detector_distance * pixel == pytest.approx(553.74 - 410.66)
    assert scan.fan.det_spacing * pixel == pytest.approx(0.2) and scan.fan.degrees == pytest.approx([120, 120.5, 121, 121.5])


def test_matlab_before_and_since_7_3(tmp_path: Path) -> None:
    sinogram = np.random.default_rng(0).random((8, 5))  # (bins, views), as FIPS' first data sets
    scipy.io.savemat(tmp_path / "old.mat", {"m": sinogram, "A": np.eye(2)})
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["m"] = sinogram.T  # MATLAB's axes are stored in reverse
    with h5py.File(tmp_path / "struct.mat", "w", userblock_size=512) as file:
        file["CtDataFull/sinogram"] = HTC["sinogram"].T
        for key, value in HTC["parameters"].items():
            file[f"CtDataFull/parameters/{key}"] = np.atleast_2d(value).T
    for name in ("new.mat", "struct.mat"):
        with (tmp_path / name).open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    for name in ("old.mat", "new.mat"):
        scan = read_matlab(tmp_path / name)
        assert scan.shape == (5, 1, 8) and np.array_equal(scan.load(0, 1).data[:, 0], sinogram.T) and scan.theta is None
    scan = read_matlab(tmp_path / "struct.mat")
    assert np.array_equal(scan.load(0, 1).data[:, 0], HTC["sinogram"]) and scan.fan.n_det == 8


def test_dicom_slices_become_attenuation(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    hounsfield = np.array([[-1000, 0], [1000, -2000]])
    for number, height in ((0, 5.0), (1, -5.0)):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.Rows = data.Columns = 2
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation, data.PixelSpacing = "MONOCHROME2", [0.5, 0.5]
        data.ImagePositionPatient, data.RescaleSlope, data.RescaleIntercept = [0, 0, height], 2, -3000 - 100 * number
        data.PixelData = ((hounsfield + 3000) // 2).astype(np.uint16).tobytes()
        data.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    x, side = read_dicom(tmp_path)
    expected = WATER_ATTENUATION * np.array([[0, 1], [2, 0]])
    assert side == 0.5 and x.shape == (2, 1, 2, 2)
    assert x[1, 0].numpy() == pytest.approx(expected, abs=1e-8)  # the higher slice comes last
    assert x[0, 0, 0, 1].item() == pytest.approx(0.9 * WATER_ATTENUATION)
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    with pytest.raises(InputError, match="DICOM"):
        read_dicom(tmp_path)


def test_astras_dictionaries() -> None:
    angles = np.deg2rad([0.0, 30.0, 100.0])
    parallel = {"type": "parallel", "DetectorWidth": 0.5, "DetectorCount": 8, "ProjectionAngles": angles}
    fan = {**parallel, "type": "fanflat", "DistanceOriginSource": 20.0, "DistanceOriginDetector": 5.0}
    window = {"WindowMinX": -2.0, "WindowMaxX": 2.0, "WindowMinY": -2.0, "WindowMaxY": 2.0}
    volume = {"GridRowCount": 8, "GridColCount": 8, "option": window}
    assert geometry_from_astra(parallel, volume) == ParallelBeam(np.rad2deg(angles), n_det=8, det_spacing=0.5, pixel_size=0.5)
    ours = geometry_from_astra(fan, volume)
    for angle, degrees in zip(angles, ours.degrees, strict=True):  # ASTRA's vectors of "fanflat"
        point, direction = ours.rays(degrees + ours.turn, torch.tensor([1.0], dtype=torch.float64))
        source = 20 * np.array([np.sin(angle), -np.cos(angle)])
        place = 5 * np.array([-np.sin(angle), np.cos(angle)]) + np.array([np.cos(angle), np.sin(angle)])
        assert point[0].numpy() == pytest.approx(source) and (point + direction)[0].numpy() == pytest.approx(place)
    for wrong, message in (
        ({**parallel, "type": "cone"}, "'cone'"),
        ({k: v for k, v in fan.items() if k != "DistanceOriginSource"}, "DistanceOriginSource"),
    ):
        with pytest.raises(InputError, match=message):
            geometry_from_astra(wrong)
    with pytest.raises(InputError, match="square pixels"):
        geometry_from_astra(parallel, {**volume, "GridRowCount": 4})


# --- Line integrals ----------------------------------------------------------------------------------------------------------


def test_line_integrals_and_their_weights() -> None:
    made = Made(photons=1e9, unseen=0.0)
    y, w, dead = line_integrals(made.counts[:, None], made.flat[:, None], made.darks[:, None])
    alive = ~dead[0]
    assert torch.nonzero(dead[0]).flatten().tolist() == made.dead
    assert y[0, 0, alive].numpy() == pytest.approx(made.p.T[alive], abs=1e-3)
    assert (y[0, 0, ~alive] == 0).all() and (w[0, ~alive] == 0).all() and w[0, alive].mean().item() == pytest.approx(1)
    share = (made.counts - DARK).T[alive]
    assert w[0, alive].numpy() == pytest.approx(share / share.mean(), rel=1e-5)
    plain, photons, _ = line_integrals(made.p[:, None])  # integrals already
    assert plain[0, 0].numpy() == pytest.approx(made.p.T, rel=1e-6)
    assert photons[0].numpy() == pytest.approx(np.exp(-made.p.T) / np.exp(-made.p).mean(), rel=1e-5)


def test_counts_of_zero_have_no_weight() -> None:
    counts = np.random.default_rng(0).poisson(3.0, (20, 1, 30)).astype(float)
    y, w, _ = line_integrals(counts, 50.0)
    assert torch.isfinite(y).all() and torch.equal(w[0] == 0, torch.from_numpy(counts[:, 0].T == 0))
    assert (y[0, 0][w[0] == 0] == 0).all()


FAULTS = {
    "no counts": lambda column: 0 * column,
    "one value": lambda column: 0 * column + 777,
    "random counts": lambda column: np.random.default_rng(1).uniform(5e3, 3e4, len(column)),
    "a fifth of the counts": lambda column: 0.2 * column,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("photons", [pytest.param(1e3, marks=pytest.mark.slow), 2e4])
def test_dead_bins_are_found(fault: str, photons: float) -> None:
    made = Made(bins=200, views=60, axis=99.2, photons=photons, dead=())
    made.counts[:, 90] = FAULTS[fault](made.counts[:, 90])
    _, _, dead = line_integrals(made.counts[:, None], made.flat[:, None], made.darks[:, None])
    found = torch.nonzero(dead[0]).flatten().tolist()
    assert 90 in found and len(found) <= 3  # a sharp edge of the object may cost a bin or two


def test_stripes_of_gain_errors_are_taken_out() -> None:
    pytest.importorskip("algotom")
    made = Made(bins=128, views=120, axis=63.5, unseen=0.05)
    counts = made.counts[:, None], made.flat[:, None], made.darks[:, None]
    y, w, dead = line_integrals(*counts)
    cleaned = without_stripes(y, w)
    error = [((z[0, 0].numpy() - made.p.T)[~dead[0]].mean(1) ** 2).mean() ** 0.5 for z in (y, cleaned)]
    assert error[1] < 0.8 * error[0] and (cleaned[w[:, None] == 0] == 0).all()
    scan = from_projections(*counts, theta=made.theta, center=made.axis, stripes=True, size=16)
    assert torch.equal(scan.y, cleaned)


def test_dead_flats_are_found() -> None:
    made = Made(dead=())
    made.flat[:, 20], made.flat[:, 30] = DARK + 10, DARK + 2e5
    _, _, dead = line_integrals(made.counts[:, None], made.flat[:, None], made.darks[:, None])
    assert torch.nonzero(dead[0]).flatten().tolist() == [20, 30]


GOOD = np.full((4, 2, 5), 7.0)
BAD_PARTS = {
    "NaN": ({"data": np.full((4, 2, 5), np.nan), "flat": 1.0}, "NaN"),
    "flat of another shape": ({"data": GOOD, "flat": np.ones((3, 2, 6))}, "the flat has frames"),
    "dark of another shape": ({"data": GOOD, "flat": 9.0, "dark": np.ones((3, 3, 5))}, "the dark has frames"),
    "dark alone": ({"data": GOOD, "dark": 1.0}, "pass `flat` too"),
    "infinite flat": ({"data": GOOD, "flat": np.full(5, np.inf)}, "the flat holds"),
    "flats below the darks": ({"data": GOOD, "flat": 1.0, "dark": 2.0}, "no counts above the dark"),
    "weights": ({"data": GOOD, "flat": 9.0, "weights": "heavy"}, "photons, none"),
    "text": ({"data": np.array([[["a"]]]), "flat": 1.0}, "real numbers"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_parts_that_do_not_fit_are_refused(name: str) -> None:
    parts, message = BAD_PARTS[name]
    with pytest.raises((InputError, ShapeError), match=message):
        line_integrals(**parts)


def test_from_projections_is_the_scan_that_was_made() -> None:
    made = Made(photons=1e9, unseen=0.0)
    scan = from_projections(made.counts, made.flat[:, None], made.darks[:, None], theta=made.theta, center=made.axis)
    assert scan.center == made.axis and scan.physics.geometry.det_offset == pytest.approx(0.3)
    y, physics = scan.slice(0)
    x = made.x[None, None].float()
    assert float((physics.A(x) - y).norm() / y.norm()) < 0.05  # pixels against ellipses
    wrong = from_projections(made.counts, made.flat[:, None], made.darks[:, None], theta=made.theta).slice(0)[1]
    assert float((wrong.A(x) - y).norm() / y.norm()) > 0.1
    assert psnr(physics.fbp(y)[0, 0].numpy(), made.x.numpy()) > 20
    assert physics.norm_bound().upper >= physics.norm_bound().lower > 0


def test_from_projections_of_a_fan() -> None:
    geometry = FanBeam(np.arange(0, 360, 12.0), n_det=40, source_distance=60.0, detector_distance=30.0, det_offset=1.0)
    physics = FanBeamTomography(geometry, (1, 24, 24))
    y = physics.A(ellipse_image(24)[None, None].float())
    scan = from_projections(y[0, 0].T.numpy(), fan=geometry, weights="none", size=24)
    assert torch.allclose(scan.slice(0)[0], y) and scan.center == pytest.approx(18.5)
    assert torch.equal(scan.physics.A(torch.ones(1, 1, 24, 24)), physics.A(torch.ones(1, 1, 24, 24)))
    with pytest.raises(InputError, match="neither"):
        from_projections(y[0, 0].T.numpy(), fan=geometry, center=3.0)
    with pytest.raises(InputError, match="29 projections"):
        from_projections(y[0, 0].T.numpy()[1:], fan=geometry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"center": "middle"}, "auto"), ({"center": -1.0}, r"\[0, 63\]"), ({"theta": None}, "`theta` is missing")],
)
def test_settings_that_are_unknown(settings: dict, message: str) -> None:
    made = Made()
    with pytest.raises(InputError, match=message):
        from_projections(made.p, **({"theta": made.theta} | settings))


def test_angles_in_radians_are_recognised() -> None:
    for span in (np.pi, 2 * np.pi):
        for end in (True, False):
            with pytest.raises(InputError, match="radians"):
                check_theta(np.linspace(0, span, 181, endpoint=end), 181)
    assert check_theta(np.arange(0, 180.0), 180)[-1] == 179
    for wrong, message in (
        (np.zeros(3), "4 projections, but 3 angles"),
        (np.full(4, np.nan), "finite"),
        (np.zeros((2, 2)), "list"),
    ):
        with pytest.raises(InputError, match=message):
            check_theta(wrong, 4)


# --- The axis ----------------------------------------------------------------------------------------------------------------


def test_the_offset_puts_the_axis_where_it_was_found() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 16] = 1  # a point on the axis
    scanner = ParallelBeam(np.arange(0, 180, 9.0), n_det=40, det_spacing=0.5, det_offset=det_offset_of(12.3, 40, 0.5))
    y = ParallelBeamTomography(scanner, (1, 33, 33)).A(x)[0, 0]
    assert ((y * torch.arange(40.0)[:, None]).sum(0) / y.sum(0)).numpy() == pytest.approx(12.3, abs=0.02)  # a half bin's means


AXES = {
    "near the middle": {},
    "in the middle": {"axis": 99.5},
    "far from it": {"axis": 120.4},
    "full turn": {"span": 360.0, "views": 180},
    "few views": {"views": 60},
    "few photons": {"photons": 1e3, "views": 180},
    "large gain errors": {"unseen": 0.03},
    "objects beside the axis": {"ellipses": BESIDE, "views": 180},
}


OFTEN = ("near the middle", "few views", "objects beside the axis")


@pytest.mark.parametrize("name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in AXES])
def test_the_axis_is_found_to_a_tenth_of_a_bin(name: str) -> None:
    pytest.importorskip("algotom")
    made = Made(**({"bins": 200, "views": 90, "axis": 99.2} | AXES[name]))
    scan = from_projections(made.counts, made.flat[:, None], made.darks[:, None], theta=made.theta, center="auto", size=16)
    assert abs(scan.center - made.axis) < 0.1
    backwards = find_center(made.p[::-1].T, made.theta[::-1])
    assert abs(backwards - made.axis) < 0.1


def volume_with_air(air: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Ten rows of counts and flats; each has its own gain errors and dead bins, those of ``air`` no object."""
    rows, rng = [Made(200, 90, 99.2, unseen=0.02, seed=k, dead=(50 + k, 120 - k)) for k in range(10)], np.random.default_rng(0)
    for k in air:
        gains = 1 + 0.02 * rng.standard_normal(200)
        rows[k].counts = DARK + rng.poisson(np.tile(gains * (rows[k].flat.mean(0) - DARK), (90, 1)))
    counts, flat = (np.stack([getattr(row, name) for row in rows], 1) for name in ("counts", "flat"))
    return counts, flat


def test_air_does_not_move_the_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Three of the five slices that are looked at, and the one in the middle, hold noise alone."""
    pytest.importorskip("algotom")
    made = Made(200, 90, 99.2)
    counts, flat = volume_with_air(air=(0, 1, 2, 3, 5))
    scan = from_projections(counts, flat, np.full((1, 10, 200), DARK), theta=made.theta, center="auto", size=16)
    assert abs(scan.center - made.axis) < 0.1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    darks = np.full((1, 10, 200), DARK)
    made.dxchange(tmp_path / "scan.h5", data=counts, data_white=flat, data_dark=darks)
    assert main(["ct", "scan.h5", "--center", "auto", "--slices", "4:7", "--size", "16", *QUICK]) in (0, 2)
    assert abs(json.loads(Path("out/scan.json").read_text())["center"] - made.axis) < 0.1
    assert "disagree" not in capsys.readouterr().out


def test_an_axis_that_leans_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("algotom")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    leaning = [Made(100, 60, axis, dead=()) for axis in (48.0, 49.0, 50.0)]
    data, flat, dark = (np.stack([getattr(one, name) for one in leaning], 1) for name in ("counts", "flat", "darks"))
    leaning[0].dxchange(tmp_path / "scan.h5", data=data, data_white=flat, data_dark=dark)
    assert main(["ct", "scan.h5", "--center", "auto", "--slices", "0:3", "--size", "16", *QUICK]) == 0
    assert "slices disagree on the axis: bins 4" in capsys.readouterr().out
    assert abs(json.loads(Path("out/scan.json").read_text())["center"] - 49) < 0.1


def test_the_search_for_the_axis_says_what_it_needs() -> None:
    pytest.importorskip("algotom")
    for theta, message in ((np.arange(0, 120, 3.0), "cover 120°"), (np.sort(np.random.default_rng(0).random(40)), "equal steps")):
        with pytest.raises(InputError, match=message):
            find_center(np.ones((64, 40)), theta)


# --- The command -------------------------------------------------------------------------------------------------------------

QUICK = ["--out", "out", "--quiet", "--tol", "1e-3", "--sigma", "0.01", "--denoiser", "tiny"]


def test_one_command_from_the_file_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("algotom")
    monkeypatch.chdir(tmp_path)
    made = Made()
    made.dxchange(tmp_path / "scan.h5", rows=3)
    before = Path("scan.h5").read_bytes()
    assert main(["ct", "scan.h5", "--center", "auto", "--weights", "photons", "--slices", "1:3", *QUICK]) == 0
    state = json.loads(Path("out/scan.json").read_text())
    assert abs(state["center"] - made.axis) < 0.1 and state["sigma"] == 0.01
    volume = np.load("out/volume.npy")
    assert volume.shape == (2, 64, 64) and min(psnr(x, made.x.numpy()) for x in volume) > 22
    names = {"ct.png", "fbp.npy", "pnp-lip.npy", "result.json", "tikhonov.npy"}
    assert {p.name for p in Path("out/slice_00002").iterdir()} == names and not Path("out/slice_00000").exists()
    assert json.loads(Path("out/slice_00001/result.json").read_text())["source"] == "scan.h5, slice 1"
    assert Path("scan.h5").read_bytes() == before


def test_a_finished_slice_is_not_solved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    made = Made(bins=24, views=20, axis=11.5, dead=())
    made.dxchange(tmp_path / "scan.h5", rows=3)
    run: Callable[..., int] = lambda *more: main(["ct", "scan.h5", *more, *QUICK])  # noqa: E731
    assert run("--slices", "1:3") == 0
    times = {p: p.stat().st_mtime_ns for p in Path("out").glob("slice*/*")}
    assert run() == 0 and "2 of 3 slices are finished already" in capsys.readouterr().out
    assert all(p.stat().st_mtime_ns == time for p, time in times.items()) and np.load("out/volume.npy").shape == (3, 24, 24)
    Path("out/slice_00002/pnp-lip.npy").unlink()  # killed between its record and its image
    for left in (halves := [Path("out/.volume.7.part.npy"), Path("out/slice_00002/..ct.7.part.7.part.png")]):
        left.touch()
    assert run() == 0 and not any(left.exists() for left in halves)
    changed = {p.parent.name for p, time in times.items() if p.stat().st_mtime_ns != time}
    assert changed == {"slice_00002"}
    assert run("--center", "15") == 2 and "slices of other center; choose another folder" in capsys.readouterr().err
    assert run("--curved") == 2 and "slices of other curved" in capsys.readouterr().err
    Made(bins=24, views=20, axis=11.5, dead=(), seed=1).dxchange(tmp_path / "scan.h5", rows=3)
    before = np.load("out/volume.npy")
    assert run() == 2 and "slices of other content" in capsys.readouterr().err
    assert np.array_equal(np.load("out/volume.npy"), before)
    assert run("--slices", "1:3", "--force") == 0 and not np.array_equal(np.load("out/volume.npy"), before[1:])
    capsys.readouterr()
    assert run() == 0 and "2 of 3 slices are finished already" in capsys.readouterr().out  # of the new content
    np.save("out/slice_00001/tikhonov.npy", np.zeros(3))
    np.save("out/slice_00002/pnp-lip.npy", np.zeros(3))
    assert run() == 2 and "pnp-lip.npy exists, and pnp-lip did not write it" in capsys.readouterr().out
    assert np.load("out/slice_00002/pnp-lip.npy").shape == (3,)
    np.save("out/volume.npy", np.zeros(3))
    assert run() == 2 and "volume.npy exists, and pnp-lip did not write it" in capsys.readouterr().err
    assert run("--force") == 0 and np.load("out/volume.npy").shape == (3, 24, 24)


def test_a_slice_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Air in the middle, a row without rays, one with NaN, one that ends in an error of no name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    made = Made(bins=24, views=20, axis=11.5, dead=())
    data, flat = (np.repeat(frames[:, None], 6, 1) for frames in (made.counts, made.flat))
    data[:, 3], data[:, 1], data[4, 5, 6] = flat.mean(0)[3], DARK, np.nan
    made.dxchange(tmp_path / "scan.h5", rows=6, data=data, data_white=flat)
    assert main(["ct", "scan.h5", *QUICK]) == 2
    said, error = capsys.readouterr()
    assert error == "" and "6 slices in out: 3 converged, 3 failed" in said and "NaN where 3 of them failed" in said
    for number, reason in ((3, "positive image"), (1, "no counts above the dark"), (5, "1 NaN")):
        record = json.loads(Path(f"out/slice_{number:05d}/result.json").read_text())
        assert record["status"] == "failed" and reason in record["error"] and f"slice_{number:05d}  failed     " in said
    volume, state = np.load("out/volume.npy"), json.loads(Path("out/scan.json").read_text())
    assert np.isnan(volume).all((1, 2)).tolist() == [False, True, False, True, False, True] and state["sigma"] == 0.01
    assert np.isfinite(volume[[0, 2, 4]]).all() and not Path("out/slice_00003/pnp-lip.npy").exists()
    assert main(["ct", "scan.h5", *QUICK, "--slices", "2"]) == 0  # of the same run
    assert main(["ct", "scan.h5", *QUICK, "--slices", "1:2"]) == 2
    assert "no slice could be reconstructed; no counts above the dark" in capsys.readouterr().err
    monkeypatch.setattr("pnp_lip.command_line.ct.solve_slice", lambda *_, **__: 1 / 0)
    assert main(["ct", "scan.h5", *QUICK[2:], "--out", "b"]) == 2 and "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    assert main(["ct", "scan.h5", *QUICK[2:], "--slices", "0", "--out", "c", "--max-iter", "2", "--tol", "1e-9"]) == 3


def test_rows_that_cannot_be_read_stop_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged chunk costs the rows of its batch, and the same command tries them again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    monkeypatch.setattr("pnp_lip.command_line.ct_scan.BATCH_BYTES", 8 * 20 * 24 * 2)
    with h5py.File(Made(bins=24, views=20, axis=11.5, dead=()).dxchange(tmp_path / "scan.h5", rows=4), "a") as file:
        data = np.asarray(file["exchange/data"])
        del file["exchange/data"]
        file.create_dataset("exchange/data", data=data, chunks=(20, 1, 24), fletcher32=True)
        place = file["exchange/data"].id.get_chunk_info_by_coord((0, 3, 0)).byte_offset
    whole = Path("scan.h5").read_bytes()
    Path("scan.h5").write_bytes(whole[:place] + b"no data" + whole[place + 7 :])
    assert main(["ct", "scan.h5", *QUICK]) == 2
    records = [json.loads(Path(f"out/slice_{number:05d}/result.json").read_text()) for number in range(4)]
    assert [record["status"] for record in records] == ["converged", "converged", "converged", "failed"]
    assert "the file is damaged" in records[3]["error"]
    Path("scan.h5").write_bytes(whole)
    assert main(["ct", "scan.h5", *QUICK, "--force"]) == 0 and np.isfinite(np.load("out/volume.npy")).all()


@pytest.mark.slow
def test_a_volume_by_two_workers_is_the_single_solves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 64 slices to the bit; one that fails stops no other; and the command again finds all of them finished."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    made, threads = Made(bins=64, views=20, axis=31.5, dead=()), torch.get_num_threads()
    counts = np.random.default_rng(0).poisson(np.repeat(made.counts[:, None], 64, 1)).astype(float)
    counts[:, 7] = DARK
    made.dxchange(tmp_path / "scan.h5", rows=64, data=counts)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["ct", "scan.h5", *QUICK, "--jobs", "2"]) == 2
    found, state = np.load("out/volume.npy"), json.loads(Path("out/scan.json").read_text())
    torch.set_num_threads(1)
    assert np.isnan(found[7]).all() and state["sigma"] == 0.01
    for number in (n for n in range(64) if n != 7):
        assert main(["ct", "scan.h5", "--out", f"{number}", *QUICK[2:], "--slices", f"{number}"]) == 0
        assert np.array_equal(np.load(f"{number}/volume.npy")[0], found[number])
    torch.set_num_threads(threads)
    times = {p: p.stat().st_mtime_ns for p in Path("out").glob("slice*/pnp-lip.npy")}
    assert main(["ct", "scan.h5", *QUICK, "--jobs", "2"]) == 2 and len(times) == 63
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())


def test_slices_have_one_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Those that were finished before count as done and not as fast; the search on the first slice has bars of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    Made(bins=24, views=20, axis=11.5, dead=()).dxchange(tmp_path / "scan.h5", rows=4)
    loud = [word for word in QUICK if word != "--quiet"]
    assert main(["ct", "scan.h5", *loud]) == 0
    bars = capsys.readouterr().err.replace("\r", "\n").splitlines()
    slices = [bar for bar in bars if "/4 [" in bar]
    assert "1/4" in slices[0] and "4/4" in slices[-1] and "slice" in slices[-1]
    assert bars.index(slices[0]) > 0 and not any("residual" in bar for bar in bars[bars.index(slices[0]) :])


def test_slices_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = read_hdf5(Made(bins=32, views=30, dead=()).dxchange(tmp_path / "scan.h5", rows=7))
    monkeypatch.setattr("pnp_lip.command_line.ct_scan.BATCH_BYTES", 8 * 30 * 32 * 3)
    assert list(batches(scan, range(1, 7))) == [range(1, 4), range(4, 7)]
    assert parse_slices("2:4", 7) == range(2, 4) and parse_slices("6", 7) == range(6, 7) and parse_slices(None, 7) == range(7)


def test_tiff_and_matlab_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp_lip.command_line.ct.draw", lambda path, *_, **__: path.touch())
    made = Made(bins=32, views=30, axis=15.0, dead=())
    tifffile.imwrite("scan.tif", made.counts[:, None].astype(np.uint16), photometric="minisblack")
    np.save("flat.npy", made.flat[:, None])
    assert main(["ct", "scan.tif", "--angles", "0:180:6", "--flat", "flat.npy", "--dark", "100", "--center", "15", *QUICK]) == 0
    assert psnr(np.load("out/volume.npy")[0], made.x.numpy()) > 20
    geometry = FanBeam(np.arange(90, 210, 4.0), n_det=48, det_spacing=1.5, source_distance=80.0, detector_distance=40.0)
    y = FanBeamTomography(geometry, (1, 48, 48)).A(0.02 * ellipse_image(48)[None, None].float())
    parameters = {"angles": np.arange(0, 120, 4.0), "numDetectorsPost": 48, "distanceSourceOrigin": 80.0,
                  "distanceSourceDetector": 120.0, "effectivePixelSizePost": 1.0}  # fmt: skip
    scipy.io.savemat("htc.mat", {"CtDataLimited": {"sinogram": y[0, 0].T.numpy(), "parameters": parameters}})
    assert main(["ct", "htc.mat", *["fan" if a == "out" else a for a in QUICK]]) == 0
    record = json.loads(Path("fan/slice_00000/result.json").read_text())
    assert record["geometry"] == "FanBeamTomography" and record["misfit"]["Tikhonov"] < 0.05


def bad_files(folder: Path) -> None:
    """Files with one fault each."""
    made = Made(bins=16, views=20, axis=7.5, dead=())
    made.dxchange(folder / "good.h5", rows=2)
    made.dxchange(folder / "no_data.h5", data=None)
    made.dxchange(folder / "no_flat.h5", data_white=None)
    made.dxchange(folder / "no_theta.h5", theta=None)
    made.dxchange(folder / "short.h5", theta=made.theta[:-1])
    made.dxchange(folder / "radians.h5", theta=np.deg2rad(made.theta))
    made.dxchange(folder / "flat_shape.h5", data_white=np.ones((3, 1, 15)))
    made.dxchange(folder / "flat_data.h5", data=np.ones((20, 16)))
    made.dxchange(folder / "nan.h5", data=np.full((20, 1, 16), np.nan))
    (folder / "junk.h5").write_bytes(b"no HDF5")
    (folder / "cut.h5").write_bytes((folder / "good.h5").read_bytes()[:-3000])
    with h5py.File(folder / "other.h5", "w") as file:
        file["measurement"] = np.ones(3)
    for name, keys in (("nokey.nxs", [1] * 20), ("keys.nxs", [0] * 19), ("noangle.nxs", [0] * 20)):
        with h5py.File(folder / name, "w") as file:
            file["entry/detector/data"], file["entry/detector/image_key"] = made.counts[:, None], keys
    for name in ("junk.tif", "junk.mat", "scan.xyz"):
        (folder / name).write_bytes(b"junk")
    tifffile.imwrite(folder / "colour.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    (folder / "empty").mkdir()
    np.save(folder / "flat.npy", np.ones((3, 2, 15)))
    scipy.io.savemat(folder / "other.mat", {"x": np.eye(2)})
    scipy.io.savemat(folder / "cone.mat", {"CtDataFull": {"sinogram": np.ones((3, 4)), "parameters": {"angles": [1.0, 2.0]}}})
    scipy.io.savemat(folder / "htc.mat", {"CtDataLimited": {**HTC, "sinogram": np.ones((5, 8))}})
    scipy.io.savemat(folder / "fips.mat", {"m": np.ones((8, 5))})


BAD = [
    (["absent.h5"], "no such file"),
    (["scan.xyz"], "could not be read"),
    (["junk.h5"], "could not be read as HDF5"),
    (["cut.h5"], "could not be read as HDF5"),
    (["other.h5"], "neither DXchange (/exchange/data) nor NXtomo"),
    (["no_data.h5"], "exchange/data is missing"),
    (["no_flat.h5"], "holds no flats"),
    (["no_theta.h5"], "/exchange/theta is missing; pass --angles"),
    (["short.h5"], "20 projections, but 19 angles"),
    (["good.h5", "--angles", "0:180:10"], "20 projections, but 18 angles"),
    (["flat_shape.h5"], "data_white has frames of (1, 15)"),
    (["flat_data.h5"], "must be frames of real numbers"),
    (["nan.h5"], "NaN"),
    (["nokey.nxs"], "marks no projection"),
    (["keys.nxs"], "an image_key of shape (19,)"),
    (["noangle.nxs"], "no rotation_angle"),
    (["good.h5", "--slices", "1:3"], "the slices 0 to 1"),
    (["good.h5", "--jobs", "0"], "at least 1; got 0"),
    (["good.h5", "--slices", "a:b"], "START:STOP"),
    (["good.h5", "--center", "99"], "a bin from 0 to 15"),
    (["good.h5", "--center", "left"], "takes auto or a bin"),
    (["good.h5", "--center", "7", "--offset", "1"], "without --offset"),
    (["good.h5", "--center", "7", "--fan", "60:30"], "parallel rays"),
    (["good.h5", "--flat", "flat.npy"], "--flat has frames of (2, 15)"),
    (["good.h5", "--flat", "absent.npy"], "could not be read as npy"),
    (["good.h5", "--flat", "empty"], "no TIFF file"),
    (["good.h5", "--dark", "scan.xyz"], "expected npy, TIFF"),
    (["good.h5", "--out", "."], "which is read"),
    (["junk.tif", "--angles", "0:180:9"], "could not be read as TIFF"),
    (["colour.tif", "--angles", "0:180:9"], "expected grey pages"),
    (["empty", "--angles", "0:180:9"], "no TIFF file"),
    (["junk.mat"], "could not be read as a MATLAB file"),
    (["other.mat"], "nor a sinogram m, but x"),
    (["cone.mat"], "is it a two-dimensional fan-beam scan"),
    (["htc.mat"], "a sinogram of (5, 8), but 4 angles and 8 bins"),
    (["fips.mat"], "holds no angles"),
    (["fips.mat", "--angles", "0:5:1", "--flat", "1"], "do not belong to it"),
    (["flat.npy", "--center", "auto"], "--center belongs to a scanner's file"),
]


def test_bad_files_end_in_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    for arguments, message in BAD:
        out = [] if "--out" in arguments else ["--out", "out"]
        assert main(["ct", *arguments, *out, "--quiet", "--denoiser", "tiny"]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("pnp-lip: ") and message in error and error.count("\n") == 1, (arguments, error)
        assert not list(Path("out").glob("slice*/pnp-lip.npy"))


def test_radians_in_a_file_are_recognised(tmp_path: Path) -> None:
    made = Made()
    with pytest.raises(InputError, match="radians"):
        read_hdf5(made.dxchange(tmp_path / "scan.h5", theta=np.deg2rad(made.theta)))


@pytest.mark.slow
def test_the_scan_of_the_issue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2e4 photons, 200 bins, the axis on bin 99.2, gain errors of 1 %, three dead columns, 180 views: two minutes."""
    pytest.importorskip("algotom")
    monkeypatch.chdir(tmp_path)
    made = Made(bins=200, views=180, axis=99.2, dead=(37, 120, 121))
    made.dxchange(tmp_path / "scan.h5")
    assert main(["ct", "scan.h5", "--center", "auto", "--weights", "photons", "--out", "out"]) == 0
    assert abs(json.loads(Path("out/scan.json").read_text())["center"] - 99.2) < 0.1
    assert psnr(np.load("out/volume.npy")[0], made.x.numpy()) >= 27.5

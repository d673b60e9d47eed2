"""Every recipe of docs/geometry.md, run against the package that it comes from."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import deepinv
import numpy as np
import pytest
import torch
from skimage.transform import radon

from pnp_lip.operators.phantoms import ellipse_image

PAGE = Path(__file__).parents[1] / "docs" / "geometry.md"
RECIPE = re.compile(r"<!-- recipe: ([^,\n]+), (\S+) -->\n```python\n(.*?)```", re.S)
RECIPES = {name: (float(tolerance), code) for name, tolerance, code in RECIPE.findall(PAGE.read_text())}
HALF, FULL = np.linspace(0, math.pi, 40, endpoint=False), np.linspace(0, 2 * math.pi, 60, endpoint=False)
FAN = {"pixel_spacing": 1.0, "source_radius": 100.0, "detector_radius": 60.0, "n_detector_pixels": 121, "detector_spacing": 1.0}


def picture(height: int, width: int) -> np.ndarray:
    """No symmetry takes it into itself."""
    x = np.zeros((height, width), dtype=np.float32)
    side = min(height, width)
    x[:side, :side] = ellipse_image(side)
    x[height // 10 : height // 4, width // 2 : width // 2 + 6] += 0.7
    return x


def check(name: str, **theirs: Any) -> None:
    """That our projection of their image differs from theirs by less than the page says, and by more if it is mirrored."""
    tolerance, code = RECIPES[name]
    exec(code, theirs)
    x, y = theirs["x"].float(), theirs["y"].float()
    ours, mirrored = (theirs["physics"](image)[0, 0] for image in (x, x.flip(3)))
    assert float((ours - y[0, 0]).norm() / y.norm()) < tolerance
    assert float((mirrored - y[0, 0]).norm() / y.norm()) > 3 * tolerance


def test_the_page_states_its_recipes() -> None:
    names = ["astra parallel", "astra fan", "odl parallel", "odl fan", "skimage", "deepinv", "deepinv fan"]
    names += ["cil parallel", "cil cone"]
    assert list(RECIPES) == names
    assert all(
        f"{tolerance:g}".replace("1e-05", "1e-5").replace("0.001", "1e-3") in PAGE.read_text()
        for tolerance, _ in RECIPES.values()
    )


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_astra_parallel(shift: float) -> None:
    astra, image = pytest.importorskip("astra"), picture(48, 64)
    geometry = astra.create_proj_geom("parallel", 0.8, 120, HALF)
    kernel = "strip" if shift == 0 else "linear"
    if shift:
        geometry = astra.geom_postalignment(geometry, shift)
    projector = astra.create_projector(kernel, geometry, astra.create_vol_geom(48, 64))
    sinogram = astra.create_sino(image, projector)[1]
    tolerance, code = RECIPES["astra parallel"]
    theirs = {"angles": HALF, "bins": 120, "spacing": 0.8, "shift": shift, "image": image, "sinogram": sinogram}
    if shift:  # ASTRA 2.5 has strips on a CPU for centred detectors only
        code = code.replace("shift * spacing)", 'shift * spacing, model="joseph")')
    exec(code, theirs)
    gap = (theirs["physics"](theirs["x"]) - theirs["y"]).norm() / theirs["y"].norm()
    assert float(gap) < tolerance


def test_astra_fan() -> None:
    astra, image = pytest.importorskip("astra"), picture(48, 64)
    distances = {"source_origin": 150.0, "origin_detector": 100.0}
    geometry = astra.create_proj_geom("fanflat", 1.3, 150, FULL, *distances.values())
    projector = astra.create_projector("strip_fanflat", geometry, astra.create_vol_geom(48, 64))
    sinogram = astra.create_sino(image, projector)[1]
    check("astra fan", angles=FULL, bins=150, spacing=1.3, image=image, sinogram=sinogram, **distances)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["odl parallel", "odl fan"])
def test_odl(name: str) -> None:
    odl = pytest.importorskip("odl")
    pytest.importorskip("astra")
    tomo, image = odl.applications.tomo, np.rot90(picture(48, 64), -1).copy()
    space = odl.uniform_discr([-16, -12], [16, 12], image.shape, dtype="float32")
    if name == "odl parallel":
        geometry = tomo.Parallel2dGeometry(odl.uniform_partition(0, math.pi, 40), odl.uniform_partition(-30, 30, 150))
    else:
        views, detector = odl.uniform_partition(0, 2 * math.pi, 60), odl.uniform_partition(-38, 42, 160)
        geometry = tomo.FanBeamGeometry(views, detector, src_radius=75, det_radius=50)
    transform = tomo.RayTransform(space, geometry, impl="astra_cpu")
    sinogram = np.array(transform(space.element(image)).asarray())
    check(name, geometry=transform.geometry, pixel=float(transform.domain.cell_sides[0]), image=image, sinogram=sinogram)


@pytest.mark.parametrize("name", ["cil parallel", "cil cone"])
def test_cil(name: str) -> None:
    """What CIL's ASTRA plugin makes of its geometries: y negated, then turned by the angle; the axis goes to the origin."""
    astra, image, degrees = pytest.importorskip("astra"), picture(48, 64), np.arange(0, 360, 6.0) + 10
    numbers = {"num_pixels": 160, "pixel_size": 0.8, "rotation_axis_position": (1.3, 0.0), "detector_position": (0.0, 0.0)}
    central = (0.0, -1.0)  # the direction of the rays, or where the source stands
    if name == "cil cone":
        numbers |= {"source_position": (0.0, -75.0), "detector_position": (0.0, 50.0), "rotation_axis_position": (0.0, 0.0)}
        central = (0.0, 75.0)
    place, axis = numbers["detector_position"], numbers["rotation_axis_position"]
    parts = np.array([central, (place[0] - axis[0], axis[1] - place[1]), (numbers["pixel_size"], 0.0)])
    turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in np.deg2rad(degrees)]
    vectors = np.stack([(parts @ turn).ravel() for turn in turns])
    geometry, kernel, order = astra.create_proj_geom("parallel_vec", 160, vectors), "linear", 1
    if name == "cil cone":  # ASTRA's strips take no vectors: the same rays, their bins reversed
        geometry = astra.create_proj_geom("fanflat", 0.8, 160, np.deg2rad(degrees + 180), 75, 50)
        kernel, order = "strip_fanflat", -1
        assert astra.geom_2vec(geometry)["Vectors"] * [1, 1, 1, 1, -1, -1] == pytest.approx(vectors)
    window = astra.create_vol_geom(48, 64, -16, 16, -12, 12)
    sinogram = astra.create_sino(image, astra.create_projector(kernel, geometry, window))[1][:, ::order]
    check(name, angles=degrees, pixel=0.5, image=image, sinogram=sinogram, **numbers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("n", [45, 47, 48, 50])  # both parities of n and of ⌈√2 n⌉
def test_skimage_and_deepinv(n: int, circle: bool) -> None:
    image, theta = picture(n, n), np.arange(0, 180, 4.5)
    line = np.arange(n) - n // 2
    image *= line[:, None] ** 2 + line**2 <= (n // 2 - 1) ** 2
    check("skimage", image=image, theta=theta, sinogram=radon(image, theta, circle=circle))
    x = torch.from_numpy(image)[None, None]
    theirs = deepinv.physics.Tomography(angles=torch.from_numpy(theta), img_width=n, circle=circle, normalize=False)
    check("deepinv", image=x, angles=theta, circle=circle, sinogram=theirs.A(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [45, 50])
def test_deepinv_fan(n: int) -> None:
    x, angles = torch.from_numpy(picture(n, n))[None, None], np.arange(0, 360, 6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = deepinv.physics.Tomography(
            angles=torch.from_numpy(angles), img_width=n, normalize=False, fan_beam=True, fan_parameters=FAN
        )
    check("deepinv fan", image=x, angles=angles, circle=False, fan_parameters=FAN, sinogram=theirs.A(x))

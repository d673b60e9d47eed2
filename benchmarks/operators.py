"""Speed, accuracy and certificates of the forward models beside other packages; ASTRA takes part if it is installed.

Times are CPU times, medians of repeats within one process, and only their ratios are compared with the bars.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.benchmarks.config import OperatorsConfig
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.benchmarks.tables import Table
from pnp_lip.benchmarks.timing import megabytes, milliseconds_side_by_side, timed
from pnp_lip.operators import (
    Blur,
    CertifiedPhysics,
    FanBeam,
    FanBeamTomography,
    ParallelBeam,
    ParallelBeamTomography,
    from_scipy,
    gaussian_psf,
    hounsfield_to_attenuation,
    motion_psf,
)
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram
from pnp_lip.operators.tomography import SymmetricTomography

if TYPE_CHECKING:
    from deepinv.physics import Tomography

__all__ = ["Measurement", "run", "tables"]

SCANS = ("tilt_series8.npz", "cranium8.npz")  # electron tomography and head slices, in the folder ``measured``
CACHED = 256  # pixels of a side up to which deepinv's parallel mode fits; at 512 it needs 10 GB and is no faster
SLOW_REPEATS = 3  # of deepinv's products above that size


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A quantity, its value, and the bars it has to reach where there are any."""

    quantity: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def figures(self) -> Row:
        """What a record says of it."""
        met = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return {"value": self.value, "at_least": self.at_least, "at_most": self.at_most, "met": met}


Work = Callable[[], list[Measurement]]


def run(config: OperatorsConfig, to: Destination, priors: Sequence[Prior] = ()) -> Row:
    """The record of all measurements, a row for each, on one thread; continues the one that is there."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    files = [] if config.measured is None else [config.measured / name for name in SCANS]
    data = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    record = Record.open(to, "operators", config, data)
    for case, work in cases(config).items():
        if record.find("rows", {"case": case}) is None:
            for m in work():
                row = record.add("rows", {"case": case, "quantity": m.quantity}, m.figures())
                record.tell(", ".join(cells(row)))
    return record.content


def cases(config: OperatorsConfig) -> dict[str, Work]:
    """The measurements, by case."""
    n = config.repeats
    found: dict[str, Work] = {}
    for side, views, bars in ((256, 180, (12.0, 25.0)), (512, 360, (20.0, 40.0)))[: 1 + config.large]:
        found[f"parallel {side}^2, {views} views"] = partial(parallel, side, views, n, bars)
    found["fan 256^2, 360 views"] = partial(fan, 256, 360, n, (15.0, 40.0))
    if importlib.util.find_spec("astra") is not None:
        for kind, model, bar in (("strip", "strip", 15.0), ("linear", "joseph", 8.0)):
            found[f"ASTRA {kind} 256^2, 180 views"] = partial(beside_astra, kind, model, 256, 180, n, bar)
    found |= accuracies()
    if config.measured is not None:
        tilts, slices = (config.measured / name for name in SCANS)
        found["electron tomography 256^2, 77 tilts"] = partial(tilt_series, tilts)
        found["head CT 256^2, fan beam, 360 views"] = partial(cranium, slices)
    return found


def cells(row: Row) -> tuple[str, ...]:
    """One measurement and what it had to reach."""
    least, most = row["at_least"], row["at_most"]
    bar = f"≤ {most:g}" if most is not None else "" if least is None else f"≥ {least:g}"
    return (row["case"], row["quantity"], f"{row['value']:.3g}", bar + ("" if row["met"] else " (missed)"))


def tables(content: Row) -> list[Table]:
    """The measurements with what each had to reach."""
    return [Table("", ("case", "quantity", "value", "bar"), tuple(map(cells, content["rows"])))]


def beside_deepinv(
    ours: SymmetricTomography, others: Sequence[Tomography], repeats: tuple[int, int], bars: tuple[float, float]
) -> list[Measurement]:
    """Forward and adjoint of ours against the fastest of the others, and the memory of both."""
    x = torch.rand(1, *ours.img_size)
    found = []
    for i, (quantity, bar) in enumerate(zip(("forward", "adjoint"), bars, strict=True)):
        works = [(partial(p.A, x), partial(p.A_adjoint, p.A(x)))[i] for p in (ours, *others)]
        mine, *rest = milliseconds_side_by_side(works, [repeats[0], *[repeats[1]] * len(others)])
        found += [
            Measurement(f"{quantity} ms", mine),
            Measurement(f"{quantity} ms of deepinv", min(rest)),
            Measurement(f"{quantity} times faster than deepinv", min(rest) / mine, at_least=bar),
        ]
    stored = min(megabytes(other) for other in others)
    return [
        *found,
        Measurement("megabytes stored", megabytes(ours)),
        Measurement("megabytes stored by deepinv", stored),
    ]


def parallel(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Measurement]:
    """Parallel beam against deepinv's exact Tomography, in its faster mode."""
    from deepinv.physics import Tomography

    angles = np.arange(views) * (180.0 / views)
    beam = ParallelBeam(angles, n_det=math.ceil(math.sqrt(2) * n))
    ours, setup = timed(lambda: ParallelBeamTomography(beam, (1, n, n)))
    degrees = torch.from_numpy(angles)
    others = [
        Tomography(angles=degrees, img_width=n, circle=False, normalize=False, parallel_computation=mode)
        for mode in ((True, False) if n <= CACHED else (False,))
    ]
    found = beside_deepinv(ours, others, (repeats, repeats if n <= CACHED else SLOW_REPEATS), bars)
    return [*found, Measurement("setup s", setup["cpu_seconds"])]


def fan(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Measurement]:
    """Fan beam against deepinv's."""
    from deepinv.physics import Tomography

    angles, distance, bins, spacing = np.arange(views) * (360.0 / views), 2.0 * n, 400, 2.0
    beam = FanBeam(angles, source_distance=distance, detector_distance=distance, n_det=bins, det_spacing=spacing)
    ours = FanBeamTomography(beam, (1, n, n))
    geometry = {
        "pixel_spacing": 1.0,
        "source_radius": distance,
        "detector_radius": distance,
        "n_detector_pixels": bins,
        "detector_spacing": spacing,
    }
    other = Tomography(
        angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False, parallel_computation=False,
        fan_beam=True, fan_parameters=geometry,
    )  # fmt: skip
    return beside_deepinv(ours, [other], (repeats, 5), bars)


def beside_astra(kind: str, model: str, n: int, views: int, repeats: int, bar: float) -> list[Measurement]:
    """Against ASTRA's projector of a ``kind`` on the CPU, and agreement with its exported matrix."""
    import astra  # type: ignore[import-not-found]

    angles, n_det = np.arange(views) * (180.0 / views), math.ceil(math.sqrt(2) * n)
    x = torch.rand(1, 1, n, n)
    ours = ParallelBeamTomography(ParallelBeam(angles, n_det=n_det, model=model), (1, n, n))
    y = ours.A(x)
    geometry = astra.create_proj_geom("parallel", 1.0, n_det, np.deg2rad(angles))
    projector = astra.create_projector(kind, geometry, astra.create_vol_geom(n, n))
    theirs = astra.OpTomo(projector)
    image, data = x[0, 0].numpy().ravel(), y[0, 0].T.contiguous().numpy().ravel()
    pairs = {
        "forward": (partial(ours.A, x), partial(theirs.__matmul__, image)),
        "adjoint": (partial(ours.A_adjoint, y), partial(theirs.T.__matmul__, data)),
    }
    found = []
    for name, pair in pairs.items():
        mine, other = milliseconds_side_by_side(pair, [repeats, repeats])
        found.append(Measurement(f"{name} times faster than ASTRA", other / mine, at_least=bar))
    exported = from_scipy(astra.matrix.get(astra.projector.matrix(projector)), (1, n, n), data_shape=(views, n_det))
    difference = float((exported.A(x)[0, 0].T - y[0, 0]).norm() / y.norm())
    astra.projector.delete(projector)
    return [*found, Measurement("relative difference from the exported matrix", difference, at_most=1e-3)]


def accuracies() -> dict[str, Work]:
    """Of sinograms, norms and proximal maps, by case."""
    half, full = np.arange(0, 180, 1.5), np.arange(0, 360, 2.0)
    wide = FanBeam(full, source_distance=256.0, detector_distance=256.0, det_spacing=2.0)
    near = FanBeam(np.arange(0, 360, 8.0), source_distance=40.0, detector_distance=30.0)
    found: dict[str, Work] = {
        "Shepp-Logan sinogram 256^2, 60 views": sinogram,
        "parallel 128^2, 120 views": lambda: norm(ParallelBeamTomography(half, (1, 128, 128)), 1e-3),
        "fan 128^2, 180 views": lambda: norm(FanBeamTomography(wide, (1, 128, 128)), 1e-3),
    }
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        bar = 1e-3 if padding == "circular" else 1e-2
        for name, psf in (("gaussian", gaussian_psf(2.0)), ("motion", motion_psf(15, 30))):
            physics = Blur(psf, (1, 64, 64), padding=padding)
            found[f"blur 64^2, {name}, {padding}"] = partial(norm, physics, bar)
    size, shake = (1, 24, 24), motion_psf(7, 20)
    return found | {
        "parallel 24^2": lambda: prox(ParallelBeamTomography(np.arange(0, 180, 4.0), size, normalize=True)),
        "fan 24^2": lambda: prox(FanBeamTomography(near, size, normalize=True)),
        "blur 24^2, reflect": lambda: prox(Blur(shake, size, padding="reflect", normalize=True)),
        "blur 24^2, circular": lambda: prox(Blur(shake, size, normalize=True)),
        "ADMM 256^2, 180 views, gamma 1000": admm_steps,
    }


def sinogram() -> list[Measurement]:
    """Relative L2 error of the sinogram against the exact bin means of the Shepp-Logan phantom, 256² and 60 views."""
    from deepinv.physics import Tomography
    from skimage.transform import radon

    n, n_det, angles = 256, 363, np.arange(0, 180, 3.0)
    x = ellipse_image(n)[None, None].float()
    truth = ellipse_sinogram(n, torch.from_numpy(angles), n_det)

    def error(found: Tensor) -> float:
        return float((found - truth).norm() / truth.norm())

    other = Tomography(angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False)
    strip, joseph = (
        ParallelBeamTomography(ParallelBeam(angles, n_det=n_det, model=model), (1, n, n)).A(x)[0, 0]
        for model in ("strip", "joseph")
    )
    theirs = torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False))
    return [
        Measurement("relative error, strip", error(strip), at_most=0.008),
        Measurement("relative error, joseph", error(joseph)),
        Measurement("relative error of deepinv", error(other.A(x)[0, 0])),
        Measurement("relative error of skimage", error(theirs)),
    ]


def norm(physics: CertifiedPhysics, bar: float) -> list[Measurement]:
    """upper/‖A‖ − 1 with ‖A‖ by a Lanczos iteration to 1e-12 in float64; negative would be a false certificate."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = physics.img_size[1]

    def gram(v: NDArray[np.float64]) -> NDArray[np.float64]:
        x = torch.from_numpy(np.asarray(v, dtype=np.float64)).reshape(1, 1, n, n)
        return np.asarray(physics.adjoint_map(physics.forward_map(x)).flatten().numpy())

    operator = LinearOperator((n * n, n * n), matvec=gram, dtype=np.float64)
    largest = float(np.sqrt(eigsh(operator, k=1, tol=1e-12, return_eigenvectors=False)[0]))
    excess = physics.norm_upper / largest - 1
    return [Measurement("norm_upper over the norm, less 1", excess, at_most=bar, at_least=-1e-12)]


def prox(physics: CertifiedPhysics) -> list[Measurement]:
    """Largest actual error over reported bound against a dense solution, γ from 1 to 1e6: at most 1, always."""
    n = physics.img_size[1]
    matrix = physics.forward_map(torch.eye(n * n, dtype=torch.float64).reshape(-1, 1, n, n)).flatten(1).T
    _, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    z, x = torch.rand(1, 1, n, n), torch.rand(1, 1, n, n)
    y = physics.A(x)
    ratios = []
    for gamma in (1.0, 1e2, 1e4, 1e6):
        result = physics.solve_prox(z, y, gamma, tol=1e-3)
        right = z.double().flatten() + gamma * (y.double().flatten() @ matrix)
        along = right @ vt.T
        exact = right + (along / (1 + gamma * s**2) - along) @ vt
        ratios.append(float((result.x.double().flatten() - exact).norm() / result.error_bound[0]))
    return [Measurement("prox: largest error over bound", max(ratios), at_most=1.0)]


def admm_steps() -> list[Measurement]:
    """Conjugate-gradient steps over 30 warm-started ADMM iterations, total-variation denoiser, γ = 1000."""
    from skimage.restoration import denoise_tv_chambolle

    n = 256
    physics = ParallelBeamTomography(np.arange(180.0), (1, n, n), normalize=True)
    x_true = ellipse_image(n)[None, None].float()
    y = physics.A(x_true)
    y = y + 0.005 * y.abs().max() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    x, steps = physics.A_adjoint(y), 0
    v, dual, size = x.clone(), torch.zeros_like(x), float(x_true.norm())
    for k in range(30):
        result = physics.solve_prox(v - dual, y, 1000.0, x0=x, tol=0.02 * size / (k + 1) ** 1.2)
        x, steps = result.x, steps + result.iterations
        denoised = denoise_tv_chambolle((x + dual)[0, 0].numpy(), weight=0.02, max_num_iter=50)
        v = torch.from_numpy(denoised.astype(np.float32))[None, None]
        dual = dual + x - v
    return [Measurement("conjugate gradient steps in 30 iterations", steps, at_most=120)]


def tilt_series(path: Path) -> list[Measurement]:
    """Tikhonov reconstruction (one prox from zero) of measured electron-tomography sinograms."""
    archive = np.load(path, allow_pickle=False)
    scale = float(np.percentile(archive["sinograms"], 99))
    y = torch.from_numpy(archive["sinograms"] / scale).permute(0, 2, 1)[:, None].contiguous()
    physics = ParallelBeamTomography(ParallelBeam(archive["tilts_deg"], n_det=256), (1, 256, 256), normalize=True)
    result = physics.solve_prox(torch.zeros(len(y), 1, 256, 256), y, 3e3, tol=1e-3 * float(y.norm()))
    residual = float((physics.A(result.x) - y).norm() / y.norm())
    return [
        Measurement("relative data residual", residual, at_most=0.03),
        Measurement("symmetries used", len(physics.plan.group)),
    ]


def cranium(path: Path) -> list[Measurement]:
    """Simulated fan-beam scan of head slices: relative error of filtered back-projection and of Tikhonov."""
    hu = torch.from_numpy(np.load(path, allow_pickle=False)["hu"].astype(np.float32))[:, None]
    x = hounsfield_to_attenuation(hu)
    beam = FanBeam(
        np.arange(0, 360, 1.0), source_distance=540.0, detector_distance=410.0, pixel_size=0.957, det_spacing=1.5
    )
    physics = FanBeamTomography(beam, (1, 256, 256))
    y = physics.A(x)
    fbp = physics.fbp(y)
    result = physics.solve_prox(0.9 * fbp, y, 1e3 / physics.norm_upper**2, tol=1e-3 * float(x.norm()))
    return [
        Measurement("relative error of FBP", float((fbp - x).norm() / x.norm())),
        Measurement("relative error of Tikhonov", float((result.x - x).norm() / x.norm())),
        Measurement("relative data residual", float((physics.A(result.x) - y).norm() / y.norm())),
    ]

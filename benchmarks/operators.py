"""Speed, accuracy and certificates of the forward models, side by side with other packages.

``python -m pnp_lip.benchmarks.operators`` writes the record; ASTRA takes part if it is installed. Times are CPU times, medians of
repeats within one process, and only their ratios are compared with the bars.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.images import write_atomically
from pnp_lip.operators import (
    Blur,
    FanBeamTomography,
    ParallelBeamTomography,
    from_scipy,
    gaussian_kernel,
    hounsfield_to_attenuation,
    motion_kernel,
)
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["OperatorsConfig", "main", "run"]

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OperatorsConfig:
    """What to run: ``large`` adds 512² / 360 views; ``data`` is a folder with tilt_series8.npz and cranium8.npz, or None."""

    repeats: int = 9
    threads: int = 1
    seed: int = 0
    large: bool = False
    data: Path | None = None
    pictures: Path | None = None


def run(config: OperatorsConfig) -> list[Record]:
    """All measurements, one record each: case, quantity, value, and the bar it has to meet where there is one."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    records = speed_parallel(256, 180, config, bars=(12.0, 25.0))
    if config.large:
        records += speed_parallel(512, 360, config, bars=(20.0, 40.0))
    records += speed_fan(256, 360, config, bars=(15.0, 40.0))
    if importlib.util.find_spec("astra"):
        records += speed_astra(256, 180, config)
    records += accuracy() + norms() + prox_errors() + admm_steps()
    if config.data is not None:
        records += tilt_series(config.data, config.pictures) + cranium(config.data, config.pictures)
    environment = {
        "seed": config.seed,
        "threads": config.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepinv": importlib.metadata.version("deepinv"),
        "device": "cpu",
    }
    return [record | environment for record in records]


def record(case: str, quantity: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> Record:
    """One measurement against its bar."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"case": case, "quantity": quantity, "value": value, "at_least": at_least, "at_most": at_most, "met": met}


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """Median CPU time of a call after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def compare(
    case: str,
    ours: SymmetricTomography,
    others: list[Any],
    config: OperatorsConfig,
    bars: tuple[float, float],
    repeats: int,
) -> list[Record]:
    """Forward and adjoint of ours against the faster of the others, and the memory of both."""
    x = torch.rand(1, *ours.img_size)
    y = ours.A(x)
    records = []
    for quantity, bar, run_ours, run_other in (
        ("forward", bars[0], lambda: ours.A(x), lambda other: other.A(x)),
        ("adjoint", bars[1], lambda: ours.A_adjoint(y), lambda other: other.A_adjoint(other.A(x))),
    ):
        mine = milliseconds(run_ours, config.repeats)
        if quantity == "forward":
            theirs = min(milliseconds(lambda o=other: run_other(o), repeats) for other in others)
        else:
            theirs = min(adjoint_milliseconds(other, x, repeats) for other in others)
        records += [
            record(case, f"{quantity} ms", mine),
            record(case, f"{quantity} ms of deepinv", theirs),
            record(case, f"{quantity} times faster than deepinv", theirs / mine, at_least=bar),
        ]
    records.append(record(case, "megabytes stored", megabytes(ours)))
    records.append(record(case, "megabytes stored by deepinv", min(megabytes(other) for other in others)))
    return records


def adjoint_milliseconds(physics: Any, x: Tensor, repeats: int) -> float:
    """CPU time of A_adjoint for data of the physics' own size."""
    y = physics.A(x)
    return milliseconds(lambda: physics.A_adjoint(y), repeats)


def megabytes(module: torch.nn.Module) -> float:
    """All tensors that a module holds, buffers and plain attributes of its parts alike."""
    seen: dict[int, int] = {}
    for part in module.modules():
        for value in [*part._buffers.values(), *vars(part).values()]:
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, Tensor):
                    seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values()) / 1e6


def speed_parallel(n: int, views: int, config: OperatorsConfig, bars: tuple[float, float]) -> list[Record]:
    """Parallel beam against deepinv's exact Tomography, in its faster mode."""
    import deepinv

    angles = np.arange(views) * (180.0 / views)
    start = time.process_time()
    ours = ParallelBeamTomography(angles, (1, n, n), n_det=int(np.ceil(np.sqrt(2) * n)))
    setup = time.process_time() - start
    modes = (True, False) if n <= 256 else (False,)  # the parallel mode needs 10 GB at 512² and is no faster
    others = [
        deepinv.physics.Tomography(
            angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False, parallel_computation=mode
        )
        for mode in modes
    ]
    case = f"parallel {n}^2, {views} views"
    repeats = config.repeats if n <= 256 else 3
    return [*compare(case, ours, others, config, bars, repeats), record(case, "setup s", setup)]


def speed_fan(n: int, views: int, config: OperatorsConfig, bars: tuple[float, float]) -> list[Record]:
    """Fan beam against deepinv's."""
    import deepinv

    angles = np.arange(views) * (360.0 / views)
    ours = FanBeamTomography(angles, (1, n, n), source_distance=2.0 * n, detector_distance=2.0 * n, n_det=400, det_spacing=2.0)
    other = deepinv.physics.Tomography(
        angles=torch.from_numpy(angles),
        img_width=n,
        circle=False,
        normalize=False,
        parallel_computation=False,
        fan_beam=True,
        fan_parameters={
            "pixel_spacing": 1.0,
            "source_radius": 2.0 * n,
            "detector_radius": 2.0 * n,
            "n_detector_pixels": 400,
            "detector_spacing": 2.0,
        },
    )
    return compare(f"fan {n}^2, {views} views", ours, [other], config, bars, 5)


def speed_astra(n: int, views: int, config: OperatorsConfig) -> list[Record]:
    """Against ASTRA's projectors on the CPU, model for model, and agreement with its exported matrices."""
    import astra

    angles = np.arange(views) * (180.0 / views)
    n_det = int(np.ceil(np.sqrt(2) * n))
    x = torch.rand(1, 1, n, n)
    volume = astra.create_vol_geom(n, n)
    geometry = astra.create_proj_geom("parallel", 1.0, n_det, np.deg2rad(angles))
    records = []
    for kind, model, bar in (("strip", "strip", 15.0), ("linear", "joseph", 8.0)):
        ours = ParallelBeamTomography(angles, (1, n, n), n_det=n_det, model=model)
        y = ours.A(x)
        mine = (
            milliseconds(lambda op=ours: op.A(x), config.repeats),
            milliseconds(lambda op=ours, da=y: op.A_adjoint(da), config.repeats),
        )
        projector = astra.create_projector(kind, geometry, volume)
        operator = astra.OpTomo(projector)
        image, data = x[0, 0].numpy().ravel(), y[0, 0].T.contiguous().numpy().ravel()
        times = (
            milliseconds(lambda op=operator, im=image: op @ im, config.repeats),
            milliseconds(lambda op=operator, da=data: op.T @ da, config.repeats),
        )
        case = f"ASTRA {kind} {n}^2, {views} views"
        records += [
            record(case, f"{name} times faster than ASTRA", theirs / own, at_least=bar)
            for name, own, theirs in zip(("forward", "adjoint"), mine, times, strict=True)
        ]
        exported = from_scipy(astra.matrix.get(astra.projector.matrix(projector)), (1, n, n), data_shape=(views, n_det))
        difference = float((exported.A(x)[0, 0].T - y[0, 0]).norm() / y.norm())
        records.append(record(case, "relative difference from the exported matrix", difference, at_most=1e-3))
        astra.projector.delete(projector)
    return records


def accuracy() -> list[Record]:
    """Relative L2 error of the sinogram against the exact bin means of the Shepp-Logan phantom, 256² and 60 views."""
    import deepinv
    from skimage.transform import radon

    n, n_det, angles = 256, 363, np.arange(0, 180, 3.0)
    x = ellipse_image(n)[None, None].float()
    truth = ellipse_sinogram(n, torch.from_numpy(angles), n_det)

    def error(sinogram: Tensor) -> float:
        return float((sinogram - truth).norm() / truth.norm())

    other = deepinv.physics.Tomography(angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False)
    case = "Shepp-Logan sinogram 256^2, 60 views"
    models = {
        model: ParallelBeamTomography(angles, (1, n, n), n_det=n_det, model=model).A(x)[0, 0]
        for model in ("strip", "joseph")
    }
    return [
        record(case, "relative error, strip", error(models["strip"]), at_most=0.008),
        record(case, "relative error, joseph", error(models["joseph"])),
        record(case, "relative error of deepinv", error(other.A(x)[0, 0])),
        record(case, "relative error of skimage", error(torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False)))),
    ]


def norms() -> list[Record]:
    """upper/‖A‖ − 1 with ‖A‖ by a Lanczos iteration to 1e-12 in float64; negative would be a false certificate."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    half, full = np.arange(0, 180, 1.5), np.arange(0, 360, 2.0)
    operators = {
        "parallel 128^2, 120 views": (ParallelBeamTomography(half, (1, 128, 128)), 1e-3),
        "fan 128^2, 180 views": (
            FanBeamTomography(full, (1, 128, 128), source_distance=256.0, detector_distance=256.0, det_spacing=2.0),
            1e-3,
        ),
    }
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        bar = 1e-3 if padding == "circular" else 1e-2
        for name, kernel in (("gaussian", gaussian_kernel(2.0)), ("motion", motion_kernel(15, 30))):
            operators[f"blur 64^2, {name}, {padding}"] = Blur(kernel, (1, 64, 64), padding=padding), bar
    records = []
    for case, (physics, bar) in operators.items():
        n = physics.img_size[1]

        def gram(v: np.ndarray, physics: Any = physics, n: int = n) -> np.ndarray:
            x = torch.from_numpy(np.asarray(v, dtype=np.float64)).reshape(1, 1, n, n)
            return np.asarray(physics.adjoint_map(physics.forward_map(x)).flatten().numpy())

        operator = LinearOperator((n * n, n * n), matvec=gram, dtype=np.float64)
        norm = float(np.sqrt(eigsh(operator, k=1, tol=1e-12, return_eigenvectors=False)[0]))
        records.append(record(case, "norm_upper over the norm, less 1", physics.norm_upper / norm - 1, at_most=bar, at_least=-1e-12))
    return records


def prox_errors() -> list[Record]:
    """Largest actual error over reported bound against a dense solution, γ from 1 to 1e6: at most 1, always."""
    n = 24
    physics_list = {
        "parallel 24^2": ParallelBeamTomography(np.arange(0, 180, 4.0), (1, n, n), normalize=True),
        "fan 24^2": FanBeamTomography(
            np.arange(0, 360, 8.0), (1, n, n), source_distance=40.0, detector_distance=30.0, normalize=True
        ),
        "blur 24^2, reflect": Blur(motion_kernel(7, 20), (1, n, n), padding="reflect", normalize=True),
        "blur 24^2, circular": Blur(motion_kernel(7, 20), (1, n, n), normalize=True),
    }
    records = []
    for case, physics in physics_list.items():
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
        records.append(record(case, "prox: largest error over bound", max(ratios), at_most=1.0))
    return records


def admm_steps() -> list[Record]:
    """Conjugate-gradient steps over 30 warm-started ADMM steps with a total-variation denoiser, γ = 1000, 256² / 180 views."""
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
    return [record("ADMM 256^2, 180 views, gamma 1000", "conjugate gradient steps in 30 iterations", steps, at_most=120)]


def tilt_series(folder: Path, pictures: Path | None) -> list[Record]:
    """Tikhonov reconstruction (one prox from zero) of measured electron-tomography sinograms: relative data residual."""
    path = folder / "tilt_series8.npz"
    archive = np.load(path, allow_pickle=False)
    scale = float(np.percentile(archive["sinograms"], 99))
    y = torch.from_numpy(archive["sinograms"] / scale).permute(0, 2, 1)[:, None].contiguous()
    physics = ParallelBeamTomography(archive["tilts_deg"], (1, 256, 256), n_det=256, normalize=True)
    result = physics.solve_prox(torch.zeros(len(y), 1, 256, 256), y, 3e3, tol=1e-3 * float(y.norm()))
    residual = float((physics.A(result.x) - y).norm() / y.norm())
    save_picture(pictures, "tilt_series", torch.cat([result.x[0, 0], physics.fbp(y, filter="hann")[0, 0]], 1))
    case = "electron tomography 256^2, 77 tilts"
    return [
        record(case, "relative data residual", residual, at_most=0.03) | {"data_sha256": sha256(path)},
        record(case, "symmetries used", len(physics.plan.group)),
    ]


def cranium(folder: Path, pictures: Path | None) -> list[Record]:
    """Simulated fan-beam scan of head slices (Hounsfield units): relative error of filtered back-projection and of Tikhonov."""
    path = folder / "cranium8.npz"
    hu = torch.from_numpy(np.load(path, allow_pickle=False)["hu"].astype(np.float32))[:, None]
    x = hounsfield_to_attenuation(hu)
    geometry = {"source_distance": 540.0, "detector_distance": 410.0, "pixel_size": 0.957}
    physics = FanBeamTomography(np.arange(0, 360, 1.0), (1, 256, 256), det_spacing=1.5, **geometry)
    y = physics.A(x)
    fbp = physics.fbp(y)
    scale = physics.norm_upper**2
    result = physics.solve_prox(0.9 * fbp, y, 1e3 / scale, tol=1e-3 * float(x.norm()))
    save_picture(pictures, "cranium", torch.cat([x[4, 0], fbp[4, 0], result.x[4, 0]], 1))
    case = "head CT 256^2, fan beam, 360 views"
    return [
        record(case, "relative error of FBP", float((fbp - x).norm() / x.norm())) | {"data_sha256": sha256(path)},
        record(case, "relative error of Tikhonov", float((result.x - x).norm() / x.norm())),
        record(case, "relative data residual", float((physics.A(result.x) - y).norm() / y.norm())),
    ]


def save_picture(folder: Path | None, name: str, image: Tensor) -> None:
    """Write an image stretched to its own range, for looking at."""
    if folder is None:
        return
    from skimage.io import imsave

    folder.mkdir(parents=True, exist_ok=True)
    low, high = float(image.quantile(0.01)), float(image.quantile(0.995))
    grey = ((image - low) / (high - low)).clamp(0, 1) * 255
    imsave(folder / f"{name}.png", grey.numpy().astype(np.uint8), check_contrast=False)


def sha256(path: Path) -> str:
    """Fingerprint of a data file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run, write the record, and fail if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "operators.json")
    parser.add_argument("--large", action="store_true", help="also 512^2 with 360 views (deepinv: 3 GB, a minute)")
    parser.add_argument("--data", type=Path, help="folder with tilt_series8.npz and cranium8.npz")
    parser.add_argument("--pictures", type=Path, help="folder for reconstructions to look at")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other packages' remarks on their own defaults
        config = OperatorsConfig(options.repeats, large=options.large, data=options.data, pictures=options.pictures)
        records = run(config)
    with write_atomically(options.record) as temporary:
        temporary.write_text(json.dumps(records, indent=1) + "\n")
    return 0 if all(item["met"] for item in records) else 1


if __name__ == "__main__":
    raise SystemExit(main())

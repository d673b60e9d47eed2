"""``pnp-lip demo``: blur a photograph, restore it with a proof, and show it beside total variation."""

import argparse
import json
import math
import time
from typing import cast

import torch
from torch import Tensor

from pnp_lip.benchmarks.baselines import total_variation
from pnp_lip.benchmarks.photographs import photograph, validation_images
from pnp_lip.command_line.common import NOT_CONVERGED, say
from pnp_lip.command_line.explain import say_result
from pnp_lip.command_line.figure import draw
from pnp_lip.command_line.inputs import by_sigma, get_prior, make_folder
from pnp_lip.command_line.records import claim, sha256_of
from pnp_lip.images import psnr, ssim, write_atomically
from pnp_lip.operators import Blur, shake_psf
from pnp_lip.potentials import Potential
from pnp_lip.restore import solver_of, suggested
from pnp_lip.solvers import Anderson, ForwardBackward, Result, Solver, choose_by_reference
from pnp_lip.version import __version__

__all__ = ["run"]

NOISE = 0.01  # standard deviation, for images on [0, 1]
SIDE = 96  # of the photographs on which strengths are chosen, in pixels
STRENGTHS = tuple(2.0**k for k in range(-3, 1))  # weights that are tried of each prior; the best ones lie inside
TOL = 1e-4  # of every solution
TV, OURS = "total variation", "pnp-lip"


def run(options: argparse.Namespace) -> int:
    """The demonstration; writes demo.png and result.json."""
    out, start = make_folder(options.out), time.perf_counter()
    claim([out / name for name in ("demo.png", "result.json")], force=options.force)
    tell = (lambda text: None) if options.quiet else say
    prior = get_prior(options)
    x, others = photograph("camera", 256), torch.cat([image.x for image in validation_images(SIDE)[:3]])
    (physics, y), (other_physics, other_y) = blurred(x, seed=0), blurred(others, seed=1)
    tuning: dict[str, dict[str, object]] = {}
    results: dict[str, Result] = {}

    def tuned(name: str, solver: Solver, levels: list[float], guarantee: str) -> Solver:
        tell(f"{name}: choosing the strength on other photographs ...")
        choice = choose_by_reference(solver, other_y, other_physics, others, {"sigma": levels}, guarantee=guarantee)
        tuning[name] = {**choice.best, "psnr": by_sigma(choice)}
        return cast(Solver, choice.solver)

    variation = ForwardBackward(total_variation(), box=(0, 1), tol=TOL, scheme=Anderson())
    rival = tuned(TV, variation, [s * NOISE for s in STRENGTHS], "report")
    if isinstance(prior, Potential):  # its strength is the one that ships
        sigma, weight = suggested(prior, NOISE, None)
        ours = solver_of(prior, sigma=sigma, weight=weight)
    else:
        ours = tuned(OURS, cast(Solver, solver_of(prior, tol=TOL)), [math.sqrt(s) * NOISE for s in STRENGTHS], "require")
    for name, solver, guarantee in ((TV, rival, "report"), (OURS, ours, "require")):
        tell(f"{name}: restoring ...")
        results[name] = solver.solve(y, physics, reference=x, guarantee=guarantee)
    seconds = time.perf_counter() - start
    images = {"observed": y} | {name: result.x for name, result in results.items()}
    quality = {name: psnr(image, x) for name, image in images.items()}
    similarity = {name: ssim(image, x) for name, image in images.items()}
    titles = {f"{name}\n{quality[name]:.2f} dB, SSIM {similarity[name]:.3f}": images[name] for name in images}
    draw(out / "demo.png", ("photograph\n", x), titles, results, corner=(1 / 6, 1 / 4))
    last, baseline = (json.loads(results[name].to_json()) for name in (OURS, TV))
    about = {"pnp_lip": __version__, "command": options.command_line, "written": {"demo.png": sha256_of(out / "demo.png")}}
    record = {**about, "psnr": quality, "ssim": similarity, "tuning": tuning, "seconds": seconds, **last}
    with write_atomically(out / "result.json") as path:
        path.write_text(json.dumps({**record, "baseline": baseline}, indent=1) + "\n")
    if not options.quiet:
        say_result(results[OURS], explain=options.explain)
    say(f"wrote {out / 'demo.png'}: {', '.join(f'{name} {value:.2f} dB' for name, value in quality.items())}")
    return 0 if results[OURS].status == "converged" else NOT_CONVERGED


def blurred(x: Tensor, seed: int) -> tuple[Blur, Tensor]:
    """The forward model, a camera shake over some fifteen pixels with circular borders, and data with white noise."""
    psf = shake_psf(torch.Generator().manual_seed(3), reach=7)
    physics = Blur(psf, (x.shape[1], x.shape[2], x.shape[3]), padding="circular")
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return physics, physics.A(x) + NOISE * noise

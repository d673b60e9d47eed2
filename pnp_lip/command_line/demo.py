"""``pnp-lip demo``: blur a photograph, restore it with a proof, and show it beside total variation."""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line import common

if TYPE_CHECKING:
    from pnp_lip.command_line.scene import Scene
    from pnp_lip.solvers import Choice, Result

__all__ = ["add_command"]

STRENGTHS = tuple(2.0**k for k in range(-3, 1))  # weights that are tried of each prior; the best ones lie inside
TV, OURS = "total variation", "pnp-lip"


def add_command(commands: common.Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("demo", help="blur a photograph, restore it with a proof, draw the picture")
    command.add_argument("--out", default="pnp-lip-demo", metavar="DIR", help="where to write (default: pnp-lip-demo)")
    command.add_argument("--quiet", action="store_true", help="no progress")
    common.add_prior_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The demonstration; writes demo.png, result.json and certificate.json."""
    from pnp_lip.benchmarks.baselines import total_variation
    from pnp_lip.certificates import certify
    from pnp_lip.command_line.scene import NOISE, Scene, photograph
    from pnp_lip.solvers import Anderson, ForwardBackward, Solver, choose_by_reference, licensed, refine

    out, start = common.make_folder(options.out), time.perf_counter()
    tell = (lambda text: None) if options.quiet else common.say
    denoiser, rounds = common.get_prior(options)
    certificate = certify(denoiser)
    certificate.save(out / "certificate.json")
    tell(f"certified: the denoiser's Lipschitz constant is at most {certificate.lipschitz_upper:.6g}")
    tell(f"licensed solvers: {', '.join(licensed(certificate)) or 'none'}")
    scene, other = Scene.blurred(photograph("camera", 256)), Scene.validation()
    choices: dict[str, Choice] = {}
    results: dict[str, tuple[Result, ...]] = {}
    for name, prior, levels, guarantee, again in (
        (TV, total_variation(), [s * NOISE for s in STRENGTHS], "report", 0),
        (OURS, denoiser, [math.sqrt(s) * NOISE for s in STRENGTHS], "require", rounds),
    ):
        tell(f"{name}: choosing the strength on other photographs ...")
        solver = ForwardBackward(prior, box=(0, 1), tol=1e-4, scheme=Anderson())
        grid = {"sigma": levels}
        choice = choose_by_reference(solver, other.y, other.physics, other.x, grid, guarantee=guarantee)
        tell(f"{name}: restoring ...")
        solve = functools.partial(Solver.solve, reference=scene.x, guarantee=guarantee, progress=not options.quiet)
        improve = common.get_annealing(denoiser, again)
        results[name] = refine(choice.solver, scene.y, scene.physics, again, improve, solve=solve)
        choices[name] = choice
    quality = write(out, scene, results, choices, time.perf_counter() - start)
    if not options.quiet:
        common.say_results(results[OURS])
    common.say(f"wrote {out / 'demo.png'}: {', '.join(f'{name} {value:.2f} dB' for name, value in quality.items())}")
    return 0


def write(
    out: Path, scene: Scene, results: Mapping[str, tuple[Result, ...]], choices: Mapping[str, Choice], seconds: float
) -> dict[str, float]:
    """Write demo.png and result.json, each in one step; returns the PSNR of every image."""
    from pnp_lip.command_line.figure import draw
    from pnp_lip.images import psnr, ssim, write_atomically

    images = {"observed": scene.y} | {name: solutions[-1].x for name, solutions in results.items()}
    quality = {name: psnr(image, scene.x) for name, image in images.items()}
    similarity = {name: ssim(image, scene.x) for name, image in images.items()}
    titles = {f"{name}\n{quality[name]:.2f} dB, SSIM {similarity[name]:.3f}": images[name] for name in images}
    *before, last = (json.loads(result.to_json()) for result in results[OURS])
    tuning = {
        name: {
            **choice.best,
            "psnr": {f"{c['sigma']:g}": s for c, s in zip(choice.candidates, choice.scores, strict=True)},
        }
        for name, choice in choices.items()
    }
    baseline = json.loads(results[TV][-1].to_json())
    record = {"psnr": quality, "ssim": similarity, "tuning": tuning, "seconds": seconds, **last, "before": before}
    with write_atomically(out / "demo.png") as path:
        draw(path, ("photograph\n", scene.x), titles, results, corner=(1 / 6, 1 / 4))
    with write_atomically(out / "result.json") as path:
        path.write_text(json.dumps({**record, "baseline": baseline}, indent=1) + "\n")
    return quality

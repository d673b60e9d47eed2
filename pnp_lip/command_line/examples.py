"""What stands below the options of each command's help; a test runs every line."""

__all__ = ["EXAMPLES"]

EXAMPLES = {
    "demo": ("pnp-lip demo", "pnp-lip demo --denoiser tiny --out demo-tiny"),
    "denoise": (
        "pnp-lip denoise photo.jpg -o clean.png",
        "pnp-lip denoise photo.jpg -o clean.png --noise 0.05 --figure compare.png",
        'pnp-lip denoise "photos/*.jpg" --out-dir clean --denoiser tiny --jobs 2',
    ),
    "deblur": (
        "pnp-lip deblur photo.jpg --psf motion:12:35 -o sharp.png",
        "pnp-lip deblur photo.jpg --psf gaussian:1.6 -o sharp.png --figure compare.png --explain",
        'pnp-lip deblur "photos/*.jpg" --psf psf.png --out-dir sharp --jobs 2',
    ),
    "ct": (
        "pnp-lip ct --out slice",
        "pnp-lip ct sinogram.npy --angles 0:180:1 --out slice",
        "pnp-lip ct scan.npz --fan 400:200 --out slice --sigma 0.02",
    ),
    "certify": (
        "pnp-lip certify grey",
        "pnp-lip certify mine.safetensors --json certificate.json",
        "pnp-lip certify tiny --attack photo.jpg",
    ),
    "train": (
        "pnp-lip train --images photos --out run",
        "pnp-lip train --images photos --out run --resume",
        "pnp-lip train --images photos --out ridge --potential",
    ),
    "bench": ("pnp-lip bench speed --out speed", "pnp-lip bench report speed --out tables"),
    "experiment": ("pnp-lip experiment two-moons --quick",),
}

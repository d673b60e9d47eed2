"""Published denoising networks, read from the files that hold their weights, and deepinv's untrained ones."""

import importlib
import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError

__all__ = ["DEEPINV_FILES", "FFDNet", "dncnn_of_scico", "ffdnet", "from_deepinv", "in_folder",
           "untrained"]  # fmt: skip

EPSILON = 1e-5  # of batch normalisation, in torch and in flax
DEEPINV_FILES = {  # the names under which deepinv publishes weights, in grey and in colour
    "DRUNet": ("drunet_deepinv_gray_finetune_26k.pth", "drunet_deepinv_color_finetune_22k.pth"),
    "DnCNN (deepinv)": ("dncnn_sigma2_gray.pth", "dncnn_sigma2_color.pth"),
    "GSDRUNet": ("GSDRUNet_grayscale_torch.ckpt", "GSDRUNet_torch.ckpt"),
}


def untrained(kind: str, seed: int, **config: object) -> nn.Module:
    """One of deepinv's networks as the seed initialises it, a constant map; torch's own generator stays as it was."""
    import deepinv

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = getattr(deepinv.models, kind)(**config, pretrained=None)
    return network.eval().requires_grad_(False)


def from_deepinv(name: str, folder: Path | None, channels: int) -> nn.Module:
    """DRUNet, DnCNN or GSDRUNet with the weights that deepinv publishes, from its file in ``folder``.

    Raises InputError where there is no such file, or it holds something else.
    """
    file = DEEPINV_FILES[name][channels == 3]
    path = in_folder(folder, file)
    import deepinv

    sizes: dict[str, int] = {"in_channels": channels, "out_channels": channels}
    kind = name.split()[0]
    try:
        network: nn.Module = getattr(deepinv.models, kind)(**sizes, pretrained=str(path))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not the weights of deepinv's {kind} ({str(error)[:200]}).") from error
    return network.eval().requires_grad_(False)


def in_folder(folder: Path | None, file: str) -> Path:
    """The file in the folder of weights, or InputError."""
    if folder is None or not (folder / file).is_file():
        raise InputError(f"--weights must name a folder with {file}")
    return folder / file


def in_package(package: str, file: str) -> Path:
    """A file that an installed package holds, found without running the package's code. Raises InputError without it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the package {package} is not installed")
    path = Path(found.submodule_search_locations[0]) / file
    if not path.is_file():
        raise InputError(f"the package {package} holds no {file}")
    return path


def convolution(weight: Tensor, norm: Mapping[str, Tensor], *, circular: bool = False) -> nn.Conv2d:
    """A 3 × 3 convolution with the batch normalisation after it, if there is one, in its weight and bias."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, padding_mode="circular" if circular else "zeros")
    scale, shift = torch.ones(len(weight)), torch.zeros(len(weight))
    if norm:
        scale = norm["scale"] / (norm["var"] + EPSILON).sqrt()
        shift = norm["bias"] - norm["mean"] * scale
    with torch.no_grad():
        layer.weight.copy_(weight * scale[:, None, None, None])
        layer.bias.copy_(shift)  # type: ignore[union-attr]
    return layer


def chain(layers: list[nn.Conv2d]) -> nn.Sequential:
    """Convolutions with ReLU between them."""
    found = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    return found.eval().requires_grad_(False)


class FFDNet(nn.Module):
    """x − P⁻¹ N(σ, Px), P the four images of every other pixel; borders of odd images are doubled. (Zhang, Zuo & Zhang, 2018)"""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        height, width = x.shape[-2:]
        even = nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        small = nn.functional.pixel_unshuffle(even, 2)
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1).expand(len(x), x.shape[1], *small.shape[-2:])
        return x - nn.functional.pixel_shuffle(self.network(torch.cat([level, small], 1)), 2)[..., :height, :width]


def ffdnet(channels: int = 1) -> FFDNet:
    """FFDNet in grey or in colour, with the weights in the package ffdnet, whose code is neither imported nor copied.

    Raises InputError without the package, or where its file has another layout.
    """
    path = in_package("ffdnet", f"ffdnet_weights_{'rgb' if channels == 3 else 'gray'}.pth")
    held = torch.load(path, map_location="cpu", weights_only=True)
    found = {name.rpartition("itermediate_dncnn.")[2]: tensor for name, tensor in held.items()}
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    places = sorted(int(name.split(".")[0]) for name, tensor in found.items() if tensor.ndim == 4)
    if not places:
        raise InputError(f"{path}: no convolutions there; expected the weights of ffdnet 0.1.4.")
    norms = [{ours: found[f"{k + 1}.{name}"] for ours, name in names.items() if f"{k + 1}.{name}" in found} for k in places]
    return FFDNet(chain([convolution(found[f"{k}.weight"], norm) for k, norm in zip(places, norms, strict=True)])).eval()


class DnCNN(nn.Module):
    """x − N(x, σ), N with circular borders. (Zhang et al., 2017, with the noise level as a second channel)"""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1).expand_as(x)
        difference: Tensor = self.network(torch.cat([x, level], 1))[:, :1]
        return x - difference


def dncnn_of_scico() -> nn.Module:
    """The DnCNN of 6 layers for noise levels up to 0.2 in the package scico, read with msgpack; grey.

    At every level its file is better than that of 17 layers (``camera``, 0.01 to 0.2: by 0.1 to 4.6 dB).

    Raises InputError without one of the packages.
    """
    path = in_package("scico", "data/flax/dncnn6N.mpk")
    if importlib.util.find_spec("msgpack") is None:
        raise InputError("the package msgpack, which reads scico's weights, is not installed")
    unpack = importlib.import_module("msgpack").unpackb
    held = unpack(path.read_bytes(), ext_hook=lambda code, data: array(unpack(data)))
    params, stats = held["params"], held["batch_stats"]
    blocks = sorted((name for name in params if name in stats), key=lambda name: int(name.rpartition("_")[2]))
    kernels = [params["conv_start"], *(params[name]["Conv_0"] for name in blocks), params["conv_end"]]
    norms = [{}, *({**params[name]["BatchNorm_0"], **stats[name]["BatchNorm_0"]} for name in blocks), {}]
    weights = [part["kernel"].permute(3, 2, 0, 1) for part in kernels]
    return DnCNN(chain([convolution(w, norm, circular=True) for w, norm in zip(weights, norms, strict=True)])).eval()


def array(held: tuple[tuple[int, ...], str, bytes]) -> Tensor:
    """An array as flax packs it: shape, type and bytes."""
    shape, kind, data = held
    return torch.from_numpy(np.frombuffer(data, dtype=kind).reshape(shape).astype(np.float32))

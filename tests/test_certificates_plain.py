"""Plain networks: the rules against dense Jacobians, what is refused, and an honest number for a DnCNN."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from deepinv.models import DnCNN
from torch import nn

from pnp_lip import Certificate, certify
from pnp_lip.certificates.sizes import Axis, image_sizes
from pnp_lip.errors import CertificateError
from pnp_lip.solvers import licensed
from pnp_lip.spectral import Method

SIZE = (2, 8, 8)


def dense_norm(module: nn.Module, shape: tuple[int, ...] = SIZE) -> float:
    """The spectral norm of the Jacobian at zero, of an affine map its Lipschitz constant."""
    module = module.double()
    x = torch.zeros(1, *shape, dtype=torch.float64)
    y = module(x)
    jacobian = torch.autograd.functional.jacobian(module, x).reshape(y.numel(), x.numel())
    return float(torch.linalg.matrix_norm(jacobian, 2))


AFFINE = {
    "linear": lambda: nn.Linear(8, 5),
    "zeros": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "zeros, much": lambda: nn.Conv2d(2, 3, 3, padding=5),
    "same": lambda: nn.Conv2d(2, 3, (2, 4), padding="same"),
    "stride": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "dilation": lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2, stride=(1, 2)),
    "circular": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    "circular same": lambda: nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode="circular"),
    "circular crop": lambda: nn.Conv2d(2, 3, 5, padding=1, padding_mode="circular"),
    "circular stride": lambda: nn.Conv2d(2, 3, 3, padding=1, stride=2, padding_mode="circular"),
    "replicate": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"),
    "replicate, far": lambda: nn.Conv2d(2, 2, (3, 2), padding=(2, 3), padding_mode="replicate"),
    "reflect": lambda: nn.Conv2d(2, 4, 3, padding=(1, 2), dilation=2, groups=2, padding_mode="reflect"),
    "reflect same": lambda: nn.Conv2d(2, 3, (3, 4), padding="same", padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, 3, padding=1),
    "transposed stride": lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    "transposed far": lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=3, output_padding=2),
    "batch norm": lambda: trained_batch_norm(),
    "average": lambda: nn.AvgPool2d(2),
    "average, rows": lambda: nn.AvgPool2d((2, 3), (2, 3)),
    "average, divisor": lambda: nn.AvgPool2d(2, divisor_override=1),
    "average, padded": lambda: nn.AvgPool2d(3, padding=1, count_include_pad=False),
    "average, ceil": lambda: nn.AvgPool2d(3, ceil_mode=True),
    "shuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2), nn.Flatten()),
}
NEARLY_ATTAINED = {"linear", "batch norm", "average", "average, rows", "average, divisor", "shuffle"}


def trained_batch_norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(2).eval()
    layer.weight.data = torch.tensor([0.5, -3.0])
    layer.running_var = torch.tensor([1e-3, 0.25])
    return layer


@pytest.mark.parametrize("name", list(AFFINE))
def test_bounds_the_dense_truth(name: str) -> None:
    torch.manual_seed(0)
    module = AFFINE[name]().eval()
    bound, truth = certify(module).lipschitz_upper, dense_norm(module)
    assert truth <= bound * (1 + 1e-12)
    # small images: the border costs up to a factor of two, and a border that repeats pixels as much again
    slack = 1 + 1e-6 if name in NEARLY_ATTAINED else 4 if name.startswith("re") else 2
    assert bound <= truth * slack * (1 + 1e-6)


def test_each_line_says_how_and_for_what_it_was_proved() -> None:
    torch.manual_seed(0)
    found = {name: certify(AFFINE[name]().eval()).layers[0].norm for name in ("linear", "batch norm", "transposed")}
    found |= {name: certify(AFFINE[name]()).layers[0].norm for name in ("circular stride", "reflect", "replicate, far")}
    assert [(norm.method, norm.padding_mode, norm.divisible_by) for norm in found.values()] == [
        (Method.CHOLESKY, None, (1, 1)),
        (Method.CLOSED_FORM, None, (1, 1)),
        (Method.BRANCH_AND_BOUND, "zeros", (1, 1)),
        (Method.BRANCH_AND_BOUND, "circular", (2, 2)),
        (Method.EXTENSION, "reflect", (1, 1)),
        (Method.EXTENSION, "replicate", (1, 1)),
    ]
    assert found["reflect"].smallest_image == (4, 6) and found["replicate, far"].smallest_image == (2, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_tight_for_a_single_convolution(stride: int) -> None:
    """On a circular 32 × 32 image, whose frequencies nearly hit the maximiser."""
    torch.manual_seed(1)
    conv = nn.Conv2d(1, 2, 3, stride=stride, padding=1, padding_mode="circular", bias=False)
    truth = dense_norm(conv, (1, 32, 32))
    assert truth <= certify(conv).lipschitz_upper <= truth * 1.01


@pytest.mark.parametrize(
    ("module", "slope"),
    [
        (nn.ReLU(), 1),
        (nn.ReLU6(), 1),
        (nn.LeakyReLU(0.2), 1),
        (nn.LeakyReLU(-3.0), 3),
        (nn.Sigmoid(), 0.25),
        (nn.Tanh(), 1),
        (nn.ELU(), 1),
        (nn.ELU(2.5), 2.5),
        (nn.Hardtanh(-2.0, 2.0), 1),
        (nn.Softplus(3.0, threshold=40), 1),
    ],
)
def test_largest_slopes(module: nn.Module, slope: float) -> None:
    t = torch.linspace(-9, 9, 200_000, dtype=torch.float64)
    y = module(t)
    steepest = float((y.diff() / t.diff()).abs().max())
    bound = certify(module).lipschitz_upper
    assert bound == slope and 0.999 * slope <= steepest <= slope * (1 + 1e-9)


def test_max_pool_is_nonexpansive_and_attains_one() -> None:
    pool = nn.MaxPool2d(2)
    x, y = torch.randn(2, 50, 2, 8, 8)
    assert float(((pool(x) - pool(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)).max()) <= 1
    assert certify(pool).lipschitz_upper == 1


def test_a_chain_is_the_product_and_is_not_averaged() -> None:
    torch.manual_seed(2)
    chain = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.LeakyReLU(),
        nn.Dropout(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 4),
    ).eval()
    certificate = certify(chain)
    expected = math.prod(layer.norm.upper for layer in certificate.layers) / 2
    assert certificate.lipschitz_upper == pytest.approx(expected, rel=1e-12)
    assert [layer.kind for layer in certificate.layers] == ["Conv2d", "BatchNorm2d", "Linear"]
    assert not certificate.averaged and not {"ForwardBackward", "HalfQuadratic", "ADMM"} & {*licensed(certificate)}
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert all(" - " in line for line in str(certificate).splitlines()[1:4])
    x, y = torch.randn(2, 100, 1, 8, 8)
    ratio = (chain(x) - chain(y)).detach().norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(ratio.max()) <= certificate.lipschitz_upper


def test_an_untrained_dncnn_gets_an_honest_number_and_no_licence() -> None:
    torch.manual_seed(0)
    network = DnCNN(1, 1, depth=5, nf=8, pretrained=None).eval()
    certificate = certify(network)
    norms = [layer.norm.upper for layer in certificate.layers]
    assert [layer.path for layer in certificate.layers] == [
        "in_conv",
        *(f"conv_list.{i}" for i in range(3)),
        "out_conv",
    ]
    assert certificate.lipschitz_upper == pytest.approx(1 + math.prod(norms), rel=1e-12)
    assert certificate.lipschitz_upper > 10 and licensed(certificate) == ()
    assert dense_norm(network, (1, 8, 8)) <= certificate.lipschitz_upper
    with pytest.raises(CertificateError, match=r"only known to be at most \d+\.\d+$"):
        certificate.require_nonexpansive()


REFUSED = {
    "statistics of its batch": lambda: nn.BatchNorm2d(2).train(),
    "track running": lambda: nn.BatchNorm2d(2, track_running_stats=False).eval(),
    "at random": lambda: nn.Dropout().train(),
    "pixels are repeated": lambda: nn.Conv2d(1, 1, 3, padding=2, padding_mode="circular"),
    r"windows \(3, 3\) with stride \(1, 1\)": lambda: nn.MaxPool2d(3, 1),
    r"windows \(3, 3\) with stride \(2, 2\)": lambda: nn.AvgPool2d(3, 2),
    "without dilation": lambda: nn.MaxPool2d(2, dilation=2),
    "without indices": lambda: nn.MaxPool2d(2, return_indices=True),
    "Softplus needs": lambda: nn.Softplus(),
    r"threshold in \[40, 80\]": lambda: nn.Softplus(threshold=100),
    "`1.start_dim` must": lambda: nn.Flatten(0),
    "`1.negative_slope` must": lambda: nn.LeakyReLU(math.inf),
    "no rule is known": lambda: nn.GELU(),
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_refusals_name_the_path_and_the_reason(reason: str) -> None:
    with pytest.raises(CertificateError, match=f"`1.*{reason}" if "`" not in reason else reason):
        certify(nn.Sequential(nn.Identity(), REFUSED[reason]()).train(REFUSED[reason]().training))


@pytest.mark.parametrize(("name", "value"), [("weight", math.nan), ("weight", math.inf), ("running_var", -1.0)])
def test_broken_batch_statistics_are_refused(name: str, value: float) -> None:
    layer = trained_batch_norm()
    getattr(layer, name).data[1] = value
    with pytest.raises(CertificateError, match="intact"):
        certify(layer)


def test_a_change_of_settings_is_not_hidden_by_the_cache() -> None:
    chain = nn.Sequential(nn.AvgPool2d(2), nn.Dropout()).eval()
    assert certify(chain).lipschitz_upper == 0.5
    chain[0].divisor_override = 1
    assert certify(chain).lipschitz_upper == 2
    with pytest.raises(CertificateError, match="at random"):
        certify(chain.train())
    chain.eval()[0].register_forward_hook(lambda module, x, y: 2 * y)
    with pytest.raises(CertificateError, match="hooks"):
        certify(chain)


def test_softplus_from_a_threshold_of_forty_on_has_no_jump_in_float64() -> None:
    """By default it jumps by 2e-9 at 20, which no slope of at most 1 allows."""
    for threshold, steps in ((20, False), (40, True)):
        t = torch.tensor([threshold, math.nextafter(threshold, math.inf)], dtype=torch.float64)
        change = nn.Softplus(threshold=threshold)(t).diff()
        assert bool(change.abs() <= 2 * t.diff()) == steps


def ones(taps: int, **settings: object) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, taps, bias=False, **settings)
    conv.weight.data.fill_(1.0)
    return conv


def delta(taps: int) -> nn.Conv2d:
    """Crops the image by taps − 1 rows and columns."""
    conv = ones(taps)
    conv.weight.data.zero_()[0, 0, 0, 0] = 1.0
    return conv


def strided(taps: int, stride: int) -> nn.Conv2d:
    return ones(taps, padding=1, stride=stride, padding_mode="circular")


CHAINS = {  # the map, the smallest side and the divisor of the sides, and a size beyond them that breaks the bound
    "pool, reflect": (lambda: [nn.AvgPool2d(2, divisor_override=2), ones(3, padding=2, padding_mode="reflect")], 12, 1, 6),
    "pool, circular stride": (lambda: [nn.AvgPool2d(2, divisor_override=2), strided(3, 2)], 2, 4, 6),
    "crop, circular stride": (lambda: [delta(3), strided(3, 2)], 3, 2, 5),
    "crop, stride of three": (lambda: [delta(4), strided(4, 3)], 4, 3, 8),
    "two strides": (lambda: [ones(1, stride=3), strided(3, 2)], 1, 6, 8),
    "crop, reflect": (lambda: [delta(5), ones(3, padding=1, padding_mode="reflect")], 8, 1, None),
    "shuffles": (lambda: [nn.PixelUnshuffle(2), nn.PixelShuffle(2), strided(3, 2)], 2, 2, None),
    "ceil": (lambda: [nn.MaxPool2d(3, ceil_mode=True), nn.BatchNorm2d(1).eval(), strided(3, 2)], 1, 6, None),
    "transposed": (lambda: [nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False), strided(4, 4)], 1, 2, None),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_each_layer_meets_a_size_for_which_it_was_bounded(name: str) -> None:
    """Dense Jacobians of all images of up to 14 pixels a side."""
    torch.manual_seed(0)
    make, smallest, divisor, broken = CHAINS[name]
    module = nn.Sequential(*make())
    certificate = certify(module)
    assert certificate.smallest_image == (smallest,) * 2 and certificate.divisible_by == (divisor,) * 2
    for n in range(smallest, 15):
        if n % divisor == 0:
            assert dense_norm(module, (1, n, n)) <= certificate.lipschitz_upper * (1 + 1e-12)
    if broken is not None:
        assert dense_norm(module, (1, broken, broken)) > certificate.lipschitz_upper
    assert Certificate.from_json(certificate.to_json()) == certificate


UNSIZED = {
    "is not known": lambda: [nn.Flatten(), strided(3, 2)],
    "not known": lambda: [nn.Linear(8, 8), ones(3, padding=1, padding_mode="reflect")],
    "fit no image": lambda: [delta(2), strided(3, 2)],
    "fit no": lambda: [nn.ConvTranspose2d(1, 1, 2, stride=3), strided(3, 2)],
    "too many": lambda: [*[strided(3, 7) for _ in range(5)]],
}


@pytest.mark.parametrize("reason", list(UNSIZED))
def test_sizes_that_cannot_be_told_are_refused(reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        certify(nn.Sequential(*UNSIZED[reason]()))


@pytest.mark.parametrize("seed", range(30))
def test_sizes_agree_with_walking_through_them(seed: int) -> None:
    """Against brute force over all sizes up to three periods, for random maps."""
    generator = random.Random(seed)
    axes = [
        Axis(generator.choice([1, 1, 2]), generator.choice([1, 2, 3]), generator.randint(-3, 3), generator.randint(1, 4))
        for _ in range(3)
    ]
    axes[2] = dataclasses.replace(axes[2], divisor=generator.choice([1, 2, 3, 4]))

    def taken(n: int) -> bool:
        for axis in axes:
            if n < axis.least or n % axis.divisor:
                return False
            n = (axis.up * n + axis.offset) // axis.down
        return True

    good = [taken(n) for n in range(600)]
    fits = {d: next((m for m in range(300) if all(good[n] for n in range(m, 600) if n % d == 0)), None) for d in range(1, 73)}
    try:
        (least, _), (divisor, _) = image_sizes([(axis, axis) for axis in axes])
    except CertificateError:
        assert all(m is None for m in fits.values())
        return
    assert all(good[n] for n in range(least, 600) if n % divisor == 0)
    assert next(d for d, m in fits.items() if m is not None) == divisor


CHANGES = {  # a setting after construction, which the proof must read where torch does
    "stride": (lambda: nn.Conv2d(1, 2, 3, padding=1), {"stride": 2, "kernel_size": (9, 9), "in_channels": 7}),
    "padding": (lambda: nn.Conv2d(1, 2, 3), {"padding": (5, 5), "padding_mode": "zeros"}),
    "dilation": (lambda: nn.Conv2d(1, 2, 3, padding=2), {"dilation": [2, 2]}),
    "reflect": (lambda: nn.Conv2d(1, 1, 3, padding=1), {"padding_mode": "reflect", "padding": 0}),
    "four": (lambda: nn.Conv2d(1, 1, 3, padding_mode="replicate"), {"_reversed_padding_repeated_twice": [3, 3, 0, 0]}),
    "transposed": (lambda: nn.ConvTranspose2d(1, 2, 3), {"stride": (2, 2), "output_padding": 1, "kernel_size": (1, 1)}),
    "pool": (lambda: nn.AvgPool2d(2), {"kernel_size": (4, 2), "stride": (4, 2)}),
    "divisor": (lambda: nn.AvgPool2d(2), {"divisor_override": -1}),
    "ceil": (lambda: nn.AvgPool2d(3), {"ceil_mode": True}),
    "norm": (lambda: nn.BatchNorm2d(1, eps=1.0).eval(), {"eps": 0.0, "track_running_stats": False}),
    "norm, tiny": (lambda: nn.BatchNorm2d(1).eval(), {"running_var": torch.tensor([1e-4])}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_settings_are_read_as_they_are_now(name: str) -> None:
    torch.manual_seed(0)
    make, changes = CHANGES[name]
    module = make()
    certify(module)
    for setting, value in changes.items():
        setattr(module, setting, value)
    assert dense_norm(module, (1, 8, 8)) <= certify(module).lipschitz_upper * (1 + 1e-12)


WEIRD = {
    "bool stride": (lambda: nn.Conv2d(1, 1, 3), "stride", (True, True)),
    "tensor stride": (lambda: nn.Conv2d(1, 1, 3), "stride", torch.tensor([2, 2])),
    "three strides": (lambda: nn.Conv2d(1, 1, 3), "stride", (1, 1, 1)),
    "float dilation": (lambda: nn.Conv2d(1, 1, 3), "dilation", 1.0),
    "negative padding": (lambda: nn.Conv2d(1, 1, 3), "padding", -1),
    "bool groups": (lambda: nn.Conv2d(1, 1, 3), "groups", True),
    "no stride": (lambda: nn.AvgPool2d(2), "stride", None),
    "no divisor": (lambda: nn.AvgPool2d(2), "divisor_override", 0),
    "float divisor": (lambda: nn.AvgPool2d(2), "divisor_override", 0.5),
    "tensor slope": (lambda: nn.LeakyReLU(), "negative_slope", torch.tensor(5.0)),
    "NaN": (lambda: nn.ELU(), "alpha", math.nan),
    "tensor eps": (lambda: nn.BatchNorm2d(1).eval(), "eps", torch.tensor(1.0)),
    "factor": (lambda: nn.PixelShuffle(2), "upscale_factor", 2.0),
    "weight": (lambda: nn.Conv2d(1, 1, 3), "weight", nn.Parameter(torch.eye(3))),
    "three sides": (lambda: nn.Conv2d(1, 1, 3, padding_mode="reflect"), "_reversed_padding_repeated_twice", [1, 1, 1]),
    "no interval": (lambda: nn.Hardtanh(), "min_val", math.nan),
    "depth": (lambda: DnCNN(1, 1, depth=3, nf=2, pretrained=None), "depth", True),
    "list": (lambda: DnCNN(1, 1, depth=3, nf=2, pretrained=None), "conv_list", nn.Sequential()),
    "channels": (lambda: DnCNN(1, 1, depth=3, nf=2, pretrained=None), "in_conv", nn.Conv2d(3, 2, 3, padding=1)),
    "shape": (lambda: DnCNN(1, 1, depth=3, nf=2, pretrained=None), "in_conv", nn.Conv2d(1, 2, 3)),
}


@pytest.mark.parametrize("name", list(WEIRD))
def test_settings_of_no_plain_type_are_refused(name: str) -> None:
    make, setting, value = WEIRD[name]
    module = make()
    setattr(module, setting, value)
    with pytest.raises(CertificateError):
        certify(module)


@pytest.mark.parametrize("first", [nn.Identity(), nn.Flatten(), nn.Dropout().eval()])
def test_what_overwrites_its_input_is_refused(first: nn.Module) -> None:
    """(1 − θ)x + θ D(x) with an x that D has changed is another map; after a convolution nothing of x is overwritten."""
    writing = nn.ReLU(inplace=True)
    for module in (writing, nn.Sequential(first, writing)):
        with pytest.raises(CertificateError, match="overwrites its own input"):
            certify(module.eval())
    assert certify(nn.Sequential(nn.Conv2d(1, 1, 3), writing)).lipschitz_upper > 0

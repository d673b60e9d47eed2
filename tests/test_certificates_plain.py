"""Plain networks: the rules against dense Jacobians, what is refused, and an honest number for a DnCNN."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.models import DnCNN
from torch import nn

from pnp_lip import Certificate, certify
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
        (nn.Softplus(3.0), 1),
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
    "Softplus needs": lambda: nn.Softplus(threshold=1.0),
    "no rule is known": lambda: nn.GELU(),
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_refusals_name_the_path_and_the_reason(reason: str) -> None:
    with pytest.raises(CertificateError, match=f"`1`.*{reason}"):
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

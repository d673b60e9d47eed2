"""Both universal families: their formulas, their constraints under training, what the projections do, what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pnp_lip import attack, certify
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowLinear, ReLU, SoftThreshold
from pnp_lip.theory import (
    BlockAffine,
    FixedWidthNetwork,
    MaxMinLayer,
    Projector,
    UnboundedWidthNetwork,
    output_lipschitz_upper,
    parametrise,
    plain,
    seal,
)
from pnp_lip.theory.constraints import norms_lower, retract
from pnp_lip.theory.networks import dual_norm

Network = UnboundedWidthNetwork | FixedWidthNetwork
FAMILIES = {
    "unbounded": lambda: UnboundedWidthNetwork(3, width=6, depth=4),
    "unbounded, several outputs": lambda: UnboundedWidthNetwork(3, width=6, depth=4, out_features=3),
    "unbounded, wide layers": lambda: UnboundedWidthNetwork(3, width=4, depth=3, hidden_features=7),
    "unbounded, narrow": lambda: UnboundedWidthNetwork(3, width=2, depth=3, hidden_features=1),
    "unbounded, no layers": lambda: UnboundedWidthNetwork(3, width=4, depth=0),
    "unbounded, soft threshold": lambda: UnboundedWidthNetwork(3, width=4, depth=3, activation=SoftThreshold(4)),
    "fixed": lambda: FixedWidthNetwork(3, depth=4),
    "fixed, several outputs": lambda: FixedWidthNetwork(3, depth=4, out_features=3),
    "fixed, narrow": lambda: FixedWidthNetwork(3, depth=2, width=2),
}


def spectral(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2))


def disturbed(network: Network, size: float = 1.0) -> Network:
    """All weights moved, steps beyond their limits."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("name", list(FAMILIES))
def test_disturbed_networks_are_one_lipschitz_after_seal_and_attacks_agree(name: str) -> None:
    torch.manual_seed(1)
    network = seal(disturbed(FAMILIES[name]()))
    upper = output_lipschitz_upper(network)
    assert max(upper) <= 1
    jointly = certify(network).lipschitz_upper
    assert jointly <= (1 if isinstance(network, UnboundedWidthNetwork) else math.sqrt(len(upper)) * (1 + 1e-9))
    found = attack(network, torch.rand(4, 3), steps=10, bound=jointly)
    assert not found.exceeds and found.ratio > 0


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_network_without_its_constraint_is_not_certified(name: str) -> None:
    torch.manual_seed(2)
    network = seal(FAMILIES[name]())
    network.lift.weight.data *= 1.5
    assert max(output_lipschitz_upper(network)) > 1


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("isometric", [False, True])
def test_projected_gradient_holds_the_constraint_while_the_loss_falls(name: str, isometric: bool) -> None:
    torch.manual_seed(3)
    network = FAMILIES[name]()
    x = torch.randn(64, 3)
    target = 0.5 * x.norm(dim=1, keepdim=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    project = Projector(network.constraints(), isometric=isometric, iterations=5)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(x) - target).var()
        loss.backward()
        optimiser.step()
        project()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    c = network.constraints()
    for w, tau in c.steps:
        assert 0 <= float(tau.detach()) * spectral(w) ** 2 <= 2 * 1.02  # power iterations are a lower bound
        assert not isometric or spectral(w) <= 1 + 1e-5
    assert all(spectral(a) <= 1 + 1e-5 for a in c.contractions)
    assert all(float(rows.norm(dim=1).max()) <= 1 + 1e-5 for rows in c.unit_rows)
    assert all(float(dual_norm(rows).max()) <= 1 + 1e-5 for rows in c.mixed_rows)
    before = network(x)
    seal(network)
    assert max(output_lipschitz_upper(network)) <= 1
    assert float((network(x) - before).detach().abs().max()) < 0.05  # the seal removes the power method's error only


@pytest.mark.parametrize("name", list(FAMILIES))
def test_seal_leaves_a_sealed_network_alone(name: str) -> None:
    torch.manual_seed(4)
    network = seal(disturbed(FAMILIES[name]()))
    once = copy.deepcopy(network.state_dict())
    seal(network)
    for key, value in network.state_dict().items():
        assert torch.allclose(value, once[key], rtol=3e-6, atol=0)


def test_initial_jacobians_are_orthogonal() -> None:
    torch.manual_seed(5)
    for network in (
        UnboundedWidthNetwork(4, width=4, depth=12).double(),
        UnboundedWidthNetwork(4, width=4, depth=3, hidden_features=2).double(),
    ):
        for layer in network.layers:
            jacobian = torch.autograd.functional.jacobian(layer, torch.randn(4, dtype=torch.float64))
            assert torch.allclose(jacobian.T @ jacobian, torch.eye(4, dtype=torch.float64), atol=1e-5)
    affine = BlockAffine(5)
    assert torch.allclose(affine.lower @ affine.lower.T, torch.eye(5), atol=1e-5)
    assert torch.linalg.det(affine.lower) > 0  # an exponential, so a rotation


def test_formula_of_the_unbounded_family() -> None:
    torch.manual_seed(6)
    network = UnboundedWidthNetwork(2, width=3, depth=2).double()
    x = torch.randn(7, 2, dtype=torch.float64)
    z = x @ network.lift.weight.T + network.lift.bias
    for layer in network.layers:
        z = z - layer.tau * torch.relu(z @ layer.weight.T + layer.bias) @ layer.weight
    assert torch.equal(network(x), z @ network.readout.weight.T)


def test_formula_of_the_fixed_family() -> None:
    torch.manual_seed(7)
    network = FixedWidthNetwork(2, depth=2).double()
    x = torch.randn(7, 2, dtype=torch.float64)
    z = x @ network.lift.weight.T + network.lift.bias
    assert z.shape[1] == 5
    for layer, affine in zip(network.layers, network.affines, strict=True):
        upper = z[:, :2].sort(dim=1, descending=True).values
        z = torch.cat([upper, z[:, 2:3], layer.inner(z[:, 3:])], 1)
        a = torch.zeros(5, 5, dtype=torch.float64)
        a[:3], a[3:, 3:] = affine.rows, affine.lower
        z = z @ a.T + affine.bias
    assert torch.allclose(network(x), z @ network.readout.weight.T, rtol=0, atol=1e-14)


def test_sorting_is_a_gradient_flow_layer() -> None:
    sort = GradientFlowLinear(2, 1, bias=False).double()
    sort.weight.data = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    sort.tau.data.fill_(1.0)
    z = torch.randn(50, 5, dtype=torch.float64)
    layer = MaxMinLayer(GradientFlowLinear(2).double())
    assert torch.allclose(layer(z)[:, :2], sort(z[:, :2]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (1, 4), (2, 6, 6)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 100.0])
def test_retract_stays_in_the_ball_and_converges_to_the_polar_factor(shape: tuple[int, ...], scale: float) -> None:
    a = scale * torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(retract(a), 2).max()) <= 1 + 1e-14
    u, _, v = torch.linalg.svd(a, full_matrices=False)
    for _ in range(60):
        a = retract(a)
    assert torch.allclose(a, u @ v, atol=1e-12)


def test_power_method_is_a_lower_bound_that_converges() -> None:
    w = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    truth = torch.linalg.matrix_norm(w, 2)
    v = torch.ones(3, 4, 1, dtype=torch.float64) / 2
    for iterations, tolerance in ((1, 0.5), (300, 1e-9)):
        norm, _ = norms_lower(w, v, iterations)
        assert bool((norm <= truth * (1 + 1e-12)).all()) and bool((norm >= truth * (1 - tolerance)).all())


def test_stacked_networks_are_projected_as_if_alone() -> None:
    torch.manual_seed(10)
    for make in (FAMILIES["unbounded"], FAMILIES["fixed"]):
        networks = [disturbed(make(), 0.3) for _ in range(3)]
        parameters = [dict(network.named_parameters()) for network in networks]
        stacked = {name: torch.stack([p[name].detach() for p in parameters]) for name in parameters[0]}
        Projector(networks[0].constraints(stacked), iterations=50)()
        for i, network in enumerate(networks):
            Projector(network.constraints(), iterations=50)()
            for name, value in network.named_parameters():
                assert torch.allclose(value, stacked[name][i], atol=1e-5), name


@pytest.mark.parametrize("make", [FAMILIES["unbounded"], FAMILIES["fixed"]])
def test_parametrised_networks_hold_the_constraint_at_every_step(make: object) -> None:
    torch.manual_seed(11)
    network: Network = parametrise(make())  # type: ignore[operator]
    x = torch.randn(32, 3)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(5):
        optimiser.zero_grad()
        (-network(x).square().mean()).backward()
        optimiser.step()
    value = network(x)
    plain(network)
    assert torch.allclose(network(x), value, atol=1e-5)
    assert max(output_lipschitz_upper(network)) <= 1 + 1e-3  # float32
    assert max(output_lipschitz_upper(seal(network))) <= 1
    assert not any("parametrizations" in name for name, _ in network.named_parameters())


def test_state_dicts_hold_all_that_decides_the_function() -> None:
    for make in FAMILIES.values():
        first, second = make(), make()
        second.load_state_dict(first.state_dict())
        x = torch.randn(5, 3)
        assert torch.equal(first(x), second(x))
        assert torch.equal(first(x[0]), first(x[:1])[0]) or torch.allclose(first(x[0]), first(x[:1])[0], atol=1e-6)


def test_activations_keep_the_constraint_but_need_slopes() -> None:
    network = UnboundedWidthNetwork(2, width=3, depth=1, activation=ReLU())
    network.layers[0].activation = nn.ReLU()  # type: ignore[union-attr]
    with pytest.raises(Exception, match="slopes"):
        certify(network)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UnboundedWidthNetwork(0, width=3, depth=1),
        lambda: UnboundedWidthNetwork(2, width=0, depth=1),
        lambda: UnboundedWidthNetwork(2, width=3, depth=-1),
        lambda: FixedWidthNetwork(2, depth=1, out_features=0),
        lambda: FixedWidthNetwork(2, depth=1, width=0),
        lambda: BlockAffine(0),
        lambda: Projector(UnboundedWidthNetwork(2, width=3, depth=1).constraints(), iterations=0),
    ],
)
def test_empty_networks_are_refused(make: object) -> None:
    with pytest.raises(InputError, match="at least"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "module", [FAMILIES["unbounded"](), FAMILIES["fixed"](), MaxMinLayer(GradientFlowLinear(2)), BlockAffine(2)]
)
def test_wrong_columns_are_refused(module: nn.Module) -> None:
    with pytest.raises(ShapeError, match="takes"):
        module(torch.zeros(2, 4))


def test_integers_and_broken_weights_are_refused() -> None:
    network = FAMILIES["fixed"]()
    with pytest.raises(ShapeError, match="floating"):
        network(torch.zeros(2, 3, dtype=torch.long))
    before = copy.deepcopy(network.state_dict())
    for name, parameter in network.named_parameters():
        parameter.data.view(-1)[0] = torch.nan
        with pytest.raises(InputError, match=name):
            seal(network)
        network.load_state_dict(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_sealing_holds_in_half_precision(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    network = UnboundedWidthNetwork(2, width=16, depth=3, out_features=3)
    for parameter in network.parameters():
        parameter.data.mul_(3)
    assert certify(seal(network.to(dtype))).lipschitz_upper <= 1

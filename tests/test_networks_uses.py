"""What 1-Lipschitz networks give for nothing: certified radii of classifiers, and bounds of Wasserstein distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor, nn

import pnp_lip.certificates
import pnp_lip.theory.experiments
from pnp_lip import certify
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.theory import (
    FixedWidthNetwork,
    Projector,
    UnboundedWidthNetwork,
    certified_radius,
    output_lipschitz_upper,
    parametrise,
    plain,
    seal,
    wasserstein1,
)

Network = UnboundedWidthNetwork | FixedWidthNetwork


@pytest.mark.parametrize("name", ["certified_radius", "networks", "exact", "experiments"])
def test_old_names_warn(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"pnp_lip\.{name} is now pnp_lip\.theory"):
        found = getattr(pnp_lip, name)
    new = {"certified_radius": certified_radius, "experiments": pnp_lip.theory.experiments}.get(name, pnp_lip.theory)
    assert found is new
    with pytest.warns(DeprecationWarning, match=r"pnp_lip\.certificates\.output_lipschitz_upper is now pnp_lip\.theory"):
        assert pnp_lip.certificates.output_lipschitz_upper is output_lipschitz_upper


def affine(weight: Tensor) -> UnboundedWidthNetwork:
    """x ↦ Vx as a network without layers."""
    network = UnboundedWidthNetwork(weight.shape[1], width=weight.shape[1], depth=0, out_features=len(weight))
    network.lift.weight.data, network.lift.bias.data = torch.eye(weight.shape[1]), torch.zeros(weight.shape[1])
    network.readout.weight.data = weight
    return network


def test_radius_of_one_output_is_the_distance_to_the_boundary() -> None:
    network = affine(torch.tensor([[0.6, 0.8]]))
    x = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [0.8, -0.6]])
    assert torch.allclose(certified_radius(network, x), torch.tensor([1.4, 1.2, 0.0]).double(), atol=1e-6)


def test_half_the_margin_where_each_output_is_1_lipschitz_and_a_larger_share_where_all_are_jointly() -> None:
    each = affine(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # f₁ − f₂ = 2x₁: the constant 2 is attained
    jointly = affine(torch.eye(2))  # f₁ − f₂ = x₁ − x₂: the constant √2 is attained
    x = torch.tensor([[3.0, 1.0]])
    assert float(certified_radius(each, x)) == pytest.approx(6.0 / 2, rel=1e-9)
    assert float(certified_radius(jointly, x)) == pytest.approx(2.0 / math.sqrt(2), rel=1e-9)
    for network in (each, jointly):
        r = float(certified_radius(network, x))
        gradient = torch.autograd.functional.jacobian(lambda z, f=network: f(z)[0, 0] - f(z)[0, 1], x)
        step = gradient / gradient.norm()
        assert int(network(x - 0.999 * r * step).argmax()) == 0 and int(network(x - 1.001 * r * step).argmax()) == 1


def trained(make: object, classes: int) -> tuple[Network, Tensor, Tensor]:
    torch.manual_seed(0)
    network: Network = make()  # type: ignore[operator]
    centres = 1.5 * torch.randn(classes, 2)
    y = torch.arange(classes).repeat(60)
    x = centres[y] + 0.3 * torch.randn(len(y), 2)
    optimiser, project = torch.optim.Adam(network.parameters(), lr=0.02), Projector(network.constraints())
    for _ in range(120):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(10 * network(x), y).backward()
        optimiser.step()
        project()
    return seal(network), x, y


@pytest.mark.parametrize(
    "make",
    [
        lambda: UnboundedWidthNetwork(2, width=8, depth=4, out_features=4),
        lambda: FixedWidthNetwork(2, depth=4, out_features=4),
    ],
)
def test_no_perturbation_within_the_radius_changes_the_class(make: object) -> None:
    network, x, _ = trained(make, 4)
    network.double()
    x = x.double()
    radius = certified_radius(network, x)
    outputs = network(x)
    first = outputs.argmax(1)
    top = outputs.topk(2).values
    margin = top[:, 0] - top[:, 1]
    share = math.sqrt(2) if isinstance(network, UnboundedWidthNetwork) else 2
    assert bool((radius >= margin / share * (1 - 1e-5)).all()) and float(radius.median()) > 0.1
    z = x.clone()
    for _ in range(40):  # ascend the best rival, stay in the ball
        z.requires_grad_()
        values = network(z)
        rival = values.scatter(1, first[:, None], -torch.inf).amax(1) - values.gather(1, first[:, None])[:, 0]
        (g,) = torch.autograd.grad(rival.sum(), z)
        step = z.detach() + 0.2 * radius[:, None] * torch.nn.functional.normalize(g) - x
        z = x + step * (radius * (1 - 1e-9) / step.norm(dim=1).clamp_min(1e-300)).clamp_max(1)[:, None]
        assert torch.equal(network(z).argmax(1)[radius > 1e-9], first[radius > 1e-9])


def test_radius_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match="inputs"):
        certified_radius(affine(torch.eye(2)), torch.zeros(2))


class Louder(UnboundedWidthNetwork):
    """Children that are certified, and a forward that is twenty times as steep as they prove."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * super().forward(x)


@pytest.mark.parametrize("bound", [output_lipschitz_upper, lambda f: certified_radius(f, torch.ones(1, 2)), certify])
def test_subclasses_and_replaced_forwards_are_refused(bound: Callable[[Network], object]) -> None:
    torch.manual_seed(0)
    louder = seal(Louder(2, width=4, depth=2, out_features=2))
    with pytest.raises(CertificateError, match="Louder"):
        bound(louder)
    network = seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=2))
    bound(network)
    hook = network.register_forward_hook(lambda m, i, o: 20 * o)
    with pytest.raises(CertificateError, match="hooks"):
        bound(network)
    hook.remove()
    network.forward = lambda x: 20 * x  # type: ignore[method-assign]
    with pytest.raises(CertificateError, match="replaced `forward`"):
        bound(network)


@pytest.mark.parametrize("make", [UnboundedWidthNetwork, FixedWidthNetwork])
def test_constrained_networks_are_refused_until_their_weights_are_plain(make: type[Network]) -> None:
    torch.manual_seed(0)
    network = parametrise(make(2, width=4, depth=2, out_features=3)).requires_grad_(False)
    x = torch.randn(20, 2)
    for bound in (certify, output_lipschitz_upper, lambda f: certified_radius(f, x)):
        with pytest.raises(CertificateError, match="parametrised"):
            bound(network)  # type: ignore[no-untyped-call]
    plain(network)
    assert bool((certified_radius(network, x) > 0).all()) and max(output_lipschitz_upper(network)) <= 1 + 1e-5


def test_an_inner_layer_of_another_type_is_no_layer_of_the_family() -> None:
    """nn.Linear has a weight, too, so that the network runs; the calculus of blocks would not see it."""
    network = seal(FixedWidthNetwork(2, width=4, depth=1))
    network.layers[0].inner = nn.Linear(4, 4)
    with pytest.raises(CertificateError, match=r"layers.0.inner` is a Linear"):
        certify(network)
    with pytest.raises(CertificateError, match="`inner` is a Linear"):
        certify(network.layers[0])
    network = seal(UnboundedWidthNetwork(2, width=4, depth=1))
    network.layers = nn.Sequential(*network.layers)
    with pytest.raises(CertificateError, match=r"`layers` is a Sequential"):
        certified_radius(network, torch.ones(1, 2))


def linear_program(p: Tensor, q: Tensor) -> float:
    """W₁ by transport plans: minimise Σ c_ij t_ij, rows summing to 1/n and columns to 1/m."""
    cost = torch.cdist(p, q).numpy()
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solution = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(solution.fun)


def clouds(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 60, 2, generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * torch.rand(60, generator=generator, dtype=torch.float64)
    if name == "shifted":
        return 0.5 * noise[0], 0.5 * noise[1, :40] + torch.tensor([2.0, 1.0])
    if name == "ring":
        return 1.5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * noise[0], 0.3 * noise[1]
    half = angle / 2
    upper = torch.stack([half.cos(), half.sin()], 1)
    return upper + 0.05 * noise[0], torch.tensor([1.0, 0.5]) - upper + 0.05 * noise[1]


@pytest.mark.parametrize("name", ["shifted", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ring", "moons"))])
def test_wasserstein_lower_bound_within_two_per_cent_of_the_linear_program(name: str) -> None:
    p, q = clouds(name)
    truth = linear_program(p, q)
    if len(p) == len(q):
        cost = torch.cdist(p, q).numpy()
        assert truth == pytest.approx(float(cost[linear_sum_assignment(cost)].mean()), rel=1e-6)
    found = wasserstein1(p, q, steps=800, learning_rates=[5e-2])
    assert 0.98 * truth <= found.lower <= truth * (1 + 1e-9)
    assert certify(found.critic).lipschitz_upper <= 1
    z = torch.cat([p, q])
    values = found.scale * found.critic((z - found.centre) / found.scale)[:, 0]
    assert float(values[: len(p)].mean() - values[len(p) :].mean()) == pytest.approx(found.lower, rel=1e-9)


def test_wasserstein_does_not_touch_the_global_generator_and_repeats() -> None:
    p, q = clouds("ring")
    state = torch.random.get_rng_state()
    first, second = (wasserstein1(p, q, steps=5).lower for _ in range(2))
    assert first == second and torch.equal(torch.random.get_rng_state(), state)


def test_wasserstein_refuses() -> None:
    p = torch.zeros(3, 2)
    with pytest.raises(ShapeError, match="clouds"):
        wasserstein1(p, torch.zeros(3, 1))
    with pytest.raises(InputError, match="finite"):
        wasserstein1(p, p + torch.nan)
    with pytest.raises(InputError, match="equal"):
        wasserstein1(p, p)
    with pytest.raises(InputError, match="steps"):
        wasserstein1(p, p + 1, steps=0)
    with pytest.raises(InputError, match="learning_rates"):
        wasserstein1(p, p + 1, learning_rates=[])


def test_wasserstein_keeps_the_best_critic() -> None:
    p, q = clouds("shifted")
    single = [wasserstein1(p, q, steps=20, learning_rates=[rate]).lower for rate in (1e-3, 5e-2)]
    assert wasserstein1(p, q, steps=20, learning_rates=[1e-3, 5e-2]).lower == max(single) != min(single)


@pytest.mark.parametrize("name", ["lift.bias", "layers.0.bias", "readout.weight"])
def test_nothing_is_said_of_networks_with_nan(name: str) -> None:
    network = seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=3))
    network.get_parameter(name).data.view(-1)[0] = float("nan")
    for ask in (output_lipschitz_upper, lambda n: certified_radius(n, torch.zeros(1, 2)), certify):
        with pytest.raises(CertificateError, match="NaN"):
            ask(network)

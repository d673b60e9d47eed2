"""The calculus of blocks against Jacobians and brute force; the certificates of the two universal families."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from pnp_lip import certify, enforce
from pnp_lip.certificates.calculus import sqrt_up
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import Clip, GradientFlowLinear
from pnp_lip.spectral import norm_bound
from pnp_lip.spectral.norm_bound import square_upper
from pnp_lip.theory import FixedWidthNetwork, MaxMinLayer, UnboundedWidthNetwork, output_lipschitz_upper, seal
from pnp_lip.theory.block_calculus import Affine, Blocks, Flow, State


def start(dimension: int) -> State:
    """The input itself: one block, the identity."""
    return State([range(dimension)], (Fraction(1),))


PARTITIONS: dict[str, Blocks] = {
    "alone": [[k] for k in range(6)],
    "mixed": [[3], [0, 5], [1], [2, 4]],
    "one": [range(6)],
}


def sparse(rows: int, *, density: float, seed: int) -> torch.Tensor:
    """A random matrix with 6 columns, many entries zero."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, 6, generator=generator) < density
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64) * mask


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("seed", range(4))
def test_no_jacobian_exceeds_the_proved_constants(partition: str, seed: int) -> None:
    """Affine and flow steps of every shape; the Jacobian of each block of the state at many points."""
    generator = torch.Generator().manual_seed(seed)
    blocks = PARTITIONS[partition]
    lift = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    flows = [sparse(rows, density=density, seed=10 * seed + rows) for rows, density in ((1, 0.5), (2, 0.4), (4, 0.3))]
    mix = sparse(6, density=0.5, seed=seed + 99)
    state = Affine("", lift, blocks)(start(3))
    for w in flows:
        state = Flow("", w, 0.7, 1.0)(state)
    state = Affine("", mix, blocks)(state)
    state = Flow("", flows[0], -0.3, 1.0)(state)

    def network(x: torch.Tensor) -> torch.Tensor:
        z = lift @ x
        for w in flows:
            z = z - 0.7 * w.T @ torch.relu(w @ z - 0.1)
        z = mix @ z
        return z + 0.3 * flows[0].T @ torch.relu(flows[0] @ z - 0.1)

    for _ in range(30):
        jacobian = torch.func.jacrev(network)(torch.randn(3, generator=generator, dtype=torch.float64))
        for block, constant in zip(state.blocks, state.lipschitz, strict=True):
            assert float(torch.linalg.matrix_norm(jacobian[list(block)], 2)) <= float(constant) * (1 + 1e-12)


def test_a_row_alone_gets_the_maximum_over_all_slopes() -> None:
    """The rule is the maximum over δ in [0, s] of the weighted absolute row sums of Id − τδwwᵀ, and no more."""
    w, constants, tau, slope = [0.5, -1.25, 2.0], (Fraction(1), Fraction(2), Fraction(1, 4)), 0.75, 0.5
    state = Flow("", torch.tensor([w]), tau, slope)(State([[0], [1], [2]], constants))
    row = torch.tensor(w, dtype=torch.float64)
    deltas = torch.linspace(0, slope, 101, dtype=torch.float64)[:, None, None]
    sums = (torch.eye(3) - tau * deltas * row.outer(row)).abs() @ torch.tensor([float(c) for c in constants]).double()
    assert [float(c) for c in state.lipschitz] == pytest.approx(sums.amax(0).tolist(), rel=1e-12)


def test_sorting_takes_the_maximum_and_rows_add_up() -> None:
    sort = torch.tensor([[-1.0, 1.0, 0, 0, 0]])
    state = State([[0], [1], [2], [3, 4]], (Fraction(1, 3), Fraction(2, 3), Fraction(5), Fraction(7)))
    assert Flow("", sort, 1.0, 1.0)(state).lipschitz == (Fraction(2, 3), Fraction(2, 3), Fraction(5), Fraction(7))
    row = torch.tensor([[0.5, -0.25, 0.125, 3.0, 4.0]])
    expected = Fraction(1, 6) + Fraction(1, 6) + Fraction(5, 8) + 5 * 7
    assert Affine("", row, [[0]])(state).lipschitz == (expected,)


def test_a_lift_of_large_norm_and_a_maximum_are_nonexpansive() -> None:
    """‖Q‖ = 8 for 64 copies of one row; after six rounds of sorting the constant is still one, exactly."""
    state = Affine("", torch.ones(64, 1), [[k] for k in range(64)])(start(1))
    for level in range(6):
        pairs = [(k, k + 2**level) for k in range(0, 64, 2 ** (level + 1))]
        w = torch.zeros(len(pairs), 64)
        for row, (p, q) in zip(w, pairs, strict=True):
            row[p], row[q] = -1, 1
        state = Flow("", w, 1.0, 1.0)(state)
    assert set(state.lipschitz) == {Fraction(1)}


@pytest.mark.parametrize("square", [Fraction(0), Fraction(1), Fraction(2), Fraction(1, 3), 1 - Fraction(1, 10**40)])
def test_square_roots_are_upper_bounds_that_respect_one(square: Fraction) -> None:
    root = sqrt_up(square)
    assert square <= root**2 <= square + Fraction(4, 2**128)
    assert root <= 1 or square > 1


def test_norms_without_overlap_are_exact() -> None:
    assert square_upper(torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 3.0]])) == 9
    assert square_upper(torch.tensor([[1.0], [2.0]])) == 5
    assert square_upper(torch.eye(4)) == 1
    full = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert (
        Fraction(norm_bound(full).lower) ** 2
        <= square_upper(full)
        <= Fraction(norm_bound(full).lower) ** 2 * (1 + Fraction(1, 10**9))
    )
    sort = GradientFlowLinear(2, 1, bias=False)
    sort.weight.data, sort.tau.data = torch.tensor([[1.0, -1.0]]), torch.tensor(1.0)
    assert certify(sort).lipschitz_upper == 1 and certify(sort).layers[0].margin == 0  # ‖W‖² = 2, though √2 is no float
    assert enforce(sort) == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="finite"):
        Affine("", torch.tensor([[value]]), [[0]])(start(1))
    with pytest.raises(InputError, match="finite"):
        Flow("", torch.tensor([[value]]), 1.0, 1.0)(start(1))


def sealed(family: str, *, outputs: int = 1) -> UnboundedWidthNetwork | FixedWidthNetwork:
    """A network at the limit, as training leaves it."""
    torch.manual_seed(0)
    if family == "unbounded":
        network = UnboundedWidthNetwork(2, width=6, depth=3, out_features=outputs)
    else:
        network = FixedWidthNetwork(2, depth=3, width=4, out_features=outputs)
    return seal(network.requires_grad_(False))


@pytest.mark.parametrize("family", ["unbounded", "fixed"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_sealed_networks_are_certified_and_no_gradient_exceeds_the_bound(family: str, outputs: int) -> None:
    network = sealed(family, outputs=outputs)
    each, jointly = output_lipschitz_upper(network), certify(network)
    assert max(each) <= 1 and jointly.lipschitz_upper <= math.sqrt(sum(c**2 for c in each)) * (1 + 1e-12)
    assert jointly.averagedness is None
    x = 3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    jacobians = torch.func.vmap(torch.func.jacrev(network))(x).double()
    assert float(torch.linalg.matrix_norm(jacobians, 2).amax()) <= jointly.lipschitz_upper * (1 + 1e-5)
    assert (jacobians.norm(dim=2).amax(0) <= torch.tensor(each) * (1 + 1e-5)).all()
    if outputs == 1:
        assert jointly.nonexpansive and each == (jointly.lipschitz_upper,)


def test_the_joint_bound_of_several_outputs_is_honest() -> None:
    """Two equal outputs of slope 1 have the joint constant √2."""
    network = sealed("fixed", outputs=2)
    network.readout.weight.copy_(torch.eye(1, 7).expand(2, -1))
    constants = output_lipschitz_upper(network)
    assert constants[0] == constants[1] <= 1
    assert certify(network).lipschitz_upper == pytest.approx(math.sqrt(2) * constants[0], rel=1e-9)


UNBOUNDED = ["lift.weight", "layers.1.weight", "layers.2.tau", "readout.weight"]
FIXED = [
    "lift.weight",
    "layers.1.inner.weight",
    "layers.1.inner.tau",
    "affines.0.rows",
    "affines.1.lower",
    "readout.weight",
]


@pytest.mark.parametrize(("family", "name"), [("unbounded", n) for n in UNBOUNDED] + [("fixed", n) for n in FIXED])
def test_every_mutation_is_caught_by_name(family: str, name: str) -> None:
    network = sealed(family)
    fill_to_the_limit(network)
    assert certify(network).nonexpansive
    network.get_parameter(name).mul_(1.01)
    with pytest.raises(CertificateError, match=name.rpartition(".")[0]):
        certify(network).require_nonexpansive()


def fill_to_the_limit(network: UnboundedWidthNetwork | FixedWidthNetwork) -> None:
    """Rows and blocks whose norms are one exactly, so that nothing hides a mutation behind slack."""
    if isinstance(network, FixedWidthNetwork):
        for affine in network.affines:
            affine.rows.copy_(torch.eye(3, 7))
            affine.lower.copy_(torch.eye(4))
        for layer in network.layers:
            layer.inner.weight.copy_(torch.eye(4))
            layer.inner.tau.fill_(2.0)
        network.affines[0].rows.copy_(torch.eye(3, 7).roll(3, 1))  # the registers read the block, the output reads both
        network.lift.weight.copy_(torch.eye(7, 2).roll(3, 0))
        network.readout.weight.copy_((torch.eye(1, 7) + torch.eye(1, 7).roll(3, 1)) / 2)
    else:
        for layer in network.layers:
            layer.weight.copy_(torch.eye(6))
            layer.tau.fill_(2.0)
        network.lift.weight.copy_(torch.eye(6, 2))
        network.readout.weight.copy_(torch.eye(1, 6))


def test_networks_with_foreign_parts_are_refused() -> None:
    network = sealed("unbounded")
    network.layers[1] = nn.Identity()
    with pytest.raises(CertificateError, match=r"`layers\.1` is a Identity where the family has a GradientFlowLinear"):
        certify(network)
    fixed = sealed("fixed")
    fixed.affines[0].register_forward_hook(lambda m, i, o: 2 * o)
    with pytest.raises(CertificateError, match=r"`affines\.0` has forward hooks"):
        output_lipschitz_upper(fixed)


def test_sorting_layers_and_other_activations_have_rules_of_their_own() -> None:
    layer = MaxMinLayer(GradientFlowLinear(3, activation=Clip(3), step_fraction=0.9))
    assert certify(layer).lipschitz_upper == 1
    layer.inner.tau.data.mul_(2)
    assert certify(layer).lipschitz_upper > 1
    with pytest.raises(CertificateError, match="counted in"):
        network = sealed("unbounded")
        network.readout.weight.mul_(3)
        certify(nn.Sequential(network)).require_nonexpansive()

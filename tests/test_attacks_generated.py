"""No generated attack ends with a claim that is false, and nothing honest is refused; ``run(case)`` runs one alone."""

from __future__ import annotations

import attacks_generated as generated
import pytest
import torch

FAST, SLOW = 3 * len(generated.SCHEDULE), 20_000


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems are faster so, and the same to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def failures(family: generated.Family, cases: range) -> list[str]:
    mine = [case for case in cases if generated.SCHEDULE[case % len(generated.SCHEDULE)] is family]
    outcomes = ((case, generated.run(case)[1]) for case in mine)
    return [f"case {case}: {outcome}" for case, outcome in outcomes if not outcome.verdict.held]


@pytest.mark.parametrize("family", generated.OFTEN, ids=lambda family: family.__name__)
def test_attacks(family: generated.Family) -> None:
    assert failures(family, range(FAST)) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", generated.OFTEN, ids=lambda family: family.__name__)
def test_many_attacks(family: generated.Family) -> None:
    assert failures(family, range(FAST, FAST + SLOW)) == []

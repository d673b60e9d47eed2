"""No attack by hand ends with a claim that is false, and no honest control is refused."""

from __future__ import annotations

import attacks_by_hand as by_hand
import pytest


@pytest.mark.parametrize("name", by_hand.load())
def test_attack(name: str) -> None:
    outcome = by_hand.run(name)
    assert outcome.verdict.held, outcome


def test_there_are_enough() -> None:
    attacks = by_hand.load().values()
    assert len(attacks) >= 200 and sum(a.new for a in attacks) >= 60

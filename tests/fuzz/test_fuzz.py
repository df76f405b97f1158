"""Inputs that nobody expects, some of each sort in every run of the tests; `make fuzz` tries as many as time allows."""

import asyncio
from collections.abc import Iterator, Mapping
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .targets import Target, every_target

INPUTS = {
    "supplier_answer": 2_500,
    "supplier_callback": 1_500,
    "own_token": 1_000,
    "stored_order": 500,
    "sealed_value": 500,
    "master_key": 200,
    "source_address": 200,
    "configuration": 150,
    "issuers_token": 500,
    "rpc": 1_500,
    "callback_route": 1_500,
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Target]]:
    with asyncio.Runner() as runner, every_target(tmp_path_factory.mktemp("fuzz"), runner) as every:
        assert set(every) == set(INPUTS)
        yield every


@pytest.mark.parametrize("name", INPUTS)
def test_what_nobody_expects_breaks_nothing(targets: Mapping[str, Target], name: str) -> None:
    """See the target's own words."""

    @settings(
        max_examples=INPUTS[name],
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        targets[name](Random(seed))

    run()

"""Every adapter in the package keeps every law, and none is without what belongs to it."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from reward_adapters import adapter_kinds, load_adapter
from reward_sandbox import shops

from .laws import LAWS, Law, Specimen

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def specimen_of(kind: str) -> Specimen:
    """The specimen of an adapter, from its file."""
    file = HERE / f"specimen_{kind}.py"
    assert file.exists(), f"the adapter {kind} needs a specimen: {file.name} beside laws.py, which says what it holds"
    specimen = importlib.import_module(f"{__package__}.{file.stem}").SPECIMEN
    assert isinstance(specimen, Specimen)
    return specimen


@pytest.mark.parametrize("kind", adapter_kinds())
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_an_adapter_keeps_the_law(kind: str, law: Law) -> None:
    """See the law's own words."""
    law(specimen_of(kind))


@pytest.mark.parametrize("kind", adapter_kinds())
def test_an_adapter_has_all_that_belongs_to_it(kind: str) -> None:
    """Scenarios in the sandbox, tests, and a page that names every key of its configuration."""
    page = DOCS / "suppliers" / f"{kind.replace('_', '-')}.md"
    assert page.exists(), f"describe the supplier in {page.relative_to(DOCS.parent)}"
    words = page.read_text()
    keys = [spec.name for spec in dataclasses.fields(load_adapter(kind).config)]
    assert [key for key in keys if f"`{key}`" not in words] == [], "keys that the page doesn't name"
    assert kind in shops(), f"the sandbox does not play {kind}: write adapters/reward_sandbox/{kind}.py"
    assert shops()[kind].scenarios, f"the sandbox has no scenarios for {kind}"
    assert (HERE / f"test_{kind}.py").exists(), f"{kind} needs tests of its own wire"

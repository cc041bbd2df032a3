"""The reference names what the adapters have."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest


@pytest.mark.parametrize("adapter", ["claude", "langchain", "mcp", "openai_agents"])
def test_the_reference_names_every_public_name(adapter: str) -> None:
    page = (Path(__file__).parents[4] / "docs/reference/sdk-python.md").read_text()
    words = set(re.findall(r"\w+", page[page.index("## Frameworks") :]))
    assert set(importlib.import_module(f"dayfly.{adapter}").__all__) <= words

"""The examples in the client's docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import velvetrope_client

MODULES = [module.name for module in pkgutil.iter_modules(velvetrope_client.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"velvetrope_client.{name}")).failed == 0

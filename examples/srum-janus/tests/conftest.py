"""A tiny random Janus on disk, and adapters loaded from it."""

from pathlib import Path

import pytest
from srum_janus.adapter import JanusAdapter
from srum_janus.options import AdapterOptions
from srum_janus.released import build
from srum_janus.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    folder = tmp_path_factory.mktemp("janus") / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def options(tiny: Path) -> AdapterOptions:
    return AdapterOptions(str(tiny), dtype="float32")


@pytest.fixture(scope="session")
def janus(options: AdapterOptions) -> JanusAdapter:
    """One that no test trains."""
    return build(options, "cpu")


@pytest.fixture
def fresh(options: AdapterOptions) -> JanusAdapter:
    return build(options, "cpu")

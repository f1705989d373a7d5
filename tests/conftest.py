"""Loads the pack by path under the name `rivulet`, as ComfyUI does under its own, and seeds every test."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

spec = importlib.util.spec_from_file_location(
    "rivulet", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
assert spec and spec.loader
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])

# without a GPU Triton's kernels are interpreted, which is decided when the first one is defined
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# tiny models lose more to thread hand-over than they gain, and one thread sums in one order
torch.set_num_threads(1)

# a machine at work must not turn a slow example into a failure, and the same examples come at every run;
# HYPOTHESIS_PROFILE=search draws new ones
settings.register_profile("search", deadline=None)
settings.register_profile("rivulet", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "rivulet"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Returns the seed that torch's global generator starts every test from."""
    torch.manual_seed(0)
    return 0


@pytest.fixture
def root() -> Path:
    """Returns the repository's root folder."""
    return ROOT


@pytest.fixture
def plain_triton():
    """Returns the package as it is; without it the test is skipped, or failed where it is required."""
    if importlib.util.find_spec("triton") is None:
        refuse = pytest.fail if os.environ.get("RIVULET_REQUIRE_TRITON") == "1" else pytest.skip
        refuse("Triton is not installed")
    import triton

    return triton


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        refuse = pytest.fail if os.environ.get("RIVULET_REQUIRE_GPU") == "1" else pytest.skip
        refuse("needs a CUDA GPU")

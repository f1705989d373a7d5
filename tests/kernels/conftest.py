"""Where kernel tests run: both implementations on a GPU if there is one, else Triton's interpreter."""

import pytest
import torch


@pytest.fixture
def triton(plain_triton, monkeypatch):
    """Returns the package, its interpreter mended where kernels are interpreted."""
    if not torch.cuda.is_available():
        from rivulet.tests.kernels.bf16 import install

        install(monkeypatch)
    return plain_triton


@pytest.fixture(params=["reference", "triton"])
def impl(request):
    """Returns an implementation to ask for; tensors are made where it runs."""
    if request.param == "triton":
        request.getfixturevalue("triton")
    if not torch.cuda.is_available():
        yield request.param
        return
    # sums in float32, as the bounds have it; by default cuBLAS may add bf16 partial sums
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
    with torch.device("cuda"):
        yield request.param
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = before

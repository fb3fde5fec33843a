"""Formats of modules: complex numbers stay complex."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradhorizon.kernels.casting import NoComplexFormatError, cast, num_real_numbers, real_dtype, real_numbers
from tests.odd_cells import Plain
from tests.sound_cells import ComplexBuffer, ComplexDiagonal


@pytest.mark.parametrize("cell", [ComplexDiagonal, ComplexBuffer])
def test_complex_numbers_keep_both_parts_there_and_back(cell: type[ComplexDiagonal]) -> None:
    built = cell(2, 4)
    expected = built.eigenvalues.detach().clone()
    assert bool((expected.imag != 0).all())
    found = cast(built, torch.float64).eigenvalues
    assert found.dtype == torch.complex128
    assert torch.equal(found.detach(), expected.to(torch.complex128))
    assert built.inp.weight.dtype == torch.float64
    assert torch.equal(cast(built, torch.float32).eigenvalues.detach(), expected)


def test_integers_stay_as_they_are() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("eigenvalue", torch.tensor(1j))
    cast(module, torch.float64)
    assert module.num_batches_tracked is not None
    assert module.num_batches_tracked.dtype == torch.long
    assert module.running_mean is not None
    assert module.running_mean.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_have_no_complex_partner(dtype: torch.dtype) -> None:
    with pytest.raises(NoComplexFormatError, match=f"not supported in {dtype}, got a ComplexDiagonal .* pairs"):
        cast(ComplexDiagonal(2, 4), dtype)
    assert cast(Plain(2, 4), dtype).inp.weight.dtype == dtype


def test_the_real_format_is_that_of_the_first_floating_tensor() -> None:
    assert real_dtype(cast(ComplexDiagonal(2, 4), torch.float64)) == torch.float64
    assert real_dtype(nn.Identity()) == torch.float32


def test_a_complex_parameter_counts_as_two_real_numbers() -> None:
    assert num_real_numbers(ComplexDiagonal(2, 4)) == 2 * 4 + 4 * 2 + 4
    assert real_numbers(torch.tensor([3 + 4j, 1j]).conj()).tolist() == [[3.0, -4.0], [0.0, -1.0]]

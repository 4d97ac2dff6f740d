"""Fitting code lengths to a head: padding and cutting must never change what the codes mean."""

from __future__ import annotations

import numpy as np
import pytest

from flame.codes import fit_code


def test_padding_and_cutting_undo_each_other():
    code = np.random.default_rng(0).normal(size=(4, 52)).astype(np.float32)
    wide = fit_code(code, 100, "exp", "a.frame")
    assert wide.shape == (4, 100)
    assert wide.dtype == np.float32
    assert not wide[:, 52:].any()
    np.testing.assert_array_equal(fit_code(wide, 52, "exp", "a.frame"), code)
    assert fit_code(code, 52, "exp", "a.frame") is code


@pytest.mark.parametrize("value", [1e-30, -2.0, np.nan])
def test_cutting_what_is_not_zero_names_file_and_coefficient(value):
    code = np.zeros((1, 300))
    code[0, 150] = value
    with pytest.raises(
        ValueError, match=rf"00012\.frame: shape coefficient 150 is {value:g}, but the head model has only 100"
    ):
        fit_code(code, 100, "shape", "00012.frame")
    assert fit_code(code, 151, "shape", "00012.frame").shape == (1, 151)


def test_a_single_number_is_no_code():
    with pytest.raises(ValueError, match=r"a\.frame: exp is a single number"):
        fit_code(np.array(1.0), 3, "exp", "a.frame")

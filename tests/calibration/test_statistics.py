"""Moments do not depend on how rows are cut."""

import numpy as np
import pytest

from onnxprune.calibration import statistics
from onnxprune.calibration.statistics import MomentSums


@pytest.mark.parametrize("waiting", [0, 1000, 1 << 30])
def test_moments_of_pieces_are_those_of_the_whole(monkeypatch, waiting):
    monkeypatch.setattr(statistics, "_WAITING_BYTES", waiting)
    columns = np.random.default_rng(0).standard_normal((3, 50, 7)).astype(np.float32) + 2
    sums = MomentSums()
    for piece in np.split(columns, [5, 6, 30], axis=1):
        sums.add(piece)
    found = sums.finish()
    exact = columns.astype(np.float64)
    assert found.rows == 50
    np.testing.assert_allclose(found.mean, exact.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.second(), exact.transpose(0, 2, 1) @ exact / 50, rtol=1e-5)
    np.testing.assert_allclose(found.covariance[1], np.cov(exact[1].T, bias=True), atol=1e-5)


def test_covariance_of_columns_that_hardly_vary_beside_their_mean_is_not_rounding_errors():
    rng = np.random.default_rng(1)
    columns = (100.0 + 1e-3 * rng.standard_normal((1, 300, 5))).astype(np.float32)
    sums = MomentSums()
    sums.add(columns[:, :0])
    sums.add(columns[:, :20])
    sums.add(columns[:, 20:])
    exact = np.cov(columns[0].T.astype(np.float64), bias=True)
    np.testing.assert_allclose(sums.finish().covariance[0], exact, rtol=1e-4, atol=1e-4 * exact.max())


def test_nothing_added_is_an_error():
    sums = MomentSums()
    sums.add(np.zeros((1, 0, 3), np.float32))
    with pytest.raises(ValueError, match="no rows were added"):
        sums.finish()

"""Far out in the tail the sums must neither underflow nor loop: a large drift is still a number."""

from __future__ import annotations

import pytest
from scipy.stats import chi2, ncx2

from wherry_contract.stats import chi2_sf, ncx2_centre, ncx2_sf


@pytest.mark.parametrize("x", [1.0, 700.0, 1500.0, 5_000.0, 100_000.0])
@pytest.mark.parametrize("freedom", [1, 2, 9, 1_501, 5_000])
def test_chi2_agrees_with_scipy(x: float, freedom: int) -> None:
    assert chi2_sf(x, freedom) == pytest.approx(chi2.sf(x, freedom), rel=1e-9, abs=1e-290)


@pytest.mark.parametrize("x", [700.0, 1500.0, 5_000.0, 100_000.0])
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_ncx2_agrees_with_scipy(x: float, share: float) -> None:
    assert ncx2_sf(x, 9, share * x) == pytest.approx(ncx2.sf(x, 9, share * x), abs=1e-9)


def test_the_interval_of_a_large_psi_ends() -> None:
    # PSI 0.5 on 5,000 rows: once a loop without an end
    centre = ncx2_centre(2_500.0, 9, 0.975)
    assert ncx2.sf(2_500.0, 9, centre) == pytest.approx(0.975, abs=1e-6)

"""Labelled rows by score bin: counted once, kept as they are, refused where they make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support_monitor import Fleet

from wherry_contract.calibration import Calibration
from wherry_contract.errors import ManifestError
from wherry_contract.histograms import SCORE_BINS
from wherry_contract.profile import ReferenceProfile
from wherry_contract.wire import canonical, parse_json

ZEROS = [0] * SCORE_BINS


def _document(**calibration: Any) -> bytes:
    document = parse_json(Fleet().profile.to_bytes(), limit=1 << 22, what="profile")
    return canonical(document | {"calibration": calibration})


def test_counts_survive_a_profile() -> None:
    scores = np.array([0.001, 0.5, 0.5, 0.999])
    found = Calibration.of(scores, np.array([False, True, False, True]))
    assert (sum(found.rows), sum(found.positives)) == (4, 2)
    data = _document(**found.to_dict(), later="kept")
    profile = ReferenceProfile.from_bytes(data)
    assert profile.calibration is not None
    assert profile.calibration.positives == found.positives
    assert profile.to_bytes() == data
    assert profile.edges_id == Fleet().profile.edges_id, "windows go on adding up"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"rows": ZEROS}, id="no positives"),
        pytest.param({"rows": [1], "positives": [1]}, id="another number of bins"),
        pytest.param({"rows": ZEROS, "positives": [1, *ZEROS[1:]]}, id="more positives than rows"),
        pytest.param({"rows": [-1, *ZEROS[1:]], "positives": ZEROS}, id="less than none"),
    ],
)
def test_senseless_counts_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as raised:
        ReferenceProfile.from_bytes(_document(**bad))
    assert raised.value.code == "M04"

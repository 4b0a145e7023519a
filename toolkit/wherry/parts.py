"""The parts of a bundle, from what was checked: manifest, model, profile, golden vectors, card."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wherry_contract.bundle import CARD_FILE, Parts
from wherry_contract.calibration import Calibration
from wherry_contract.manifest import Manifest, Output
from wherry_contract.profile import build_profile

from . import __version__
from .card import model_card
from .pack import check_graph
from .project import Project
from .runtimes import claimed
from .vectors import choose_vectors

if TYPE_CHECKING:
    from .build import Checked

_LIBRARIES: Final = {
    "onnxruntime": ("onnx", "onnxruntime", "numpy", "protobuf"),
    "tflite": ("ai-edge-litert", "flatbuffers", "numpy", "tflite"),
}


def make_parts(project: Project, checked: Checked) -> Parts:
    """The parts of the bundle, from what was checked.

    Raises:
        ProbeError: P01, the runtime here does not repeat its own scores.
        SetupError: H10, no row can be a golden vector.
    """
    scorer, threshold = checked.scorer.scores, checked.report.threshold
    reference = checked.reference.raw
    scores = scorer(reference)
    edges = project.threshold.edges(scores)
    manifest = _manifest(project, checked, edges)
    tolerance = project.threshold.tolerance(project.golden.tolerance, scores)
    rows = {"reference": len(checked.reference), "check": len(checked.check)}
    parts = Parts(
        manifest=manifest,
        model=checked.converted.model,
        profile=replace(
            build_profile(
                project.input,
                reference,
                scores,
                threshold,
                score_edges=edges,
                pairs=project.drift.pairs,
            ),
            calibration=_calibration(checked),
        ),
        golden=choose_vectors(
            checked.classes,
            scorer,
            project.input,
            threshold=threshold,
            settings=replace(project.golden, tolerance=tolerance),
        ),
        documents={CARD_FILE: model_card(manifest, project.card, checked.report, rows=rows)},
    )
    check_graph(parts)
    return parts


def _calibration(checked: Checked) -> Calibration | None:
    """Of the check rows: a model flatters itself on the rows that it was trained on."""
    labels = checked.check.labels
    if labels is None or labels.dtype != np.bool_:  # a decision between classes, or a value
        return None
    return Calibration.of(checked.scorer.scores(checked.check.raw), labels)


def _manifest(project: Project, checked: Checked, edges: tuple[float, ...]) -> Manifest:
    converted = checked.converted
    return Manifest(
        name=project.name,
        version=project.version,
        family=project.family,
        runtime=converted.needs,
        board=project.board,
        input=project.input,
        encoder=converted.encoder,
        output=Output(
            tensor=converted.tensor,
            column=converted.column,
            threshold=checked.report.threshold,
            positive=project.threshold.positive,
            classes=converted.classes,
            edges=edges,
        ),
        soak=project.soak,
        fallback=project.fallback,
        provenance=_provenance(project, checked),
        reaction=project.drift.reaction,
    )


def _provenance(project: Project, checked: Checked) -> dict[str, Any]:
    """Digests, versions and measured figures; no date and no path, so that it can be made again."""
    report = checked.report
    libraries = _LIBRARIES[checked.converted.needs.kind]
    tools = {name: version(name) for name in libraries} | dict(checked.source.versions)
    return {
        "source": {"kind": project.source.kind, "digest": checked.source.digest},
        "data": {
            "reference": {"digest": checked.reference.digest, "rows": len(checked.reference)},
            "check": {"digest": checked.check.digest, "rows": len(checked.check)},
        },
        "tools": tools | {"wherry": __version__},
        "notes": list(checked.converted.notes),
        "measured": {
            "flips": report.flips,
            "edge_flips": report.edge_flips,
            "metrics": {name: found.to_dict() for name, found in report.metrics.items()},
        }
        | _versions(project, checked),
    }


def _versions(project: Project, checked: Checked) -> dict[str, Any]:
    """Under what golden vectors agree: a version that disagrees lets nothing be packed."""
    if project.runtimes == "here":
        return {}
    return {"runtimes": [str(item) for item in claimed(checked.converted.needs)]}

"""A student for other libraries, by the name of the form; forms that cannot be exact are refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.convert.student_onnx import export_onnx
from vldistill.convert.student_sides import SIDES, StudentParts
from vldistill.convert.student_transformers import export_transformers, to_transformers
from vldistill.errors import ConfigError, unknown

FORMS = {
    "onnx": "a file for each side, for onnxruntime and others",
    "transformers": "a model of transformers with its own code (AutoModel, trust_remote_code=True)",
}
REFUSED = {
    "open_clip": "open_clip's heads are one linear layer, or two without biases",
    "vision_text_dual_encoder": "VisionTextDualEncoder's heads are one linear layer on the towers' own pooling",
}

__all__ = ["FORMS", "REFUSED", "export_student", "to_transformers"]


def export_student(student: StudentParts, folder: Path, to: str, sides: Sequence[str] = SIDES) -> Path:
    """Write a student in the form ``to``. Raises ConfigError for a form that cannot be exact."""
    if to in REFUSED:
        towers = f"{student.bench.image_tower.name!r} and {student.bench.text_tower.name!r}"
        raise ConfigError(
            f"a student on {towers} cannot be exported to {to}: {REFUSED[to]}, while a student's have a residual and a "
            f"LayerNorm, which they cannot compute. Export it to onnx or transformers, which are exact."
        )
    if to not in FORMS:
        raise ConfigError(unknown("form of export", to, FORMS))
    if to == "transformers" and set(sides) != set(SIDES):
        raise ConfigError(f"sides is {list(sides)}; a model of transformers has both. Leave sides out, or use onnx.")
    return export_onnx(student, folder, sides) if to == "onnx" else export_transformers(student, folder)

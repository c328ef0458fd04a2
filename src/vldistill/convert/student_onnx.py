"""A student as ONNX: a file for each side, its tokenizer, and a record of what its inputs are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vldistill.convert.student_record import record_of, written_whole
from vldistill.convert.student_sides import (
    SIDES,
    ImageSide,
    Inputs,
    StudentParts,
    TextSide,
    example_images,
    example_texts,
    image_side,
    text_side,
)
from vldistill.errors import ConfigError, MissingExtraError, unknown

OPSET = 18
TOLERANCE = 1e-4  # between embeddings of length 1: rounding of float32 is far below, an error of the export far above


def export_onnx(student: StudentParts, folder: Path, sides: Collection[str] = SIDES) -> Path:
    """Write ``image.onnx``, ``text.onnx``, the tokenizer and ``export.json``, after a comparison with onnxruntime.

    Args:
        student: to export.
        folder: new or empty; it appears complete or not at all.
        sides: ``image``, ``text`` or both.

    Raises:
        ConfigError: a side that cannot be exported, or that computes something else in onnxruntime; the tower is named.
        MissingExtraError: without the extra ``onnx``.
    """
    for side in sides:
        if side not in SIDES:
            raise ConfigError(unknown("side", side, SIDES))
    _require()
    made = {side: image_side(student) if side == "image" else text_side(student) for side in SIDES if side in sides}
    with written_whole(folder) as temporary:
        off = {side: _side(student, side, module, temporary) for side, module in made.items()}
        record_of(student, tuple(made), {"format": "onnx", "opset": OPSET, "largest_difference": off}, temporary)
    return folder


def _require() -> None:
    """Raises MissingExtraError with the command that installs what is missing."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"exports to ONNX need the package {name}, which is not installed: pip install 'vldistill[onnx]'"
            )


def _side(student: StudentParts, side: str, module: nn.Module, folder: Path) -> float:
    """Write one side; returns the largest difference of an embedding's entry. Raises ConfigError."""
    tower = student.bench.image_tower.name if side == "image" else student.bench.text_tower.name
    examples = example_images if side == "image" else example_texts
    path = folder / f"{side}.onnx"
    try:
        with _quiet():
            _export(module, examples(student, 2), path)
    except Exception as error:  # torch's exporter and onnx raise nearly anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"{side} tower {tower!r} cannot be exported to ONNX ({reason}). Export the other side alone, sides=[...], "
            f"or train a student on another tower."
        ) from None
    found = max(_difference(module, path, examples(student, count)) for count in (1, 3))
    if not found <= TOLERANCE:
        raise ConfigError(
            f"{side} tower {tower!r} computes something else in onnxruntime: embeddings differ by {found:.2g}, more "
            f"than {TOLERANCE:g}. Export the other side alone, sides=[...], or train a student on another tower."
        )
    return found


def _export(module: nn.Module, inputs: Inputs, path: Path) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    names = ["pixel_values"] if isinstance(module, ImageSide) else ["input_ids", "attention_mask"][: len(inputs)]
    axes: dict[int, Any] = {0: batch, 1: length} if isinstance(module, TextSide) else {0: batch}
    torch.onnx.export(
        module,
        inputs,
        str(path),
        input_names=names,
        output_names=["embeddings"],
        dynamic_shapes=dict.fromkeys(names, axes),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _difference(module: nn.Module, path: Path, inputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of an entry between the module and onnxruntime on the CPU."""
    onnxruntime = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {one.name: tensor.numpy() for one, tensor in zip(session.get_inputs(), inputs)}
    found = np.asarray(session.run(None, given)[0])
    with torch.no_grad():
        wanted = module(*inputs).numpy()
    return float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of torch's exporter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)

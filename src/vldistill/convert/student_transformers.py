"""A student as a model of transformers: weights, configuration, the code of its model, tokenizer and image processor.

The model is a class of its own: heads have a residual and a LayerNorm, VisionTextDualEncoder and open_clip have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vldistill.config.plain import Plain
from vldistill.convert.student_record import record_of, written_whole
from vldistill.convert.student_sides import (
    SIDES,
    ImageSide,
    StudentParts,
    TextSide,
    example_images,
    example_texts,
    image_side,
    text_side,
)
from vldistill.encoders.text_towers import TransformersTextTower
from vldistill.errors import ConfigError
from vldistill.storage.files import write_json

if TYPE_CHECKING:
    from vldistill.convert.modeling_vldistill import VldistillConfig, VldistillModel

TOLERANCE = 1e-5  # between embeddings of length 1, by the same library
REMEDY = "Export it to ONNX, or train a student on towers of timm and transformers."


def to_transformers(student: StudentParts) -> VldistillModel:
    """The student as a model of transformers, on the CPU and in float32.

    Raises:
        ConfigError: a tower that is not of timm or transformers, or that computes something else there.
    """
    from vldistill.convert.modeling_vldistill import VldistillModel

    _check_towers(student)
    images, texts = image_side(student), text_side(student)
    assert isinstance(texts, TextSide)
    try:
        model = VldistillModel(_config(student, images, texts)).eval()
        model.image_tower.load_state_dict(images.tower.state_dict())
        model.text_tower.load_state_dict(texts.model.state_dict())
        for own, rest in ((model.image_rest, images.rest), (model.text_rest, texts.rest)):
            own.load_state_dict(_renamed(own, rest))
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        names = f"{student.bench.image_tower.name!r} and {student.bench.text_tower.name!r}"
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"the towers {names} cannot be rebuilt for transformers ({reason}). {REMEDY}") from None
    _compare(student, model)
    return model


def export_transformers(student: StudentParts, folder: Path) -> Path:
    """Write the model with its code, tokenizer and image processor; it is read back and compared.

    Raises:
        ConfigError: a tower that is not of timm or transformers, or that computes something else there.
    """
    from transformers import AutoModel

    from vldistill.convert.modeling_vldistill import VldistillConfig, VldistillModel

    model = to_transformers(student)
    VldistillConfig.register_for_auto_class()
    VldistillModel.register_for_auto_class("AutoModel")
    with written_whole(folder) as temporary:
        model.save_pretrained(temporary)
        write_json(temporary / "preprocessor_config.json", _processor(student))
        record_of(student, SIDES, {"format": "transformers", "trust_remote_code": True}, temporary)
        try:  # the code is our own, just written
            _compare(student, AutoModel.from_pretrained(temporary, trust_remote_code=True).eval())
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            tower = student.bench.image_tower.name
            raise ConfigError(f"image tower {tower!r} cannot be read back ({reason}). {REMEDY}") from None
    return folder


def _check_towers(student: StudentParts) -> None:
    """Refuse towers that transformers and timm do not have, or cannot read back. Raises ConfigError."""
    image, text = student.bench.image_tower, student.bench.text_tower
    kept = image.state_dict().keys()
    if tables := [name for name, _ in image.named_buffers() if name not in kept]:
        raise ConfigError(
            f"image tower {image.name!r} has {len(tables)} tables outside of its weights, such as {tables[0]}, which "
            f"transformers does not read back. {REMEDY}"
        )
    if not (getattr(image.model, "pretrained_cfg", None) or {}).get("architecture"):
        raise ConfigError(f"image tower {image.name!r} is not of timm, so transformers cannot build it. {REMEDY}")
    if not isinstance(text, TransformersTextTower):
        raise ConfigError(f"text tower {text.name!r} is not of transformers. {REMEDY}")


def _config(student: StudentParts, images: ImageSide, texts: TextSide) -> VldistillConfig:
    from timm.data.config import resolve_model_data_config

    from vldistill.convert.modeling_vldistill import VldistillConfig

    bench, tower = student.bench, student.bench.image_tower
    known: Any = images.tower
    native = int(tower.options.get("img_size") or resolve_model_data_config(known)["input_size"][-1])  # pyright: ignore
    text: Any = texts.model
    heads = bench.setting in ("heads", "both")
    return VldistillConfig(
        image={
            "architecture": known.pretrained_cfg["architecture"],
            "options": dict(tower.options),
            "size": tower.size,
            "native_size": native,
            "width": tower.width,
        },
        text={name: value for name, value in text.config.to_dict().items() if name not in ("dtype", "torch_dtype")},
        pooling=getattr(bench.text_tower, "pooling", "mean"),
        embedded=texts.embedded,
        standardised={"heads": ("image", "text"), "both": ()}.get(bench.setting, ("text",)),
        heads=("image", "text") if heads else ("text",),
        dim=bench.embedding_width,
        logit_scale=float(student.encoder.logit_scale),
    )


def _renamed(own: torch.nn.Module, rest: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of what comes after a tower, under the names of the model; both have the same order."""
    names, tensors = own.state_dict().keys(), rest.state_dict().values()
    return dict(zip(names, tensors, strict=True))


def _processor(student: StudentParts) -> dict[str, Plain]:
    """The image processor: squashed to a square by bicubic interpolation, as the student reads photos."""
    tower = student.bench.image_tower
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": tower.size, "width": tower.size},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
    }


@torch.no_grad()
def _compare(student: StudentParts, model: VldistillModel) -> None:
    """Refuse a model that computes something else than the student. Raises ConfigError."""
    images, texts = example_images(student, 2), example_texts(student, 3)
    found = {
        "image": (model.get_image_features(*images), image_side(student)(*images)),
        "text": (model.get_text_features(*texts), text_side(student)(*texts)),
    }
    for side, (own, wanted) in found.items():
        off = float((own - wanted).abs().max())
        if not off <= TOLERANCE:
            tower = student.bench.image_tower if side == "image" else student.bench.text_tower
            raise ConfigError(
                f"{side} tower {tower.name!r} computes something else in transformers: embeddings differ by {off:.2g}, "
                f"more than {TOLERANCE:g}. {REMEDY}"
            )

"""The image or text side of a CLIP model of open_clip (extra ``clip``): ``open_clip:MODEL`` or ``...MODEL.TAG``.

Features are CLIP's embeddings before normalisation, so both sides have the width of its shared space.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from vldistill.config import ImageTowerConfig, TextTowerConfig, expand
from vldistill.config.plain import Plain, Record, expect
from vldistill.encoders.tower import ImageTower, ProgressHook, read_weights, refused_as, weights_digest
from vldistill.errors import ArtefactError, ConfigError, MissingExtraError, unknown
from vldistill.runtime.devices import moved
from vldistill.storage.files import digest
from vldistill.storage.hub import bounded_look_up

if TYPE_CHECKING:
    from open_clip import CLIP, CustomTextCLIP

PREFIX = "open_clip:"
DEFAULT_TAG = "openai"


def clip_image_tower(config: ImageTowerConfig) -> ImageTower:
    """The image side. Raises ConfigError, ArtefactError or MissingExtraError with the remedy."""
    model, note = _build(config.name, config.weights, config.options, config.size, "image")
    visual = model.visual.eval()
    own = _library().get_model_preprocess_cfg(model)
    size = own["size"][0] if isinstance(own["size"], Sequence) else int(own["size"])
    with torch.no_grad():
        width = visual(torch.zeros(1, 3, size, size)).shape[1]
    mean, std = config.mean or own["mean"], config.std or own["std"]
    return ImageTower(visual, config.name, width, size, mean, std, {**config.options, **note})


class ClipTextTower:
    """The text side, as CLIP was trained: with its own tokenizer, pooling and projection."""

    def __init__(self, config: TextTowerConfig, device: torch.device, batch: int = 256) -> None:
        self.name, self.max_tokens, self.batch = config.name, config.max_tokens, batch
        self.model, self.note = _build(config.name, config.weights, config.options, 0, "text")
        del self.model.visual
        self.options = dict(config.options)
        model, remedy = str(self.note["open_clip"]), "Connect once, so that its tokenizer is in the cache."
        with _quiet(), _looked_up(model, False, f"text tower {config.name!r}", remedy):
            self.tokenizer = _library().get_tokenizer(model)
        self.model.eval().requires_grad_(False)
        self.context = int(self.model.context_length)
        if config.max_tokens > self.context:
            raise ConfigError(
                f"encoder.text.max_tokens is {config.max_tokens}; expected {self.context} or less, the longest text "
                f"that text tower {config.name!r} can read."
            )
        self.device = torch.device("cpu")
        with refused_as(
            f"text tower {config.name!r} with encoder.text.options {config.options} cannot encode captions",
            "Its vocab_size must be at least that of its tokenizer.",
        ):
            self.width = self._forward(["a", "a " * self.max_tokens]).shape[1]
        self.device = device
        self.model.to(device)

    @torch.no_grad()
    def _forward(self, captions: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(list(captions), context_length=self.max_tokens)
        padded = tokens.new_zeros(len(tokens), self.context)
        padded[:, : tokens.shape[1]] = tokens
        return self.model.encode_text(moved(padded, self.device)).float().cpu()

    def encode(self, captions: Sequence[str], progress: ProgressHook | None = None) -> torch.Tensor:
        """Sentence vectors (M, width)."""
        out = torch.empty(len(captions), self.width)
        for start in range(0, len(captions), self.batch):
            part = captions[start : start + self.batch]
            out[start : start + len(part)] = self._forward(part)
            if progress:
                progress(len(part))
        return out

    def fingerprint(self) -> str:
        """A hash of the model, its options and weights, and the token limit."""
        return digest("clip text", self.note, self.options, weights_digest(self.model), self.max_tokens)


def _library() -> ModuleType:
    """The module open_clip. Raises MissingExtraError naming the command that installs it."""
    try:
        with _quiet():
            import open_clip
    except ImportError:
        raise MissingExtraError(
            f"towers named {PREFIX}MODEL need the package open_clip_torch, which is not installed: "
            f"pip install 'vldistill[clip]'"
        ) from None
    return open_clip


def _quiet() -> warnings.catch_warnings[None]:
    """Hide the warning about the vocabulary file that open_clip does not close."""
    return warnings.catch_warnings(action="ignore", category=ResourceWarning)


def _build(
    name: str, weights: str, options: Record, size: int, side: str
) -> tuple[CLIP | CustomTextCLIP, dict[str, str | bool]]:
    """A CLIP model in float32, and what determines its features besides the weights."""
    library = _library()
    model_name, _, tag = name.removeprefix(PREFIX).partition(".")
    if model_name not in library.list_models():
        raise ConfigError(unknown(f"{side} tower of open_clip", model_name, library.list_models()))
    tags: list[str] = library.list_pretrained_tags_by_model(model_name)
    quick, chosen = bool(library.get_model_config(model_name).get("quick_gelu")), None
    if tag or weights == "hub":
        chosen = tag or DEFAULT_TAG
        if chosen not in tags:
            raise ConfigError(f"{side} tower {name!r}: " + unknown(f"weights of {model_name}", chosen, tags))
        quick = bool(library.get_pretrained_cfg(model_name, chosen).get("quick_gelu"))
    remedy = f"Connect once, or set encoder.{side}.weights to a .safetensors file or to 'random'."
    with (
        _looked_up(model_name, weights == "hub", f"{side} tower {name!r}", remedy),
        refused_as(
            f"{side} tower {name!r} could not be built with weights={weights!r} and options={dict(options)}",
            f"Check the options, or set encoder.{side}.weights to a .safetensors file or to 'random' when the hub "
            f"cannot be reached.",
        ),
    ):
        model = library.create_model(
            model_name,
            pretrained=chosen if weights == "hub" else None,
            pretrained_text=False,
            force_quick_gelu=quick,
            force_image_size=size or None,
            device=torch.get_default_device(),
            **_merged(library.get_model_config(model_name), options, size),
        )
    if weights not in ("hub", "random"):
        path = Path(expand(weights))
        found = read_weights(path, f"{side} tower weights", model.state_dict().keys())
        try:
            model.load_state_dict(found)
        except RuntimeError as error:
            raise ArtefactError(
                f"weights {path} do not fit {name!r}: {str(error).splitlines()[-1].strip()} Expected a file of the "
                f"whole model, as open_clip saves it."
            ) from None
    return model, {"open_clip": model_name, "quick_gelu": quick}


def _looked_up(model: str, pretrained: bool, what: str, remedy: str) -> AbstractContextManager[None]:
    """While a part of a model is made: within bounds where that asks the hub. Raises HubError."""
    text = _library().get_model_config(model).get("text_cfg", {})
    asks = pretrained or any(str(name).startswith("hf_") for name in text)
    return bounded_look_up(what, remedy) if asks else nullcontext()


def _merged(config: Record, options: Record, size: int) -> dict[str, Plain]:
    """``options`` for the constructor; vision_cfg and text_cfg override single entries of the model's own."""
    out = copy.deepcopy(dict(options))
    for part in ("vision_cfg", "text_cfg"):
        if part in out:
            out[part] = {**expect(config[part], dict), **expect(out[part], dict)}
    if size and "vision_cfg" in out:
        out["vision_cfg"] = {**expect(out["vision_cfg"], dict), "image_size": size}
    return out

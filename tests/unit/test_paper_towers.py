"""The towers of the founding paper: full size without numbers, and small with random numbers through the main path."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vldistill.cli import main
from vldistill.config import DistillConfig, EvaluateConfig, ExpertsConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import make_start
from vldistill.encoders.build import build_image_tower, build_text_tower
from vldistill.errors import ArtefactError, ConfigError, MissingExtraError
from vldistill.evaluation.protocol import evaluate_set
from vldistill.experts.record import record_experts
from vldistill.options.resolve import resolve_distill
from vldistill.workbench.bench import Workbench

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

CPU = torch.device("cpu")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP_MOMENTS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP = "open_clip:ViT-B-32"

FULL = [  # name, width of the pooled features, own size, mean and std, parameters in millions
    ("nfnet_l0", 2304, 224, IMAGENET, 32.8),
    ("nf_resnet50", 2048, 256, IMAGENET, 23.5),
    ("nf_regnet_b1", 960, 256, IMAGENET, 9.3),
    ("vit_tiny_patch16_224", 192, 224, HALF, 5.5),
    ("resnet50", 2048, 224, IMAGENET, 23.5),
    ("resnet18_gn", 512, 224, IMAGENET, 11.2),
    (CLIP, 512, 224, CLIP_MOMENTS, 87.8),
    ("vit_base_patch32_clip_224", 768, 224, CLIP_MOMENTS, 87.5),
]


@pytest.mark.parametrize(("name", "width", "own", "moments", "millions"), FULL, ids=lambda value: str(value)[:24])
def test_width_size_and_normalisation_at_full_size(name: str, width: int, own: int, moments: Any, millions: float):
    with torch.device("meta"):  # shapes without numbers: every module is there, nothing is computed
        tower = build_image_tower(ImageTowerConfig(name, "random"))
        paper = build_image_tower(ImageTowerConfig(name, "random", size=224))
    assert (tower.width, tower.size, tower.name) == (width, own, name)
    assert (tower.mean, tower.std) == moments
    assert (paper.width, paper.size) == (width, 224)
    assert sum(p.numel() for p in tower.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert not any(isinstance(m, nn.Linear) and m.out_features == 1000 for m in tower.modules())  # no classifier


def test_group_norm_takes_the_place_of_batch_norm():
    with torch.device("meta"):
        tower = build_image_tower(ImageTowerConfig("resnet18_gn", "random"))
    kinds = {type(module) for module in tower.modules()}
    assert any(issubclass(kind, nn.GroupNorm) for kind in kinds)
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    with pytest.raises(ConfigError, match=r"'resnet18_gn' has no published weights; set encoder\.image\.weights"):
        build_image_tower(ImageTowerConfig("resnet18_gn"))


NF = {"depths": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "3x3", "num_features": 0}
CLIP_SMALL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1, "context_length": 16},
}
SMALL: dict[str, dict[str, Any]] = {
    "nfnet_l0": {**NF, "group_size": 2},
    "nf_resnet50": NF,
    "nf_regnet_b1": {**NF, "group_size": 8},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 16, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "resnet18_gn": {"layers": [1, 1, 1, 1], "channels": [32, 32, 64, 64]},
    CLIP: CLIP_SMALL,
}
TINY = {"source": "scenes:train=12,val=6,test=6"}


def main_path(bench: Workbench, folder: Path) -> None:
    """An expert, one distillation step and one evaluation."""
    config = ExpertsConfig(count=1, epochs=1, batch=12, image_rate=0.01, augment=False, steps_per_epoch=2)
    experts = record_experts(bench, config, folder)
    entry = METHODS.find("bitraj")
    method, options = entry.build(), entry.options(syn_steps=2, max_start_epoch=1, student_epochs=1)
    context = Context(
        bench,
        resolve_distill(DistillConfig(method="bitraj", pairs=3, student_rate_image=0.01), bench.setting),
        options,
        experts,
    )
    method.check(context)
    state = method.setup(make_start(bench, "real", 3, 0), context)
    step: Any = getattr(method, "step")  # noqa: B009
    gradients = step(state, context).gradients
    assert gradients.keys() == {"images", "texts", "log_rate_image", "log_rate_text"}
    assert all(bool(g.isfinite().all()) and float(g.norm()) > 0 for g in gradients.values())
    for name, gradient in gradients.items():
        state.variables[name].sub_(0.1 * gradient / gradient.norm())
    made = method.export(state, context)
    judged = EvaluateConfig(generic="generic-v1", seeds=1, generic_epochs=1, head_rates=(0.03,), tower_rates=(0.003,))
    result = evaluate_set(bench, made, judged)
    assert 0 <= result.scores()["generic"].mean_recall.mean <= 100 and result.setting == bench.setting


@pytest.mark.parametrize("name", SMALL)
def test_image_towers_go_the_whole_way(name: str, workbench: Bench, tmp_path: Path):
    image = ImageTowerConfig(name, "random", 0 if "img_size" in SMALL[name] else 32, SMALL[name])
    bench = workbench("full", image=image, **TINY)
    main_path(bench, tmp_path / "experts")
    assert bench.image_tower.name == name and bench.image_tower.size == 32


# --- text towers --------------------------------------------------------------------------------------------------

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangle",
    "is",
    "left",
    "right",
    "of",
    "the",
    "big",
    "small",
]
CAPTIONS = ["a red circle", "the big blue square is left of the small green triangle", "unheard words of a poet"]


def save_text_model(kind: str, folder: Path) -> Path:
    """A tiny BERT or DistilBERT with its vocabulary, as transformers saves them, under a masked-word head."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    words: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pieces)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "bert" else [])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=names, model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    common: dict[str, Any] = {"vocab_size": len(vocabulary), "max_position_embeddings": 32}
    if kind == "bert":
        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        model: Any = transformers.BertForMaskedLM(transformers.BertConfig(**common, **sizes))
    else:
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        model = transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**common, **sizes))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def text_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return save_text_model(request.param, tmp_path_factory.mktemp(request.param))


def text(folder: Path | str, **changes: Any) -> TextTowerConfig:
    return TextTowerConfig(str(folder), **{"max_tokens": 16, **changes})


@pytest.mark.parametrize("weights", ["hub", "random"])
def test_text_towers_go_the_whole_way(weights: str, text_model: Path, workbench: Bench, tmp_path: Path):
    main_path(workbench("heads", text=text(text_model, weights=weights), **TINY), tmp_path / "experts")


def test_text_weights_from_the_folder_from_a_file_and_random(text_model: Path, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    (text_model / "model.safetensors").rename(file)
    try:
        with pytest.raises(ConfigError, match="could not be loaded"):
            build_text_tower(text(text_model), CPU)
        from_file = build_text_tower(text(text_model, weights=str(file)), CPU)
    finally:
        file.rename(text_model / "model.safetensors")
    hub = build_text_tower(text(text_model), CPU)
    torch.testing.assert_close(from_file.encode(CAPTIONS), hub.encode(CAPTIONS), rtol=0, atol=0)
    assert from_file.fingerprint() == hub.fingerprint()
    random = [build_text_tower(text(text_model, weights="random", seed=seed), CPU) for seed in (0, 0, 1)]
    prints = [tower.fingerprint() for tower in random]
    assert prints[0] == prints[1] != prints[2] and hub.fingerprint() not in prints


@pytest.mark.parametrize("prefix", ["module.", "text_encoder.", "module.text.transformer."])
def test_text_weights_under_the_prefix_of_another_code(text_model: Path, tmp_path: Path, prefix: str):
    weights = {f"{prefix}{name}": value for name, value in load_file(text_model / "model.safetensors").items()}
    save_file(weights | {"logit_scale": torch.ones(1)}, tmp_path / "w.safetensors")
    found = build_text_tower(text(text_model, weights=str(tmp_path / "w.safetensors")), CPU)
    assert found.fingerprint() == build_text_tower(text(text_model), CPU).fingerprint()


def test_text_options_change_the_network(text_model: Path):
    depth = "n_layers" if "dim" in json.loads((text_model / "config.json").read_text()) else "num_hidden_layers"
    small: Any = build_text_tower(text(text_model, weights="random", options={depth: 1}), CPU)
    plain: Any = build_text_tower(text(text_model, weights="random"), CPU)
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in plain.model.parameters())
    assert small.fingerprint() != plain.fingerprint()
    # The same weights that compute something else: the fingerprint has to know.
    act = "activation" if depth == "n_layers" else "hidden_act"
    other = build_text_tower(text(text_model, options={act: "relu"}), CPU)
    assert other.fingerprint() != build_text_tower(text(text_model), CPU).fingerprint()
    with pytest.raises(ConfigError, match=r"its configuration has no \['deepness'\]"):
        build_text_tower(text(text_model, options={"deepness": 3}), CPU)


def test_wrong_text_weights_are_refused(text_model: Path, tmp_path: Path):
    weights = load_file(text_model / "model.safetensors")
    name = next(name for name in weights if "layer.1" in name and name.endswith("weight"))
    save_file({n: t for n, t in weights.items() if n != name}, tmp_path / "less.safetensors")
    with pytest.raises(ConfigError, match=r"its weights lack 1 tensors .*check encoder\.text\.weights"):
        build_text_tower(text(text_model, weights=str(tmp_path / "less.safetensors")), CPU)
    with pytest.raises(ArtefactError, match="does not exist"):
        build_text_tower(text(text_model, weights=str(tmp_path / "none.safetensors")), CPU)
    with pytest.raises(ConfigError, match=r"encoder\.text\.weights is 'hubb'; expected hub, random, or the path"):
        text(text_model, weights="hubb")


# --- CLIP ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small CLIP made by open_clip itself, and the file of its weights."""
    import open_clip

    base: Any = open_clip.get_model_config("ViT-B-32")
    sides: dict[str, Any] = {part: {**base[part], **CLIP_SMALL[part]} for part in ("vision_cfg", "text_cfg")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = open_clip.create_model("ViT-B-32", embed_dim=12, **sides).eval()
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@torch.no_grad()
def test_both_sides_of_clip_are_open_clips_own(clip: tuple[Any, Path]):
    import open_clip

    model, path = clip
    image = build_image_tower(ImageTowerConfig(CLIP, str(path), options=CLIP_SMALL))
    pictures = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image(pictures), model.encode_image(pictures))
    assert (image.width, image.size, (image.mean, image.std)) == (12, 32, CLIP_MOMENTS)
    words = build_text_tower(text(CLIP, weights=str(path), options=CLIP_SMALL), CPU)
    many = [*CAPTIONS, "word " * 40]
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)(many)
    torch.testing.assert_close(words.encode(many), model.encode_text(tokens))
    shorter = build_text_tower(text(CLIP, weights=str(path), options=CLIP_SMALL, max_tokens=6), CPU)
    cut = open_clip.get_tokenizer("ViT-B-32", context_length=6)(many)
    expected = model.encode_text(torch.nn.functional.pad(cut, (0, 10)))
    torch.testing.assert_close(shorter.encode(many), expected)
    assert len({image.fingerprint(), words.fingerprint(), shorter.fingerprint()}) == 3
    # The same weights with the other activation are another network.
    quick = ImageTowerConfig(f"{CLIP}-quickgelu", str(path), options=CLIP_SMALL)
    assert build_image_tower(quick).fingerprint() != image.fingerprint()


def test_clip_on_both_sides_goes_the_whole_way(workbench: Bench, tmp_path: Path):
    image = ImageTowerConfig(CLIP, "random", options=CLIP_SMALL)
    main_path(workbench("heads", image=image, text=text(CLIP, weights="random", options=CLIP_SMALL), **TINY), tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        ("open_clip:ViT-B-33", "random", {}, "unknown image tower of open_clip 'ViT-B-33'. Did you mean ViT-B-32"),
        (f"{CLIP}.openia", "hub", {}, "unknown weights of ViT-B-32 'openia'. Did you mean openai"),
        (CLIP, "random", {"embed_dims": 3}, "could not be built with weights='random'.*embed_dims"),
        (CLIP, "hub", {}, "huggingface.co .*or to 'random'"),
    ],
)
def test_clips_that_cannot_be_built(name: str, weights: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build_image_tower(ImageTowerConfig(name, weights, options=options))


def test_clip_weights_of_parallel_training(clip: tuple[Any, Path], tmp_path: Path):
    save_file({f"module.{name}": value for name, value in load_file(clip[1]).items()}, tmp_path / "w.safetensors")
    towers = [
        build_image_tower(ImageTowerConfig(CLIP, str(path), options=CLIP_SMALL))
        for path in (clip[1], tmp_path / "w.safetensors")
    ]
    assert towers[0].fingerprint() == towers[1].fingerprint()


def test_clip_weights_and_texts_that_do_not_fit(clip: tuple[Any, Path], tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"do not fit 'open_clip:ViT-B-32'.*a file of the whole model"):
        wide = {**CLIP_SMALL, "embed_dim": 14}
        build_image_tower(ImageTowerConfig(CLIP, str(clip[1]), options=wide))
    with pytest.raises(ConfigError, match=r"max_tokens is 64; expected 16 or less"):
        build_text_tower(text(CLIP, weights="random", options=CLIP_SMALL, max_tokens=64), CPU)
    small = {**CLIP_SMALL, "text_cfg": {**CLIP_SMALL["text_cfg"], "vocab_size": 100}}
    with pytest.raises(ConfigError, match="vocab_size must be at least that of its tokenizer"):
        build_text_tower(text(CLIP, weights="random", options=small), CPU)


def test_without_the_extra_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for build in (
        lambda: build_image_tower(ImageTowerConfig(CLIP, "random")),
        lambda: build_text_tower(text(CLIP, weights="random"), CPU),
    ):
        with pytest.raises(ImportError, match=r"pip install 'vldistill\[clip\]'") as caught:
            build()
        assert isinstance(caught.value, MissingExtraError)
    words = ["experts", "--run", str(tmp_path / "run"), "--data.source", TINY["source"], "--encoder.image.name", CLIP]
    assert main([*words, "--encoder.image.weights", "random"]) == 2
    assert "pip install 'vldistill[clip]'" in capsys.readouterr().err and not (tmp_path / "run").exists()

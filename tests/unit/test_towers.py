"""Towers against timm, transformers and scikit-learn themselves, with weights made on the spot."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tiny_bert import write_bert
from vldistill.config import ImageTowerConfig, TextTowerConfig
from vldistill.encoders.build import build_image_tower, build_text_tower
from vldistill.encoders.image_towers import ConvNet
from vldistill.encoders.text_towers import HashingTextTower, TransformersTextTower
from vldistill.encoders.tower import weights_digest
from vldistill.errors import ArtefactError, ConfigError

TimmFile = Callable[[str], tuple[Any, Path]]
CPU = torch.device("cpu")


def pictures(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


@contextmanager
def elsewhere() -> Iterator[None]:
    """Torch's global generator as another process may have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        yield


def pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Features as timm documents them for a network that still has its classifier."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


def local(name: str, path: Path, **changes: Any) -> ImageTowerConfig:
    return ImageTowerConfig(name=name, weights=str(path), **changes)


# --- image towers of timm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_resnet", "test_nfnet", "test_vit"])
@torch.no_grad()
def test_pooled_features_are_timms_own(name: str, timm_file: TimmFile):
    from timm.data.config import resolve_model_data_config

    model, path = timm_file(name)
    tower = build_image_tower(local(name, path))
    own = resolve_model_data_config(model)
    assert (tower.mean, tower.std, tower.size) == (own["mean"], own["std"], own["input_size"][-1])
    images = pictures(tower.size, 2)
    expected = pooled(model, images)
    assert tower(images).shape == (2, tower.width)
    torch.testing.assert_close(tower(images), expected)
    assert not tower.training and not any(module.training for module in tower.modules())


def test_mean_std_and_size_can_be_given(timm_file: TimmFile):
    _, path = timm_file("mobilenetv2_035")
    tower = build_image_tower(local("mobilenetv2_035", path, size=64, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)))
    assert (tower.size, tower.mean, tower.std) == (64, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


@torch.no_grad()
def test_constructor_options_reach_timm_and_the_fingerprint(timm_file: TimmFile):
    import timm

    _, path = timm_file("mobilenetv2_035")
    plain = build_image_tower(local("mobilenetv2_035", path, size=64))
    padded = build_image_tower(local("mobilenetv2_035", path, size=64, options={"pad_type": "same"}))
    reference = timm.create_model("mobilenetv2_035", pad_type="same").eval()
    reference.load_state_dict(load_file(path))
    images = pictures(64)
    expected = pooled(reference, images)
    torch.testing.assert_close(padded(images), expected)
    assert not torch.allclose(plain(images), expected, atol=1e-3)
    # The weights are the same, what they compute is not: features on disk must not be shared.
    assert weights_digest(plain.model) == weights_digest(padded.model)
    assert plain.fingerprint() != padded.fingerprint()


@torch.no_grad()
def test_vision_transformer_at_another_size_is_resampled_as_timm_does(timm_file: TimmFile):
    import timm

    _, path = timm_file("test_vit")
    reference = timm.create_model(
        "test_vit", pretrained=True, num_classes=0, img_size=64, pretrained_cfg_overlay={"file": str(path)}
    ).eval()
    loaded_by_timm = ImageTowerConfig("test_vit", size=64, options={"pretrained_cfg_overlay": {"file": str(path)}})
    for config in (local("test_vit", path, size=64), loaded_by_timm):
        tower = build_image_tower(config)
        assert tower.size == 64
        torch.testing.assert_close(tower(pictures(64)), reference(pictures(64)))


def test_weights_made_for_another_size_need_img_size(tmp_path: Path):
    import timm

    path = tmp_path / "vit32.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=0).state_dict(), path)
    with pytest.raises(ArtefactError, match=r"1 of another shape \['pos_embed'\].*img_size"):
        build_image_tower(local("test_vit", path, size=32))
    assert build_image_tower(local("test_vit", path, options={"img_size": 32})).size == 32


def test_a_network_of_another_kind_whose_name_holds_vit_takes_any_size():
    assert build_image_tower(ImageTowerConfig("mobilevit_xxs", "random", size=64)).width == 320


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("test_vit", 50, {}, "does not take images of 50 px.*Its own size is 160 px"),
        ("levit_128s", 64, {}, r"does not take images of 64 px.*add img_size: 64 to encoder\.image\.options"),
        ("mobilenetv2_035", 64, {"global_pool": ""}, r"\(1, 1280, 2, 2\), not one vector per image"),
        ("mobilenetv2_035", 64, {"pad_typ": "same"}, "could not be built.*pad_typ"),
        ("convnet", 16, {"depth": 5}, "convnet.*2\\*\\*depth pixels"),
        ("convnet", 16, {"depths": 3}, "convnet.*depths.*takes width and depth"),
        ("convnet", 16, {"width": -1}, "convnet.*could not be built"),
    ],
)
def test_sizes_and_options_that_cannot_work(name: str, size: int, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build_image_tower(ImageTowerConfig(name, "random", size, options))


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(ConfigError, match=r"unknown image tower 'mobilenetv2_10'.*Did you mean .*mobilenetv2_100"):
        build_image_tower(ImageTowerConfig("mobilenetv2_10", "random"))
    with pytest.raises(ConfigError, match="Did you mean convnet"):
        build_image_tower(ImageTowerConfig("convnett", "random"))


def test_wrong_weight_files_are_refused(timm_file: TimmFile, tmp_path: Path):
    _, path = timm_file("mobilenetv2_035")
    raw, weights = path.read_bytes(), load_file(path)
    (tmp_path / "cut.safetensors").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "weights.pth").write_bytes(raw)
    name = "conv_stem.weight"
    save_file({n: t for n, t in weights.items() if n != name}, tmp_path / "less.safetensors")
    save_file({**weights, "more": torch.ones(1)}, tmp_path / "more.safetensors")
    save_file({**weights, name: torch.ones(3)}, tmp_path / "shape.safetensors")
    for file, message in {
        "missing.safetensors": "does not exist",
        "cut.safetensors": "is damaged",
        "weights.pth": r"only \.safetensors files are read.*can run code",
        "less.safetensors": r"1 tensors missing \['conv_stem\.weight'\], 0 unexpected",
        "more.safetensors": r"0 tensors missing \[\], 1 unexpected \['more'\]",
        "shape.safetensors": r"1 of another shape \['conv_stem\.weight'\]",
    }.items():
        with pytest.raises(ArtefactError, match=message):
            build_image_tower(local("mobilenetv2_035", tmp_path / file))
    with pytest.raises(ArtefactError, match="do not fit the image tower"):
        build_image_tower(local("test_resnet", path))


@torch.no_grad()
def test_a_local_folder_is_loaded_by_timm(timm_file: TimmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from timm.models import save_for_hf

    model, _ = timm_file("test_resnet")
    save_for_hf(model, str(tmp_path / "mine"), safe_serialization=True)
    monkeypatch.setenv("MODELS", str(tmp_path))
    tower = build_image_tower(ImageTowerConfig("local-dir:${MODELS}/mine", "hub", size=64))
    images = pictures(64)
    torch.testing.assert_close(tower(images), pooled(model, images))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["hf-hub:nobody/no-such-tower", "local-dir:/nowhere/at-all", "test_vit.no_such_tag"])
def test_a_hub_that_cannot_be_reached_is_a_clear_error_at_once(name: str):
    why = r"could not be built with weights='hub'|is not asked \(HF_HUB_OFFLINE is set\)"
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"({why}).*\.safetensors file or to 'random'"):
        build_image_tower(ImageTowerConfig(name))
    assert time.monotonic() - began < 5


def test_hub_weights_are_the_default_and_asked_of_timm(monkeypatch: pytest.MonkeyPatch):
    import timm

    asked: list[dict[str, Any]] = []
    create = timm.create_model

    def fake(name: str, **options: Any) -> nn.Module:
        asked.append({"name": name, **options})
        return create(name, **{**options, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", fake)
    build_image_tower(ImageTowerConfig("mobilenetv2_035", size=32, options={"pad_type": "same"}))
    build_image_tower(ImageTowerConfig("mobilenetv2_035", "random", size=32))
    common = {"name": "mobilenetv2_035", "num_classes": 0}
    assert asked == [{**common, "pretrained": True, "pad_type": "same"}, {**common, "pretrained": False}]


@pytest.mark.usefixtures("untouched_generator")
def test_random_weights_come_from_the_seed_alone():
    def print_of(**changes: Any) -> str:
        return build_image_tower(ImageTowerConfig("mobilenetv2_035", "random", size=32, **changes)).fingerprint()

    first = print_of()
    with elsewhere():
        assert print_of() == first
    others = {print_of(seed=1), print_of(mean=(0.5, 0.5, 0.4)), print_of(std=(0.5, 0.5, 0.4)), first}
    assert len(others) == 4


def test_the_fingerprint_follows_weights_and_buffers(timm_file: TimmFile):
    _, path = timm_file("mobilenetv2_035")
    tower = build_image_tower(local("mobilenetv2_035", path, size=32))
    before = tower.fingerprint()
    for name in ("conv_stem.weight", "bn1.running_mean"):
        changed = copy.deepcopy(tower)
        changed.model.state_dict()[name].flatten()[0] += 1e-3
        assert changed.fingerprint() != before
    assert copy.deepcopy(tower).fingerprint() == before
    larger = build_image_tower(local("mobilenetv2_035", path, size=64))
    assert larger.fingerprint() != before


def test_train_mode_never_reaches_a_tower(timm_file: TimmFile):
    _, path = timm_file("mobilenetv2_035")
    tower = build_image_tower(local("mobilenetv2_035", path, size=32))
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    nn.ModuleDict({"tower": tower}).train()
    tower.train()
    tower(pictures(32))
    assert not any(module.training for module in tower.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


@torch.no_grad()
def test_convnet_is_the_fields(tmp_path: Path):
    tower = build_image_tower(ImageTowerConfig("convnet", "random", 16, {"width": 4, "depth": 2}, seed=3))
    assert (tower.width, tower.size, tower.mean, tower.std) == (4 * 4 * 4, 16, (0.5,) * 3, (0.25,) * 3)
    x = images = pictures(16)
    assert isinstance(tower.model, ConvNet)
    for layer in tower.model.layers:
        if isinstance(layer, nn.Conv2d):
            x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
            x = nn.functional.avg_pool2d(nn.functional.instance_norm(x).relu(), 2)
    torch.testing.assert_close(tower(images), x.flatten(1))
    save_file(tower.model.state_dict(), tmp_path / "convnet.safetensors")
    saved = build_image_tower(local("convnet", tmp_path / "convnet.safetensors", size=16, options=tower.options))
    assert saved.fingerprint() == tower.fingerprint()
    assert build_image_tower(ImageTowerConfig("convnet", "random")).width == 128 * 4 * 4
    assert ConvNet(width=2, depth=1)(torch.zeros(1, 3, 8, 8)).shape == (1, 2 * 4 * 4)


@torch.no_grad()
def test_real_weights_know_pictures(shared: Path):
    path = shared / "weights" / "mobilenetv2_035" / "mobilenetv2_035.timm.safetensors"
    tower = build_image_tower(local("mobilenetv2_035", path, size=64, options={"pad_type": "same"}))
    features = tower(pictures(64))
    assert features.shape == (3, 1280) and bool(features.isfinite().all()) and float(features.std()) > 0.05


# --- text towers ---------------------------------------------------------------------------------------------------

WORDS = ["a", "red", "blue", "circle", "square", "is", "left", "of", "big", "small", "the", "and", "dog", "cat", "runs"]
WORDS += ["on", "grass", "with", "two", "men"]
CAPTIONS = [
    "a dog",
    "two men with a big dog and a small cat on the grass",
    "a red circle is left of a blue square",
    "the cat runs",
    "grass",
    "a big red square and a small blue circle with the dog",
    "unheard words",
]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT and a WordPiece vocabulary, as transformers saves them."""
    return write_bert(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture
def bert_copy(bert: Path, tmp_path: Path) -> Path:
    """The same folder, to be damaged."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def text_config(folder: Path | str, **changes: Any) -> TextTowerConfig:
    return TextTowerConfig(name=str(folder), **{"max_tokens": 32, **changes})


@torch.no_grad()
def by_hand(folder: Path, caption: str, pooling: str, max_tokens: int = 32) -> torch.Tensor:
    """One caption alone: no batch, no padding, no mask."""
    from transformers import BertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    ids = [vocabulary.index(word) if word in vocabulary else 1 for word in caption.lower().split()]
    model = BertModel.from_pretrained(folder).eval()
    hidden = model(input_ids=torch.tensor([[2, *ids[: max_tokens - 2], 3]])).last_hidden_state[0]
    return hidden[0] if pooling == "cls" else hidden.mean(0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_sentence_vectors_are_transformers_own(bert: Path, pooling: str):
    tower = TransformersTextTower(text_config(bert, pooling=pooling), CPU, batch=3)
    counts: list[int] = []
    vectors = tower.encode(CAPTIONS, counts.append)
    assert counts == [3, 3, 1]
    assert vectors.shape == (len(CAPTIONS), tower.width) == (7, 16) and vectors.dtype == torch.float32
    expected = torch.stack([by_hand(bert, caption, pooling) for caption in CAPTIONS])
    torch.testing.assert_close(vectors, expected, atol=2e-6, rtol=1e-5)
    order = random.Random(0).sample(range(len(CAPTIONS)), len(CAPTIONS))
    shuffled = tower.encode([CAPTIONS[index] for index in order])
    torch.testing.assert_close(shuffled, vectors[order], atol=2e-6, rtol=1e-5)


def test_long_captions_are_cut(bert: Path):
    long = " ".join(["the dog runs"] * 20)
    tower = build_text_tower(text_config(bert, pooling="mean", max_tokens=8), CPU)
    torch.testing.assert_close(tower.encode([long])[0], by_hand(bert, long, "mean", 8), atol=2e-6, rtol=1e-5)


@pytest.mark.usefixtures("untouched_generator")
def test_random_text_weights_are_the_same_in_every_process(bert: Path):
    first = build_text_tower(text_config(bert, weights="random"), CPU)
    with elsewhere():
        again = build_text_tower(text_config(bert, weights="random"), CPU)
    loaded = build_text_tower(text_config(bert), CPU)
    assert torch.equal(first.encode(CAPTIONS), again.encode(CAPTIONS))
    assert not torch.allclose(first.encode(CAPTIONS), loaded.encode(CAPTIONS), atol=0.1)
    assert first.fingerprint() == again.fingerprint() != loaded.fingerprint()


def test_the_text_fingerprint_follows_weights_pooling_and_cut(bert: Path, bert_copy: Path):
    weights = load_file(bert_copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 0] += 1e-3
    save_file(weights, bert_copy / "model.safetensors", metadata={"format": "pt"})
    configs = [
        text_config(bert),
        text_config(bert, pooling="mean"),
        text_config(bert, max_tokens=16),
        text_config(bert_copy),
    ]
    prints = [build_text_tower(config, CPU).fingerprint() for config in configs]
    assert len(set(prints)) == 4
    assert build_text_tower(configs[0], CPU).fingerprint() == prints[0]


def test_half_precision_weights_are_computed_in_float32(bert_copy: Path):
    weights = load_file(bert_copy / "model.safetensors")
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, bert_copy / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((bert_copy / "config.json").read_text()) | {"dtype": "float16"}
    (bert_copy / "config.json").write_text(json.dumps(settings))
    tower: Any = TransformersTextTower(text_config(bert_copy), CPU)
    assert {parameter.dtype for parameter in tower.model.parameters()} == {torch.float32}


def test_a_missing_pooler_is_fine_and_other_missing_tensors_are_not(bert_copy: Path):
    weights = load_file(bert_copy / "model.safetensors")
    pooler = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(pooler) == len(weights) - 2
    save_file(pooler, bert_copy / "model.safetensors", metadata={"format": "pt"})
    first = build_text_tower(text_config(bert_copy), CPU).fingerprint()
    with elsewhere():
        assert build_text_tower(text_config(bert_copy), CPU).fingerprint() == first
    less = {name: tensor for name, tensor in weights.items() if "layer.1.output" not in name}
    save_file(less, bert_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights lack 4 tensors \['encoder\.layer\.1\.output"):
        build_text_tower(text_config(bert_copy), CPU)


def test_damaged_text_folders_are_refused(bert_copy: Path):
    weights = bert_copy / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ConfigError, match=r"could not be loaded.*folder with config\.json"):
        build_text_tower(text_config(bert_copy), CPU)
    weights.unlink()
    with pytest.raises(ConfigError, match="could not be loaded"):
        build_text_tower(text_config(bert_copy), CPU)
    (bert_copy / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="could not be loaded"):
        build_text_tower(text_config(bert_copy), CPU)


def test_text_towers_that_cannot_encode_are_refused_before_the_work(bert: Path, bert_copy: Path):
    with pytest.raises(ConfigError, match=r"encoder\.text\.max_tokens is 65; expected 64 or less"):
        build_text_tower(text_config(bert, max_tokens=65), CPU)
    about = json.loads((bert_copy / "tokenizer_config.json").read_text())
    (bert_copy / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in about.items() if k != "pad_token"}))
    with pytest.raises(ConfigError, match=r"cannot encode captions of 32 tokens.*a padding token"):
        build_text_tower(text_config(bert_copy), CPU)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/no/such/folder"])
def test_missing_text_folders_are_refused(name: str):
    with pytest.raises(ConfigError, match=r"no such folder\. Give a local folder or a hub name"):
        build_text_tower(text_config(name), CPU)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("weights", ["hub", "random"])
def test_a_text_hub_that_cannot_be_reached_is_a_clear_error_at_once(weights: str):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"is not asked .*Give a hub name that can be reached.*'hashing'"):
        build_text_tower(text_config("nobody/no-such-tower", weights=weights), CPU)
    assert time.monotonic() - began < 5


def test_a_real_sentence_encoder_knows_meanings(shared: Path):
    tower = build_text_tower(text_config(shared / "weights" / "minilm-l6", pooling="mean"), CPU)
    vectors = tower.encode(["a dog runs over grass", "the puppy is playing in a meadow", "two men repair a red car"])
    near, far = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert vectors.shape == (3, 384) and near > far + 0.3


def test_hashed_captions_are_scikit_learns():
    from sklearn.feature_extraction.text import HashingVectorizer

    tower = HashingTextTower(64)
    many = [f"{caption} {number}" for number in range(700) for caption in CAPTIONS]  # more than one chunk
    counts: list[int] = []
    vectors = tower.encode(many, counts.append)
    expected: Any = HashingVectorizer(n_features=64, ngram_range=(1, 3), token_pattern=r"\b\w+\b").transform(many)
    assert torch.equal(vectors, torch.tensor(expected.toarray(), dtype=torch.float32))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(many)))
    assert len(counts) == 2 and sum(counts) == len(many)
    assert tower.encode([]).shape == (0, 64)
    assert tower.fingerprint() == HashingTextTower(64).fingerprint() != HashingTextTower(32).fingerprint()
    assert isinstance(build_text_tower(TextTowerConfig(), CPU), HashingTextTower)

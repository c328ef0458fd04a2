"""Students for other libraries, ONNX by onnxruntime and transformers, against the student's own embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny_bert import write_bert

import vldistill as vd
from vldistill import cli
from vldistill.config import Config, EncoderConfig, ImageTowerConfig, LoraConfig, TextTowerConfig
from vldistill.convert.student_sides import image_side, text_side
from vldistill.errors import ArtefactError, ConfigError, MissingExtraError
from vldistill.runtime.log import Mute
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

TEXTS = ["a red circle", "two small blue squares on the left", "a"]
RESNET = ImageTowerConfig("test_resnet", "random", size=32)
LORA = {"image": ImageTowerConfig("test_vit", "random", size=32), "lora": LoraConfig(patterns=("attn.qkv",), rank=2)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TextTowerConfig:
    return TextTowerConfig(str(write_bert(tmp_path_factory.mktemp("bert"))), pooling="mean", max_tokens=16)


def make_student(text: TextTowerConfig, **changes: Any) -> vd.Student:
    """A student whose heads, adapters and standardisation are random."""
    encoder = EncoderConfig(**{"setting": "heads", "dim": 8, "image": RESNET, "text": text, **changes})
    config = Config(encoder=encoder)
    bare = Workbench(config.data, encoder, torch.device("cpu"), Mute())
    draw = torch.Generator().manual_seed(0)
    widths = {"image": bare.image_tower.width, "text": bare.text_tower.width}
    known = {
        f"{side}_{part}": torch.rand(widths[side], generator=draw) + 0.5
        for side in widths
        for part in ("mean", "scale")
    }
    bench = Workbench(config.data, encoder, torch.device("cpu"), Mute(), standardisation=known)
    student = bench.student(0)
    with torch.no_grad():
        for parameter in (one for one in student.parameters() if one.requires_grad):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return vd.Student(student.eval(), bench, config, Recipe(), {"set": "drawn"})


def picture(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))


def normalised(student: vd.Student, pictures: list[Image.Image]) -> torch.Tensor:
    tower = student.bench.image_tower
    pixels = torch.stack([torch.from_numpy(np.array(one)).movedim(-1, 0) for one in pictures]) / 255
    return (pixels - torch.tensor(tower.mean).view(3, 1, 1)) / torch.tensor(tower.std).view(3, 1, 1)


@pytest.mark.parametrize(
    "changes", [{}, {"setting": "full"}, {"setting": "lora", **LORA}, {"setting": "both"}], ids=str
)
def test_sides_and_transformers_give_the_students_embeddings(
    bert: TextTowerConfig, changes: dict[str, Any], tmp_path: Path
) -> None:
    student = make_student(bert, **changes)
    pictures = [picture(32), picture(32)]
    inputs, tokens = normalised(student, pictures), student.bench.text_tower.tokens(TEXTS)  # pyright: ignore
    wanted = student.encode_image(pictures), student.encode_text(TEXTS)
    sides = image_side(student._parts)(inputs), text_side(student._parts)(tokens["input_ids"], tokens["attention_mask"])
    model: Any = student.to_transformers()
    found = model(pixel_values=inputs, **tokens)
    for own, side, other in zip(wanted, sides, (found.image_embeds, found.text_embeds)):
        torch.testing.assert_close(side, own, atol=2e-6, rtol=0)
        torch.testing.assert_close(other, own, atol=2e-6, rtol=0)
    logits = student.encoder.logits(*wanted)
    torch.testing.assert_close(found.logits_per_image, logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_folder_of_transformers_needs_no_vldistill(bert: TextTowerConfig, tmp_path: Path) -> None:
    student = make_student(bert)
    with pytest.raises(ArtefactError, match="is there already and is not empty"):
        student.export(Path(bert.name), "transformers")
    student.export(tmp_path / "out", "transformers")
    picture(32).save(tmp_path / "photo.png")
    code = (
        "import sys; sys.modules['vldistill'] = None\n"
        "from PIL import Image; from transformers import AutoImageProcessor, AutoModel, AutoTokenizer\n"
        "folder, photo, *texts = sys.argv[1:]\n"
        "model, process, tokenize = (kind.from_pretrained(folder, trust_remote_code=True)\n"
        "    for kind in (AutoModel, AutoImageProcessor, AutoTokenizer))\n"
        "pixels = process(Image.open(photo), return_tensors='pt')\n"
        "tokens = tokenize(texts, padding=True, return_tensors='pt')\n"
        "print(model.get_image_features(**pixels).tolist(), model.get_text_features(**tokens).tolist(), sep='\\n')\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "out"), str(tmp_path / "photo.png"), *TEXTS]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[["), done.stdout[:300] + done.stderr[-300:]
    images, texts = (torch.tensor(json.loads(line)) for line in done.stdout.splitlines())
    torch.testing.assert_close(images[0], student.encode_image(tmp_path / "photo.png"), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, student.encode_text(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm, which resizes tables of positions
def test_what_cannot_be_exact_is_refused_by_its_tower(bert: TextTowerConfig, tmp_path: Path) -> None:
    small = make_student(bert, image=ImageTowerConfig("convnet", size=16, options={"width": 8}))
    words = make_student(TextTowerConfig("hashing", width=16))
    swin = make_student(
        bert, image=ImageTowerConfig("swin_s3_tiny_224", "random", size=64, options={"depths": (1, 1, 1, 1)})
    )
    refused = {
        "image tower 'convnet' is not of timm.*Export it to ONNX": (small, "transformers"),
        "text tower 'hashing' is not of transformers.*Export it to ONNX": (words, "transformers"),
        "image tower 'swin_s3_tiny_224' has .* tables outside of its weights": (swin, "transformers"),
        "'test_resnet' and 'hashing' cannot be exported to open_clip: .*Export it to onnx": (words, "open_clip"),
        "unknown form of export 'tflite'": (words, "tflite"),
    }
    for message, (student, to) in refused.items():
        with pytest.raises(ConfigError, match=message):
            student.export(tmp_path / "out", to)
        assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_names_the_extra(
    bert: TextTowerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr("vldistill.convert.student_onnx.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"pip install 'vldistill\[onnx\]'"):
            make_student(bert).export_onnx(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [{}, {"setting": "lora", **LORA}, {"setting": "both"}, {"image": ImageTowerConfig("convnet", size=32)}],
    ids=["heads", "lora", "both", "convnet"],
)
def test_onnxruntime_gives_the_students_embeddings(
    bert: TextTowerConfig, changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="pip install 'vldistill[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    from transformers import AutoTokenizer

    student = make_student(bert, **changes)
    student.save(tmp_path / "student")
    assert (
        cli.main(["export", "--student", str(tmp_path / "student"), "--to", "onnx", "--out", str(tmp_path / "out")])
        == 0
    )
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    record = json.loads((folder / "export.json").read_text())
    pictures = [picture(record["image"]["size"]) for _ in range(3)]
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    given = {
        "image": {"pixel_values": normalised(student, pictures).numpy()},
        "text": {name: tokens[name] for name in ("input_ids", "attention_mask")},
    }
    wanted = {"image": student.encode_image(pictures), "text": student.encode_text(TEXTS)}
    for side, inputs in given.items():
        session = onnxruntime.InferenceSession(str(folder / f"{side}.onnx"), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, inputs)[0], wanted[side].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_image_side_goes_alone_where_texts_are_counted(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'vldistill[onnx]'")
    student = make_student(TextTowerConfig("hashing", width=16))
    with pytest.raises(ConfigError, match=r"text tower 'hashing' is no network.*sides=\['image'\]"):
        student.export_onnx(tmp_path / "out")
    out = student.export_onnx(tmp_path / "out", ["image"])
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "export.json", "image.onnx"]

"""Importers, on files made in the layouts that the published codes write, and on hostile ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SCENES, make_bench

from vldistill.cli import main
from vldistill.config import EvaluateConfig
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import Head
from vldistill.errors import ArtefactError, ConfigError
from vldistill.evaluation.protocol import evaluate_set
from vldistill.experts.record import open_experts
from vldistill.importers import mtt
from vldistill.importers.lors import CLIP_MEAN, CLIP_STD, import_lors
from vldistill.importers.mtt import import_mtt
from vldistill.importers.torchfile import read_torch_file
from vldistill.workbench.bench import Workbench

TINY = [
    f"--data.source={SCENES}",
    "--encoder.image.name=convnet",
    "--encoder.image.weights=random",
    "--encoder.image.size=16",
    "--encoder.image.options={width: 8}",
    "--encoder.text.width=32",
    "--encoder.dim=16",
    "--quiet",
]
PAIRS = 5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bench(cache: Path) -> Workbench:
    return make_bench(cache, "full")


@pytest.fixture(scope="module")
def heads(cache: Path) -> Workbench:
    return make_bench(cache, "heads")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_set(**changes: Any) -> dict[str, Any]:
    """What the LoRS code saves as distilled_3000.pt."""
    w, left, right = torch.ones(PAIRS), random(PAIRS, 2, seed=1), random(PAIRS, 2, seed=2)
    record = {
        "image": random(PAIRS, 3, 16, 16, seed=3),
        "text": random(PAIRS, 32, seed=4),
        "similarity_params": [w, left, right],
        "similarity_mat": torch.diag(w) + 1.5 * left @ right.T,
        "syn_lr_img": torch.tensor(0.12),
        "syn_lr_txt": torch.tensor(0.07),
    }
    return {name: value for name, value in {**record, **changes}.items() if value is not None}


def saved(folder: Path, value: Any, name: str = "distilled_3000.pt", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(value, folder / name, **options)
    return folder / name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_published_set_is_read_for_the_towers_here(bench: Workbench, tmp_path: Path, zipped: bool) -> None:
    published = published_set()
    path = saved(tmp_path, published, _use_new_zipfile_serialization=zipped)
    found = import_lors(bench, path)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(found.pixels(), (published["image"] * std + mean).clamp(0, 1), rtol=1e-4, atol=1e-5)
    standard = bench.text_standardisation
    torch.testing.assert_close(found.texts * standard.scale + standard.mean, published["text"], rtol=1e-4, atol=1e-5)
    assert found.similarity is not None and torch.equal(found.similarity, published["similarity_mat"])
    assert (found.recipe.loss, found.recipe.schedule, found.recipe.epochs) == ("wbce", "half", 100)
    assert found.recipe.rates == {"image": (pytest.approx(0.12),), "text": (pytest.approx(0.07),)}
    assert found.stored_floats == PAIRS * (3 * 16 * 16 + 32) + PAIRS * (1 + 2 + 2) + 2
    found.save(tmp_path / "set")
    loaded = DistilledSet.load(tmp_path / "set")
    assert loaded.name == "distilled_3000" and len(loaded.captions) == PAIRS and loaded.info["iteration"] == "3000"
    quick = EvaluateConfig(generic="generic-v1", seeds=1, generic_epochs=1, head_rates=(0.1,), tower_rates=(0.01,))
    assert evaluate_set(bench, loaded, quick).scores()["own"].mean_recall.mean >= 0


def test_a_set_without_a_similarity_is_one_of_the_founding_code(bench: Workbench, tmp_path: Path) -> None:
    found = import_lors(bench, saved(tmp_path, published_set(similarity_params=None, similarity_mat=None)))
    how = found.recipe
    assert (found.similarity, how.loss, how.schedule, how.epochs, how.batch) == (None, "infonce", "constant", 50, 64)
    full = import_lors(bench, saved(tmp_path, published_set(similarity_params=[random(PAIRS, PAIRS)])), loss="bce")
    assert full.recipe.loss == "bce" and full.info["similarity_floats"] == PAIRS**2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": None}, ArtefactError, "expected a dict with a tensor 'image' of 4 dimensions .* it holds"),
        ({"image": random(PAIRS, 3, 8, 8)}, ArtefactError, "Set encoder.image.size to 8"),
        ({"text": random(PAIRS, 768)}, ArtefactError, "Use the text tower that the set was made with"),
        ({"text": random(PAIRS - 1, 32)}, ArtefactError, "texts are"),
        ({"similarity_mat": random(3, 3)}, ArtefactError, "similarity_mat is"),
        ({"syn_lr_img": torch.tensor(-0.1)}, ConfigError, "rate syn_lr_img is -0.1"),
        ({"syn_lr_txt": None}, ArtefactError, "no learned rate 'syn_lr_txt'"),
        ({"image": torch.full((PAIRS, 3, 16, 16), torch.nan)}, ArtefactError, "holds NaN"),
    ],
)
def test_sets_that_do_not_fit_are_refused(
    bench: Workbench, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        import_lors(bench, saved(tmp_path, published_set(**changes)))


class Hostile:
    """A pickle that would run a command when it is read freely."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_does_not_run(bench: Workbench, tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "harm"
    path = saved(tmp_path, {**published_set(), "extra": Hostile(target)}, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert target.is_dir()  # it is armed
    target.rmdir()
    with pytest.raises(ArtefactError, match="Nothing in it was run"):
        import_lors(bench, path)
    folder = tmp_path / "buffers"
    for side in ("img", "txt"):
        saved(folder, [Hostile(target)], f"{side}_replay_buffer_0.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtefactError, match="Nothing in it was run"):
        import_mtt(bench, folder, tmp_path / "experts")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 half a zip"])
def test_other_and_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"x\.pt"):
        read_torch_file(tmp_path / "x.pt", "published set")
    with pytest.raises(ArtefactError, match="does not exist"):
        read_torch_file(tmp_path / "y.pt", "published set")


def head_list(width: int, dim: int, seed: int) -> list[torch.Tensor]:
    """Parameters of a published projection head, in its order: projection, fc, layer norm, weight before bias."""
    shapes = [(dim, width), (dim,), (dim, dim), (dim,), (dim,), (dim,)]
    return [random(*shape, seed=seed + number) for number, shape in enumerate(shapes)]


def buffers(bench: Workbench, folder: Path, numbers: tuple[int, ...] = (0,), experts: int = 1, epochs: int = 3) -> None:
    """Replay buffers as the founding code writes them."""
    image, text = bench.image_tower, bench.text_tower
    dim = bench.embedding_width
    for number in numbers:
        recorded: dict[str, list[Any]] = {"img": [], "txt": []}
        for expert in range(experts):
            seeds = [100 * number + 1000 * expert + 10 * epoch for epoch in range(epochs + 1)]
            recorded["txt"].append([head_list(text.width, dim, seed) for seed in seeds])
            if bench.setting == "heads":
                recorded["img"].append([head_list(image.width, dim, 5000 + seed) for seed in seeds])
            else:
                own = [p.detach() for p in bench.image_tower.parameters()]
                recorded["img"].append([[p + 0.01 * seed for p in own] for seed in seeds])
        for side, value in recorded.items():
            saved(folder, value, f"{side}_replay_buffer_{number}.pt")


def published_embedding(tensors: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The published head on features as the tower gives them."""
    projected = features @ tensors[0].T + tensors[1]
    mixed = torch.nn.functional.gelu(projected) @ tensors[2].T + tensors[3]
    return torch.nn.functional.layer_norm(mixed + projected, (len(tensors[1]),), tensors[4], tensors[5])


def test_imported_heads_embed_as_the_published_ones(heads: Workbench, tmp_path: Path) -> None:
    buffers(heads, tmp_path / "buffers")
    import_mtt(heads, tmp_path / "buffers", tmp_path / "experts")
    (expert,) = open_experts(heads, tmp_path / "experts")
    assert expert.epochs == [0, 1, 2, 3]
    for side, prefix, standard in (
        ("image", "img", heads.image_standardisation),
        ("text", "txt", heads.text_standardisation),
    ):
        published = torch.load(tmp_path / "buffers" / f"{prefix}_replay_buffer_0.pt", weights_only=True)[0][2]
        raw = random(4, len(standard.mean), seed=9) * standard.scale + standard.mean
        head = Head(len(standard.mean), heads.embedding_width).eval()
        head.load_state_dict(expert.snapshot(2)[side])
        found = head(standard(raw)).detach()
        torch.testing.assert_close(found, published_embedding(published, raw), rtol=1e-3, atol=1e-4)


def test_an_import_that_was_stopped_begins_anew(
    heads: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers(heads, tmp_path / "b", numbers=(0, 1))
    real, saved_so_far = mtt.save_trajectory, []

    def second_stops(path: Path, *given: Any) -> None:
        saved_so_far.append(path)
        if len(saved_so_far) == 2:
            raise KeyboardInterrupt
        real(path, *given)

    monkeypatch.setattr(mtt, "save_trajectory", second_stops)
    with pytest.raises(KeyboardInterrupt):
        import_mtt(heads, tmp_path / "b", tmp_path / "experts")
    assert not list(tmp_path.glob("experts/*.safetensors"))  # a part of them would be taken for all
    monkeypatch.setattr(mtt, "save_trajectory", real)
    done = import_mtt(heads, tmp_path / "b", tmp_path / "experts")
    assert [path.name for path in done] == ["expert-000.safetensors", "expert-001.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "experts"]


def test_towers_are_named_by_the_configuration(bench: Workbench, tmp_path: Path) -> None:
    buffers(bench, tmp_path / "buffers", numbers=(0, 2, 10), experts=2)
    paths = import_mtt(bench, tmp_path / "buffers", tmp_path / "experts")
    assert [path.name for path in paths] == [f"expert-{number:03d}.safetensors" for number in range(6)]
    experts = open_experts(bench, tmp_path / "experts")
    assert [(e.note.imported_from or {})["image"] for e in experts[::2]] == [
        f"img_replay_buffer_{number}.pt" for number in (0, 2, 10)
    ]
    expected = dict(bench.image_tower.named_parameters())
    for name, found in experts[3].snapshot(2)["image"].items():  # buffer 2, expert 1, epoch 2
        torch.testing.assert_close(found, expected[name] + 0.01 * (200 + 1000 + 20))


def test_buffers_that_do_not_fit_are_refused(bench: Workbench, heads: Workbench, tmp_path: Path) -> None:
    def refused(folder: str, message: str, which: Workbench = bench, error: type[Exception] = ArtefactError) -> None:
        with pytest.raises(error, match=message):
            import_mtt(which, tmp_path / folder, tmp_path / "experts")

    (tmp_path / "empty").mkdir()
    refused("empty", r"expected img_replay_buffer_I\.pt and txt_replay_buffer_I\.pt")
    buffers(bench, tmp_path / "odd", numbers=(0, 1))
    (tmp_path / "odd" / "txt_replay_buffer_1.pt").unlink()
    refused("odd", r"found \[0, 1\] and \[0\]")
    buffers(heads, tmp_path / "heads")
    refused("heads", "parameters, but the configured tower trains")
    path = tmp_path / "odd" / "txt_replay_buffer_0.pt"
    (tmp_path / "odd" / "img_replay_buffer_1.pt").unlink()
    published = torch.load(path, weights_only=True)
    saved(tmp_path / "odd", [[[*e[:3], e[3][:-1], *e[4:]] for e in published[0]]], path.name)
    refused("odd", r"parameter 3 is \(\d+,\), but the configured tower's mix.bias is")
    saved(tmp_path / "odd", [published[0][:2]], path.name)
    refused("odd", "4 epochs, .* 2")
    saved(tmp_path / "odd", [*published, *published], path.name)
    refused("odd", "holds 1 experts, but .* holds 2")
    saved(tmp_path / "odd", {"a": 1}, path.name)
    refused("odd", "not a replay buffer")
    saved(tmp_path / "odd", [[published[0][0]] * 4], path.name)
    refused("odd", "recorded on a CPU hold the final weights in every epoch")
    broken = [[[p.clone() for p in epoch] for epoch in published[0]]]
    broken[0][3][0][0, 0] = torch.nan
    saved(tmp_path / "odd", broken, path.name)
    refused("odd", "epoch 3: project.weight is not finite")
    assert not list((tmp_path / "experts").glob("*"))


def test_the_command_imports_sets_and_experts_that_the_next_stages_use(
    heads: Workbench, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, common = str(tmp_path / "run"), [*TINY, f"--data.cache={cache}"]
    buffers(heads, tmp_path / "buffers", numbers=(0, 1))
    assert main(["import", "mtt", str(tmp_path / "buffers"), "--run", run, *common]) == 0
    assert len(list((tmp_path / "run" / "experts").glob("expert-*.safetensors"))) == 2
    assert main(["import", "mtt", str(tmp_path / "buffers"), "--run", run]) == 2
    assert "holds experts already" in capsys.readouterr().err
    options = ["--pairs=4", "--iterations=1", "--distill.validate_every=0", "--lors.syn_steps=1", "--quiet"]
    assert main(["distill", "--run", run, "--method=lors", *options]) == 0
    path = saved(tmp_path, published_set())
    assert main(["import", "lors", str(path), "--run", run, "--loss=bce", "--quiet"]) == 0
    assert capsys.readouterr().out.strip().endswith("distilled_3000")
    record = json.loads((tmp_path / "run" / "sets" / "distilled_3000" / "set.json").read_text())
    assert record["recipe"]["loss"] == "bce" and record["pairs"] == PAIRS
    assert main(["import", "lors", str(path), "--run", run]) == 2
    assert main(["inspect", str(tmp_path / "run" / "experts")]) == 0
    for words, message in (
        (["lor", str(path), "--run", run], "unknown kind of import 'lor'. Did you mean lors"),
        (["lors", str(tmp_path / "none.pt"), "--run", run], "does not exist"),
        (["lors", str(path), "--run", run, "--loss=wbc"], "Did you mean wbce"),
    ):
        capsys.readouterr()
        assert main(["import", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["import"]) == 0


def test_a_low_rank_similarity_without_its_matrix_is_refused(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="without similarity_mat; expected the matrix"):
        import_lors(bench, saved(tmp_path, published_set(similarity_mat=None)))
    matrix = random(PAIRS, PAIRS)
    found = import_lors(bench, saved(tmp_path, published_set(similarity_mat=None, similarity_params=[matrix])))
    assert found.similarity is not None and torch.equal(found.similarity, matrix)


def test_numbers_of_numpy_and_unknown_entries_are_no_reason_to_refuse(bench: Workbench, tmp_path: Path) -> None:
    import numpy as np

    extra = {"loss": np.float64(1.0), "step": np.int64(3), "notes": ["x"]}
    found = import_lors(bench, saved(tmp_path, published_set(**extra)))
    plain = import_lors(bench, saved(tmp_path, published_set(), "plain.pt"))
    assert torch.equal(found.images, plain.images)


def test_one_file_for_each_phase_becomes_one_set_with_phases(bench: Workbench, tmp_path: Path) -> None:
    first = saved(tmp_path, published_set(), "first.pt")
    second = saved(tmp_path, published_set(syn_lr_img=torch.tensor(0.3)), "second.pt")
    found = import_lors(bench, first, later=[second])
    assert found.recipe.phases == (PAIRS, PAIRS) and len(found) == 2 * PAIRS
    assert found.similarity is not None and not found.similarity[:PAIRS, PAIRS:].any()
    assert found.recipe.rates["image"] == pytest.approx((0.12,) * 100 + (0.3,) * 100)
    assert found.recipe.rates["text"] == pytest.approx((0.07,))
    hard = saved(tmp_path, published_set(similarity_mat=None, similarity_params=None), "hard.pt")
    with pytest.raises(ArtefactError, match="expected all or none"):
        import_lors(bench, first, later=[hard])


@pytest.mark.parametrize("prefix", ["module.", "visual.trunk.", "module.visual.trunk."])
def test_weights_under_the_prefix_of_another_code_are_read(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    from vldistill.encoders.tower import load_weights

    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    weights = {f"{prefix}{name}": random(*value.shape) for name, value in model.state_dict().items()}
    save_file(weights | {"logit_scale": torch.ones(1)} if "visual" in prefix else weights, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", ("head",))
    assert torch.equal(model.state_dict()["0.weight"], weights[f"{prefix}0.weight"])

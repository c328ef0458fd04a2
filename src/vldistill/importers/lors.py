"""Distilled sets of the LoRS code and its descendants (arXiv 2406.03793): one ``distilled_ITERATION.pt``.

The file is a dict: ``image`` (N, 3, S, S) normalised with CLIP's channel moments, ``text`` (N, d) sentence vectors as
the text tower gives them, ``similarity_params`` (w, L and R, or the matrix), ``similarity_mat`` (N, N), and the learned
student rates ``syn_lr_img`` and ``syn_lr_txt``. Sets of the founding code hold images, texts and rates alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vldistill.distillation.start import nearest_captions
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, ConfigError
from vldistill.importers.torchfile import read_torch_file
from vldistill.training.recipe import Recipe
from vldistill.training.steps import steps_in
from vldistill.version import __version__
from vldistill.workbench.bench import Workbench

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FOUNDING: dict[str, Any] = {"epochs": 50, "batch": 64, "schedule": "constant", "loss": "infonce"}
"""The student of the founding code (arXiv 2308.07545), whose sets have no similarity."""
NAMES = ("image", "text", "similarity_params", "similarity_mat", "syn_lr_img", "syn_lr_txt")


def import_lors(
    bench: Workbench,
    path: Path,
    *,
    loss: str = "wbce",
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
    later: Sequence[Path] = (),
) -> DistilledSet:
    """The set in ``path`` for the towers and data of ``bench``; ``later`` are the files of further phases, in order.

    Images are brought from the file's normalisation to the tower's, texts from the tower's own vectors to
    standardised ones. The set's recipe is the published student: ``loss`` with the similarity, 100 epochs of batch
    128, the learned rates and a tenth of them after half; without a similarity that of the founding code, 50 epochs of
    batch 64 at the learned rates.

    Raises:
        ArtefactError: a file of another layout, or tensors that do not fit the towers.
        ConfigError: a setting that the file was not made in, or rates that cannot be trained with.
    """
    if bench.setting not in ("full", "heads"):
        raise ConfigError(f"sets of LoRS are of setting full (or heads), not {bench.setting}; set encoder.setting.")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(f"mean {mean} and std {std}: expected three numbers each, one per channel, std above 0.")
    found = _read([path, *later], loss)
    images, texts = _tensor(found, "image", path, 4), _tensor(found, "text", path, 2)
    tower, text_tower = bench.image_tower, bench.text_tower
    if images.shape[1:] != (3, tower.size, tower.size):
        raise ArtefactError(
            f"{path}: images are {tuple(images.shape)}; expected (N, 3, {tower.size}, {tower.size}) for image tower "
            f"{tower.name}. Set encoder.image.size to {images.shape[-1]}."
        )
    if texts.shape != (len(images), text_tower.width):
        raise ArtefactError(
            f"{path}: texts are {tuple(texts.shape)}; expected ({len(images)}, {text_tower.width}) for text tower "
            f"{text_tower.name}. Use the text tower that the set was made with (encoder.text.name)."
        )
    pixels = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    own_mean, own_std = (torch.tensor(value).view(3, 1, 1) for value in (tower.mean, tower.std))
    similarity, floats = _similarity(found, path, len(images))
    student = _student(similarity is not None, loss)
    standard = bench.text_standardisation
    standardisation = {"text_mean": standard.mean, "text_scale": standard.scale}
    if bench.setting == "heads":
        image_standard = bench.image_standardisation
        standardisation |= {"image_mean": image_standard.mean, "image_scale": image_standard.scale}
    made = DistilledSet(
        images=(pixels - own_mean) / own_std,
        texts=standard(texts),
        recipe=Recipe(
            rates={"image": _rates(found, "syn_lr_img", path), "text": _rates(found, "syn_lr_txt", path)},
            temperature=bench.encoder_config.temperature,
            phases=found.get("phases", ()),
            **student,
        ),
        towers=bench.towers,
        setting=bench.setting,
        similarity=similarity,
        standardisation=standardisation,
        info={
            "name": path.stem,
            "method": "imported from a file in the layout of LoRS",
            "iteration": path.stem.rpartition("_")[2] if path.stem.rpartition("_")[2].isdecimal() else "unknown",
            "similarity_floats": floats,
            "data": bench.pixels("train").pairs.fingerprint,
            "source": bench.data_config.source,
            "versions": {"vldistill": __version__, "torch": str(torch.__version__)},
        },
    )
    nearest = nearest_captions(bench, made.text_inputs)
    return made.with_captions(tuple({"start": "", "nearest": caption} for caption in nearest))


def _student(soft: bool, loss: str) -> dict[str, Any]:
    """The recipe of the published student, with a similarity or without."""
    return {"schedule": "half", "loss": loss} if soft else FOUNDING


def _read(paths: Sequence[Path], loss: str) -> Mapping[str, Any]:
    """The record of a file, or of one file for each phase. Raises ArtefactError and ConfigError."""
    files = [read_torch_file(path, "published set") for path in paths]
    if len(files) == 1:
        return files[0]
    soft = all(isinstance(found, Mapping) and "similarity_mat" in found for found in files)
    return joined(files, paths, Recipe(**_student(soft, loss)))


def _tensor(found: object, name: str, path: Path, dimensions: int) -> torch.Tensor:
    value = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(value, torch.Tensor) or value.ndim != dimensions:
        held = [str(key)[:40] for key in list(found)[:12] if isinstance(key, str)] if isinstance(found, Mapping) else []
        held = sorted(held) or type(found).__name__
        raise ArtefactError(
            f"{path} is not a set in the layout of LoRS: expected a dict with a tensor {name!r} of {dimensions} "
            f"dimensions among {', '.join(NAMES)}; it holds {held}."
        )
    return value.detach().to(torch.float32)


def _similarity(found: Mapping[str, Any], path: Path, count: int) -> tuple[torch.Tensor | None, int]:
    """S (N, N) and how many numbers it is stored in; None and 0 where the set has none.

    Raises:
        ArtefactError: a low-rank similarity without its matrix, whose factor is not in the file; other shapes.
    """
    if "similarity_mat" not in found:
        return _similarity_of_params(found.get("similarity_params"), path, count)
    matrix = _tensor(found, "similarity_mat", path, 2)
    if matrix.shape != (count, count):
        raise ArtefactError(f"{path}: similarity_mat is {tuple(matrix.shape)}; expected {(count, count)}.")
    params = found.get("similarity_params")
    tensors = [p for p in params if isinstance(p, torch.Tensor)] if isinstance(params, (list, tuple)) else []
    stored = found.get("similarity_floats") or sum(p.numel() for p in tensors)
    return matrix, stored or matrix.numel()


def _similarity_of_params(params: object, path: Path, count: int) -> tuple[torch.Tensor | None, int]:
    """The matrix where the parameters are the matrix itself. Raises ArtefactError where they are its factors."""
    tensors = params if isinstance(params, (list, tuple)) else [] if params is None else [params]
    if not tensors:
        return None, 0
    if len(tensors) == 1 and isinstance(tensors[0], torch.Tensor) and tensors[0].shape == (count, count):
        return tensors[0].detach().to(torch.float32), count * count
    raise ArtefactError(
        f"{path} holds similarity_params (w, L and R) without similarity_mat; expected the matrix, because the factor "
        f"before L R is not in the file. Add it: found['similarity_mat'] = diag(w) + alpha / rank * L @ R.T, with the "
        f"alpha of that run."
    )


def joined(files: Sequence[Mapping[str, object]], paths: Sequence[Path], recipe: Recipe) -> dict[str, object]:
    """Sets of consecutive phases, as PTM saves them one for each, as one record of the same layout with ``phases``.

    Every block has its own similarity; rates that differ are listed by step. Raises ArtefactError.
    """
    images = [_tensor(found, "image", path, 4) for found, path in zip(files, paths)]
    texts = [_tensor(found, "text", path, 2) for found, path in zip(files, paths)]
    sizes = tuple(map(len, images))
    if len({one.shape[1:] for one in images}) > 1 or len({one.shape[1:] for one in texts}) > 1:
        shapes = ", ".join(f"{path.name} {tuple(one.shape)}" for one, path in zip(images, paths))
        raise ArtefactError(f"the sets do not fit together: {shapes}; expected images and texts of one shape.")
    own = [_similarity(found, path, len(one)) for found, path, one in zip(files, paths, images)]
    if len({matrix is None for matrix, _ in own}) > 1:
        raise ArtefactError(f"some of {', '.join(map(str, paths))} have a similarity; expected all or none.")
    record: dict[str, object] = {"image": torch.cat(images), "text": torch.cat(texts), "phases": sizes}
    matrices = [matrix for matrix, _ in own if matrix is not None]
    if matrices:
        record |= {"similarity_mat": torch.block_diag(*matrices), "similarity_floats": sum(count for _, count in own)}
    for name in ("syn_lr_img", "syn_lr_txt"):
        rates = [_rate(found, name, path) for found, path in zip(files, paths)]
        steps = [steps_in(size, recipe) for size in sizes]
        same = len(set(rates)) == 1
        record[name] = (rates[0],) if same else tuple(r for r, count in zip(rates, steps) for _ in range(count))
    return record


def _rates(found: Mapping[str, object], name: str, path: Path) -> tuple[float, ...]:
    """The learned rate, or of several phases one for each step."""
    value = found.get(name)
    return value if isinstance(value, tuple) else (_rate(found, name, path),)


def _rate(found: Mapping[str, Any], name: str, path: Path) -> float:
    try:
        rate = float(found[name])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        raise ArtefactError(f"{path} has no learned rate {name!r}; expected one number.") from None
    if not 0 < rate < math.inf:
        raise ConfigError(
            f"{path}: the learned rate {name} is {rate}, which no student can be trained with: the published update "
            f"lets rates turn negative. Use a set of an earlier iteration."
        )
    return rate

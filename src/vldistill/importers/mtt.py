"""Expert trajectories of the founding code and its descendants (arXiv 2308.07545): folders of replay buffers.

``img_replay_buffer_I.pt`` and ``txt_replay_buffer_I.pt`` are lists of experts; an expert is a list over epochs, epoch
0 first; an epoch is a list of parameter tensors in the order of ``module.parameters()``. Names are given by the
towers of the user's configuration, in the same order, and every shape is checked.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vldistill.encoders.dual import SIDES, Groups
from vldistill.encoders.features import Standardisation
from vldistill.errors import ArtefactError, ConfigError
from vldistill.experts.note import ExpertNote
from vldistill.experts.record import expert_path
from vldistill.experts.trajectory import save_trajectory
from vldistill.importers.torchfile import read_torch_file
from vldistill.storage.files import human_bytes, require_space
from vldistill.version import __version__
from vldistill.workbench.bench import Workbench

PREFIX = {"image": "img", "text": "txt"}


def import_mtt(bench: Workbench, folder: Path, target: Path) -> list[Path]:
    """Write every expert of ``folder`` as a trajectory into ``target``; returns their paths.

    The published heads take features as the towers give them, heads here take standardised ones: the first layer of
    each head is rewritten so that every snapshot gives the same embeddings.

    Raises:
        ArtefactError: files of another layout, parameters that do not fit the towers, epochs that are all the same.
        ConfigError: ``target`` holds experts already.
    """
    files = _pairs_of_files(folder)
    if any(target.glob("expert-*.safetensors")):
        raise ConfigError(f"{target} holds experts already. Import into another --run folder.")
    trained = bench.student(0).trained()
    unfinished = target.with_name(f".{target.name}.import")
    shutil.rmtree(unfinished, ignore_errors=True)  # of an import that was stopped: it begins again
    done: list[Path] = []
    for files_of_one in files:
        sides = {side: _experts(read_torch_file(path, "replay buffer"), path) for side, path in files_of_one.items()}
        if len(sides["image"]) != len(sides["text"]):
            raise ArtefactError(
                f"{files_of_one['image']} holds {len(sides['image'])} experts, but {files_of_one['text']} holds "
                f"{len(sides['text'])}. Expected the two sides of the same experts."
            )
        for number, (image, text) in enumerate(zip(sides["image"], sides["text"])):
            where = {side: f"{path}, expert {number}" for side, path in files_of_one.items()}
            snapshots = _snapshots(trained, {"image": image, "text": text}, where)
            _check_moving(snapshots, where)
            for groups in snapshots.values():
                _fold(bench, groups)
            path = expert_path(unfinished, len(done))
            if not done:
                size = sum(t.numel() * 4 for groups in snapshots.values() for n in groups.values() for t in n.values())
                require_space(target, size, f"an imported expert ({human_bytes(size)})")
            save_trajectory(path, snapshots, _note(bench, len(done), files_of_one, sorted(snapshots)), "float32")
            done.append(path)
    target.mkdir(parents=True, exist_ok=True)
    done = [path.rename(target / path.name) for path in done]
    shutil.rmtree(unfinished, ignore_errors=True)
    return done


def _pairs_of_files(folder: Path) -> list[dict[str, Path]]:
    """Buffers by side, in the order of their numbers; never by the order of a listing."""
    numbers: dict[str, set[int]] = {side: set() for side in SIDES}
    for side, prefix in PREFIX.items():
        for path in folder.glob(f"{prefix}_replay_buffer_*.pt"):
            if match := re.fullmatch(rf"{prefix}_replay_buffer_(\d+)\.pt", path.name):
                numbers[side].add(int(match[1]))
    if not numbers["image"] or numbers["image"] != numbers["text"]:
        raise ArtefactError(
            f"{folder}: expected img_replay_buffer_I.pt and txt_replay_buffer_I.pt for the same numbers I; found "
            f"{sorted(numbers['image'])} and {sorted(numbers['text'])}."
        )
    return [
        {side: folder / f"{PREFIX[side]}_replay_buffer_{number}.pt" for side in SIDES}
        for number in sorted(numbers["image"])
    ]


Epochs = list[list[torch.Tensor]]


def _experts(found: Any, path: Path) -> list[Epochs]:
    """A list of experts, each a list over epochs of a list of tensors. Raises ArtefactError."""

    def is_list(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) > 0

    fine = is_list(found) and all(
        is_list(expert) and all(is_list(epoch) and all(isinstance(p, torch.Tensor) for p in epoch) for epoch in expert)
        for expert in found
    )
    if not fine:
        raise ArtefactError(
            f"{path} is not a replay buffer: expected a list of experts, each a list over epochs of a list of tensors."
        )
    return [[list(epoch) for epoch in expert] for expert in found]


def _snapshots(trained: Groups, sides: Mapping[str, Epochs], where: Mapping[str, str]) -> dict[int, Groups]:
    """Named snapshots by epoch. Raises ArtefactError where numbers, shapes or values are not right."""
    if len(sides["image"]) != len(sides["text"]):
        raise ArtefactError(
            f"{where['image']} has {len(sides['image'])} epochs, {where['text']} has {len(sides['text'])}."
        )
    snapshots: dict[int, Groups] = {epoch: {} for epoch in range(len(sides["image"]))}
    for side in SIDES:
        wanted = {name: tuple(p.shape) for name, p in trained[side].items()}
        for epoch, tensors in enumerate(sides[side]):
            shapes = [tuple(p.shape) for p in tensors]
            if shapes != list(wanted.values()):
                raise ArtefactError(f"{where[side]}, epoch {epoch}: {_misfit(shapes, wanted)}")
            bad = [name for name, p in zip(wanted, tensors) if not bool(torch.isfinite(p).all())]
            if bad:
                raise ArtefactError(f"{where[side]}, epoch {epoch}: {bad[0]} is not finite; this expert diverged.")
            snapshots[epoch][side] = {name: p.detach().to(torch.float32, copy=True) for name, p in zip(wanted, tensors)}
    return snapshots


def _misfit(found: list[tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """What does not fit, and what to do."""
    remedy = "Set encoder.setting, encoder.image, encoder.text and encoder.dim to what the experts were trained with."
    if len(found) != len(wanted):
        return f"{len(found)} parameters, but the configured tower trains {len(wanted)}. {remedy}"
    place, name = next((i, n) for i, n in enumerate(wanted) if found[i] != wanted[n])
    return f"parameter {place} is {found[place]}, but the configured tower's {name} is {wanted[name]}. {remedy}"


def _check_moving(snapshots: Mapping[int, Groups], where: Mapping[str, str]) -> None:
    """Refuse epochs without a difference: on the CPU the published recorder keeps aliases of the live weights."""
    first, last = snapshots[0], snapshots[max(snapshots)]
    for side in SIDES:
        if len(snapshots) < 2 or all(torch.equal(p, last[side][name]) for name, p in first[side].items()):
            raise ArtefactError(
                f"{where[side]}: the last epoch equals the first, so there is nothing to match. Buffers that were "
                f"recorded on a CPU hold the final weights in every epoch; record the experts again."
            )


def _fold(bench: Workbench, groups: Groups) -> None:
    """Rewrite the heads' first layers for standardised inputs: W x + b = (W scale) x' + (W mean + b)."""
    _fold_head(groups["text"], bench.text_standardisation)
    if bench.setting == "heads":
        _fold_head(groups["image"], bench.image_standardisation)


def _fold_head(head: dict[str, torch.Tensor], standard: Standardisation) -> None:
    weight = head["project.weight"]
    head["project.bias"] = head["project.bias"] + weight @ standard.mean.to(weight)
    head["project.weight"] = weight * standard.scale.to(weight)


def _note(bench: Workbench, index: int, files: Mapping[str, Path], epochs: list[int]) -> ExpertNote:
    """Where a trajectory came from, with what :func:`vldistill.experts.record.open_experts` checks."""
    return ExpertNote(
        index=index,
        setting=bench.setting,
        encoder=bench.fingerprint,
        data=bench.pixels("train").pairs.fingerprint,
        imported_from={side: path.name for side, path in files.items()},
        snapshots=tuple(epochs),
        losses=(),
        dtype="float32",
        version=__version__,
    )

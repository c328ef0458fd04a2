"""Record experts: train students on the real data and keep their snapshots."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vldistill.cluster.shards import WHOLE, Shard
from vldistill.config import ExpertsConfig
from vldistill.encoders.dual import DualEncoder, Groups, packed
from vldistill.errors import ArtefactError, ConfigError, DivergedError
from vldistill.experts.note import ExpertNote
from vldistill.experts.trajectory import Trajectory, clone_groups, save_trajectory
from vldistill.experts.unfinished import Unfinished
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.log import Mute, Progress, Reporter
from vldistill.runtime.processes import ALONE, Processes
from vldistill.runtime.randomness import seed_of
from vldistill.storage.files import human_bytes, require_space
from vldistill.storage.locks import held
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.resume import SAVE_SECONDS, SharedKeeper, clear_leftovers
from vldistill.training.steps import steps_in
from vldistill.version import __version__
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import differences


def expert_path(folder: Path, index: int) -> Path:
    """The file of expert ``index``."""
    return folder / f"expert-{index:03d}.safetensors"


def _checkpoint_and_lock(path: Path) -> tuple[Path, Path]:
    """The checkpoint folder of the training of the expert at ``path``, and its lock file."""
    return path.with_suffix(".unfinished"), path.with_name(f".{path.stem}.lock")


def expert_recipe(config: ExpertsConfig) -> Recipe:
    """The recipe of experts: constant rate, no dropout, so that segments can be matched."""
    return Recipe(
        rates={"image": (config.image_rate,), "text": (config.text_rate,)},
        epochs=config.epochs,
        batch=config.batch,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        schedule="constant",
        dropout=0.0,
        negatives=config.negatives,
    )


def _recipe(bench: Workbench, config: ExpertsConfig) -> Recipe:
    """:func:`expert_recipe` with the negatives that the data ask for."""
    return replace(expert_recipe(config), negatives=bench.negatives(config.negatives))


def kept_epochs(config: ExpertsConfig) -> list[int]:
    """The epochs after which a snapshot is kept."""
    return sorted(set(config.snapshots)) if config.snapshots else list(range(config.epochs + 1))


@dataclass(frozen=True)
class PlannedExpert:
    """An expert that is not recorded yet, for checks of the options of methods.

    Args:
        path: its future file.
        epochs: the epochs of its snapshots.
    """

    path: Path
    epochs: list[int]


def planned_experts(folder: Path, config: ExpertsConfig, count: int = 0) -> list[PlannedExpert]:
    """The first ``count`` experts that ``config`` will record; 0 is all."""
    return [PlannedExpert(expert_path(folder, i), kept_epochs(config)) for i in range(count or config.count)]


def bytes_per_expert(bench: Workbench, config: ExpertsConfig) -> int:
    """Disk space of one expert."""
    numbers = sum(tensor.numel() for tensor in packed(bench.student(0).trained()).values())
    return numbers * len(kept_epochs(config)) * (2 if config.dtype == "bfloat16" else 4)


def expert_note(bench: Workbench, config: ExpertsConfig, index: int) -> ExpertNote:
    """The note of an expert before its training; a file with another identity is another expert."""
    return ExpertNote(
        views=bench.data_config.views if bench.setting == "heads" else 0,
        noise=config.noise,
        index=index,
        setting=bench.setting,
        encoder=bench.fingerprint,
        data=bench.pixels("train").pairs.fingerprint,
        recipe=_recipe(bench, config).to_dict(),
        augment=augments(bench, config),
        steps_per_epoch=config.steps_per_epoch,
        seed=config.seed,
        dtype=config.dtype,
        snapshots=tuple(kept_epochs(config)),
    )


def augments(bench: Workbench, config: ExpertsConfig) -> bool:
    """Whether experts see augmented images: redrawn each time, or in setting ``heads`` the encoded views."""
    return config.augment and (bench.setting != "heads" or bench.data_config.views > 0)


def record_expert(
    bench: Workbench,
    config: ExpertsConfig,
    index: int,
    path: Path,
    save_seconds: float = SAVE_SECONDS,
    processes: Processes = ALONE,
) -> Trajectory:
    """Train or resume expert ``index``, and write its snapshots to ``path``.

    Args:
        save_seconds: between two checkpoints of the training.
        processes: share the batches of the training; the first one writes.

    Raises:
        DivergedError: the loss or the weights are not finite; nothing is written to ``path``.
        Stopped: on Ctrl-C or SIGTERM, after the training is saved.
        InUseError: another process is recording it.
    """
    steps = steps_in(len(bench.split("train").data), expert_recipe(config), config.steps_per_epoch)
    student = bench.student(_seed(config, index))
    note = expert_note(bench, config, index)
    place, lock = _checkpoint_and_lock(path)
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(held(lock, f"expert {index} in {path.parent}"))
        found = _finished(student.trained(), note, path, Mute())
        if processes.of_first(found is not None):  # another process has finished it in the meantime
            return found or Trajectory(path)
        stop_asked = stack.enter_context(deferred_stop())
        progress = stack.enter_context(bench.reporter.progress(f"expert {index}", steps))
        unfinished = Unfinished(
            f"expert {index}", place, note.identity(), bench.reporter, save_seconds, stop_asked, progress.advance,
            dtype=config.dtype,
        )  # fmt: skip
        _train(bench, config, index, student, unfinished, progress, processes)
        if processes.first:
            note = _with_results(note, bench, unfinished.losses, processes)
            save_trajectory(path, unfinished.snapshots, note, config.dtype)
            unfinished.remove()
        processes.wait()
    return Trajectory(path)


def _seed(config: ExpertsConfig, index: int) -> int:
    return seed_of(config.seed, "expert", index)


def _train(
    bench: Workbench,
    config: ExpertsConfig,
    index: int,
    student: DualEncoder,
    unfinished: Unfinished,
    progress: Progress,
    processes: Processes,
) -> None:
    """Train the student of an expert; its snapshots and losses go to ``unfinished``."""
    keep = set(kept_epochs(config))
    data, recipe = bench.split("train").data, _recipe(bench, config)
    per_epoch = steps_in(len(data), recipe, config.steps_per_epoch) // recipe.epochs
    slow = bench.setting != "heads"  # steps of heads are too short to report each one

    def snap(epoch: int) -> None:
        if epoch in keep:
            snapshot = clone_groups(student.trained(), getattr(torch, config.dtype))
            _require_finite(snapshot, config, index, epoch)
            unfinished.snapshots[epoch] = snapshot

    def after_epoch(epoch: int, loss: float) -> None:
        unfinished.losses.append(loss)
        snap(epoch)
        if not slow:
            progress.advance(per_epoch, loss=loss)

    snap(0)
    fit(
        student,
        data,
        recipe,
        seed=_seed(config, index),
        device=bench.device,
        augment=augments(bench, config),
        noise=config.noise,
        steps_per_epoch=config.steps_per_epoch,
        on_epoch=after_epoch,
        on_step=(lambda loss: progress.advance(1, loss=loss)) if slow else None,
        keeper=unfinished if processes.size == 1 else SharedKeeper(unfinished, processes),
        compute=bench.compute,
        processes=processes,
    )


def _with_results(note: ExpertNote, bench: Workbench, losses: list[float], processes: Processes) -> ExpertNote:
    """The note of a finished expert: its losses, the versions, and how it was computed."""
    return replace(
        note,
        losses=tuple(losses),
        version=__version__,
        torch=str(torch.__version__),
        precision=bench.compute.precision,
        augment_on=bench.augment_on if note.augment and bench.setting != "heads" else "cpu",
        processes=processes.size,
    )


def _require_finite(snapshot: Groups, config: ExpertsConfig, index: int, epoch: int) -> None:
    """Refuse weights that are NaN or infinite. Raises DivergedError."""
    if not all(bool(tensor.isfinite().all()) for tensor in packed(snapshot).values()):
        raise DivergedError(
            f"expert {index}: weights are not finite after epoch {epoch}. Lower experts.image_rate "
            f"({config.image_rate}) or experts.text_rate ({config.text_rate})."
        )


def finished_experts(
    bench: Workbench, config: ExpertsConfig, folder: Path, shard: Shard = WHOLE
) -> dict[int, Trajectory | None]:
    """The experts of ``shard`` by number; None for one still to be recorded.

    Raises:
        ConfigError: a finished expert was recorded with another configuration or other data.
    """
    trained = bench.student(0).trained()
    return {
        index: _finished(trained, expert_note(bench, config, index), expert_path(folder, index), bench.reporter)
        for index in shard.of(range(config.count))
    }


def record_experts(
    bench: Workbench,
    config: ExpertsConfig,
    folder: Path,
    shard: Shard = WHOLE,
    save_seconds: float = SAVE_SECONDS,
    processes: Processes = ALONE,
) -> list[Trajectory]:
    """Record the missing experts of ``shard``; damaged ones are recorded again, finished ones are kept.

    Args:
        shard: the part of the experts that this process records.
        save_seconds: between two checkpoints of a training.
        processes: share the batches of each training; the first one writes.

    Raises:
        ConfigError: a finished expert was recorded with another configuration or other data.
    """
    done = finished_experts(bench, config, folder, shard)
    missing = [index for index, expert in done.items() if expert is None]
    for index in done.keys() - set(missing) if processes.first else ():
        clear_leftovers(*_checkpoint_and_lock(expert_path(folder, index)))
    if missing:
        each = bytes_per_expert(bench, config)
        bench.reporter.info(
            f"{len(done)} experts, {len(done) - len(missing)} done; {len(missing)} to train need "
            f"{human_bytes(each * len(missing))} in {folder}"
        )
        require_space(folder, each * len(missing), f"recording {len(missing)} experts")
    return [
        expert or record_expert(bench, config, index, expert_path(folder, index), save_seconds, processes)
        for index, expert in done.items()
    ]


def _finished(trained: Groups, wanted: ExpertNote, path: Path, reporter: Reporter) -> Trajectory | None:
    """The expert at ``path`` if it is complete; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        expert = Trajectory(path)
        expert.check_whole()
    except ArtefactError as error:
        reporter.warn(f"{error} It is recorded again now.")
        return None
    found = differences(expert.note.identity(), wanted.identity())
    differing = [f"{name}: {old!r} there, {new!r} requested" for name, old, new in found]
    if differing:
        raise ConfigError(
            f"{path} was recorded with another configuration or other data ({'; '.join(differing)}). "
            f"Use another run folder, or delete its experts folder."
        )
    expert.check_fits(trained)
    return expert


def expert_files(folder: Path, count: int = 0) -> list[Path]:
    """The files of the first ``count`` experts of a run (0: all).

    Raises:
        ArtefactError: there are no experts.
        ConfigError: there are fewer than ``count``.
    """
    paths = sorted(folder.glob("expert-*.safetensors"), key=lambda path: (len(path.name), path.name))  # by number
    if not paths:
        how = "" if (folder.parent / "config.yaml").exists() else " with the same configuration"
        raise ArtefactError(
            f"{folder} holds no experts. Run `vldistill experts --run {folder.parent}` first{how}, or use a "
            f"method that needs none, e.g. `--method bilevel`."
        )
    if count > len(paths):
        raise ConfigError(
            f"distill.experts is {count}, but {folder} holds {len(paths)} experts. Ask for {len(paths)} or fewer, or "
            f"record more: `vldistill experts --run {folder.parent} --experts.count {count}`."
        )
    return paths[:count] if count else paths


def open_experts(bench: Workbench, folder: Path, count: int = 0) -> list[Trajectory]:
    """The first ``count`` experts of a run (0: all), checked against the workbench.

    Raises:
        ArtefactError: there are no experts, or they were trained with other towers or on other data.
        ConfigError: there are fewer than ``count``.
    """
    paths = expert_files(folder, count)
    experts = [Trajectory(path) for path in paths]
    trained = bench.student(0).trained()
    data = bench.pixels("train").pairs.fingerprint
    for expert in experts:
        expert.check_fits(trained)
        if expert.note.encoder != bench.fingerprint:
            raise ArtefactError(
                f"{expert.path} was trained with another tower, its weights or its setting "
                f"(encoder {expert.note.encoder}, this run has {bench.fingerprint}). "
                f"Use a separate run folder for each encoder."
            )
        if expert.note.data != data:
            raise ArtefactError(
                f"{expert.path} was trained on other data (fingerprint {expert.note.data}, "
                f"this run's train split has {data}). Use a separate run folder for each data set."
            )
    return experts

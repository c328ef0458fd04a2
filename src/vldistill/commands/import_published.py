"""``vldistill import lors FILE`` and ``vldistill import mtt FOLDER``: published sets and experts into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.commands.shared import DONE, opened
from vldistill.errors import ConfigError, unknown

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

KINDS = {"lors": "a distilled set, FILE.pt", "mtt": "a folder of replay buffers with expert trajectories"}


def main(argv: Sequence[str]) -> int:
    """The command. Raises ConfigError or ArtefactError with the remedy."""
    from vldistill.options.words import parse

    if not argv or argv[0] in ("-h", "--help"):
        shown = "\n".join(f"  {kind} PATH   {about}" for kind, about in KINDS.items())
        print(f"usage: vldistill import KIND PATH --run FOLDER [--config FILE] [--section.option VALUE ...]\n\n{shown}")
        return DONE
    kind, rest = argv[0], list(argv[1:])
    if kind not in KINDS:
        raise ConfigError(unknown("kind of import", kind, KINDS))

    def extend(parser: ArgumentParser) -> None:
        more = "; of several phases one file for each, in order" if kind == "lors" else ""
        parser.add_argument("path", type=str, nargs="+", help=KINDS[kind] + more)
        if kind == "lors":
            parser.add_argument("--loss", type=str, default="wbce", help="of the students: wbce, bce or soft_infonce")
            parser.add_argument(
                "--mean", type=list[float], default=None, help="of the file's images; CLIP's if not given"
            )
            parser.add_argument("--std", type=list[float], default=None, help="as --mean; CLIP's if not given")

    config, asked = parse("import", rest, extend)
    from vldistill.distilled.record import plain_name
    from vldistill.importers.lors import CLIP_MEAN, CLIP_STD, import_lors
    from vldistill.importers.mtt import import_mtt
    from vldistill.training.losses import SOFT_LOSSES
    from vldistill.workbench.opening import open_bench

    run, reporter = opened(asked)
    path, *later = _checked(kind, [Path(one) for one in asked.path])
    run.check(config)
    bench = open_bench(config, reporter, run=run)
    bench.pairs("train")
    bench.check_towers()
    if kind == "mtt":
        done = import_mtt(bench, path, run.experts)
        run.begin(config)
        run.log(stage="import", kind=kind, source=str(path), count=len(done))
        reporter.info(f"{len(done)} experts from {path}")
        print(run.experts)
        return DONE
    if asked.loss not in SOFT_LOSSES:
        raise ConfigError(unknown("loss", asked.loss, SOFT_LOSSES))
    if not plain_name(path.stem):
        raise ConfigError(
            f"{path}: a set cannot be named {path.stem!r}. Rename the file: letters, digits, '_' and '-'."
        )
    folder = run.sets / path.stem
    if folder.exists():
        raise ConfigError(f"{folder} exists already. Delete it, or import into another --run folder.")
    mean, std = tuple(asked.mean or CLIP_MEAN), tuple(asked.std or CLIP_STD)
    distilled = import_lors(bench, path, loss=asked.loss, mean=mean, std=std, later=later)
    run.begin(config)
    distilled.save(folder)
    run.log(stage="import", kind=kind, source=str(path), set=folder.name)
    reporter.info(f"{len(distilled)} pairs, {distilled.stored_floats:,} stored floats in {folder}")
    print(folder)
    return DONE


def _checked(kind: str, paths: list[Path]) -> list[Path]:
    """The paths of an import, which must be there. Raises ConfigError."""
    if kind == "mtt" and len(paths) > 1:
        raise ConfigError(f"{len(paths)} paths are given; expected {KINDS[kind]}.")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist; expected {KINDS[kind]}.")
        if kind == "lors" and path.is_dir():
            raise ConfigError(f"{path} is a folder; expected {KINDS[kind]}.")
    return paths

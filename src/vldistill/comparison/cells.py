"""One cell of a comparison: its configurations, its identity, and what it shares with others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cached_property

from vldistill.config import Config, DataConfig, EvaluateConfig
from vldistill.config.former import as_before, without_neutral
from vldistill.config.plain import Plain, section
from vldistill.distillation.method import METHODS
from vldistill.distilled.remote import local_folder
from vldistill.storage.files import digest
from vldistill.workbench.run_folder import differences, to_plain

VAL_OPTIONS = ("head_rates", "generic_epochs")
"""Options of section ``evaluate`` by which a validation trains heads, see :func:`~.protocol.quick_score`."""
SAME_DATA = ("source", "strict", "cache")  # options that do not change the data read from a source


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell.

    Args:
        row: the label of its row.
        kind: ``method`` or ``target``.
        name: the method, or the target as in ``evaluate --set``.
        pairs: the budget; None where the target has none (``full``, a folder).
        setting: of the student.
        towers: the name of the towers.
        seed: of the distillation.
        configs: the configuration; of several, the best on val is kept.
        trial_minutes: limit of each trial; 0 is the limit of the configuration.
        grid: the values of the options in which the configurations differ, by dotted name.
        widen: how many more options are tried, beyond an edge of the grid that is best, else near the best.
        data: the name of what it is of, in a sweep of several data sets.
    """

    row: str
    kind: str
    name: str
    pairs: int | None
    setting: str
    towers: str
    seed: int
    configs: tuple[Config, ...]
    trial_minutes: float = 0.0
    grid: Mapping[str, Sequence[Plain]] = field(default_factory=dict)
    widen: int = 0
    data: str = ""

    @cached_property
    def id(self) -> str:
        """Readable, and different whenever its set is.

        Evaluation options are not part of the id, because re-evaluating is cheap; those that choose on val are.
        """
        parts = (self.data or None, self.setting, self.towers, self.row, self.pairs if self.kind == "method" else None)
        slug = re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts if part is not None)).strip("-")
        configured = [self.kind, self.name, self.trial_minutes, *(_meaning(config, self) for config in self.configs)]
        configured += [["widen", self.widen]] if self.widen else []
        key = digest(configured)[:6]
        return f"{slug}-s{self.seed}-{key}" if self.kind == "method" else f"{slug}-{key}"

    @property
    def evaluation_options(self) -> dict[str, Plain]:
        """How its set is evaluated."""
        return to_plain(self.configs[0])["evaluate"]

    @property
    def needs_experts(self) -> bool:
        """Whether its method matches trajectories."""
        return self.kind == "method" and METHODS.find(self.name).needs_experts

    @property
    def source(self) -> str:
        """Equal for cells that read the same source with the same options, even if its data change later."""
        return digest(_data(self.configs[0]))

    @property
    def data_group(self) -> str:
        """Cells of one group share decoded images and features."""
        config = self.configs[0]
        return f"{self.setting}-{self.towers}-{digest(_data(config), asdict(config.encoder))[:6]}"

    @property
    def expert_groups(self) -> dict[str, Config]:
        """The experts it needs, by the name of their folder."""
        return {expert_group(self, config): config for config in self.configs} if self.needs_experts else {}


def shared_experts(cells: Sequence[Cell]) -> dict[str, Config]:
    """The experts that cells share, by folder name; the number in each is the largest that a cell needs."""
    groups: dict[str, Config] = {}
    for cell in cells:
        for group, config in cell.expert_groups.items():
            if group not in groups or config.experts.count > groups[group].experts.count:
                groups[group] = config
    return groups


def expert_group(cell: Cell, config: Config) -> str:
    """The folder name of the experts that ``config`` needs, whatever their number."""
    experts = _identity(replace(config, experts=replace(config.experts, count=1)))["experts"]
    parts = digest(_data(config), asdict(config.encoder), experts)
    return f"{cell.setting}-{cell.towers}-{parts[:6]}"


def _identity(config: Config) -> dict[str, Plain]:
    """A configuration as ids have it: without later options at their neutral value, under the former names."""
    plain: dict[str, Plain] = {**to_plain(config)}
    for name, part in {**vars(config), **config.methods}.items():
        if is_dataclass(part):
            plain[name] = without_neutral(type(part), section(plain, name))
    return as_before(plain)


def _data(config: Config) -> Plain:
    """The source, with non-default options that change the data read from it."""
    changed = differences(asdict(DataConfig()), asdict(config.data))
    options = {name: value for name, _, value in changed if name not in SAME_DATA}
    return [config.data.source, options] if options else config.data.source


def _meaning(config: Config, cell: Cell) -> dict[str, Plain]:
    """The part of a configuration that a cell's answer depends on."""
    plain = _identity(config)
    excluded = {"runtime", "data", "evaluate", *config.methods}
    excluded -= {cell.name} if cell.kind == "method" else set()
    excluded |= set() if cell.needs_experts else {"experts"}
    excluded |= set() if cell.kind == "method" else {"distill"}
    meaning = {"source": _data(config), **{name: part for name, part in plain.items() if name not in excluded}}
    if cell.kind == "target" and (record := local_folder(cell.name) / "set.json").is_file():
        meaning["content"] = digest(record.read_bytes())  # it holds the checksum of the tensors
    options = _validation_options(config, cell)
    return {**meaning, "looks": options} if options else meaning  # the key is a part of every id


def _validation_options(config: Config, cell: Cell) -> dict[str, Plain]:
    """Non-default evaluation options that choose the kept iteration or the best trial."""
    chosen = cell.kind == "method" and (config.distill.validate_every > 0 or len(cell.configs) > 1)
    if not chosen or config.encoder.setting != "heads":
        return {}
    given, usual = asdict(config.evaluate), asdict(EvaluateConfig())
    return {name: given[name] for name in VAL_OPTIONS if given[name] != usual[name]}

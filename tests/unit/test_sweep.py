from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vldistill.comparison.cells import shared_experts
from vldistill.comparison.smoke import shrunken
from vldistill.comparison.sweep import Sweep
from vldistill.comparison.sweepfile import read_sweep
from vldistill.errors import ConfigError
from vldistill.options.merge import merged, nested

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "data": {"source": "scenes:train=40,val=20,test=20"},
    "encoder": {
        "image": {"name": "convnet", "weights": "random", "size": 16, "options": {"width": 8}},
        "text": {"name": "hashing", "width": 32},
        "dim": 16,
    },
    "experts": {"count": 2, "epochs": 3, "batch": 32},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Any:
    """``sweep(methods=..., ...)`` reads a file with these keys."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def read(**keys: Any) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"base": "base.yaml", **keys}, sort_keys=False))
        return read_sweep(path)

    return read


def test_options_nested_and_dotted_are_the_same() -> None:
    assert nested({"a.b.c": 1, "a": {"b.d": 2}, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"d": [1]}) == {"a": {"b": 3, "c": 2}, "d": [1]}


def test_a_sweep_is_the_product_of_its_lists(sweep: Any) -> None:
    cells = sweep(
        pairs=[6, 8],
        seeds=[0, 1],
        settings=["heads", "full"],
        methods=["bitraj", "bilevel"],
        targets=["random", "full"],
    ).cells()
    assert len({cell.id for cell in cells}) == len(cells) == 2 * (2 * 2 * 2 + 2 + 1)
    targets = [cell.name for cell in cells if cell.kind == "target" and cell.setting == "full"]
    assert targets == ["random:6", "random:8", "full"]
    first = next(cell for cell in cells if cell.kind == "method")
    assert first.configs[0].distill.pairs == 6 and first.configs[0].encoder.dim == 16
    assert {cell.configs[0].encoder.setting for cell in cells} == {"heads", "full"}


def test_a_sweep_may_be_of_several_data(sweep: Any, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"data": {"source": "digits"}, "encoder": {"dim": 8}}))
    keys: dict[str, Any] = {
        "data": {"drawn": {"set": {"experts.count": 3}}, "real": {"base": "other.yaml", "pairs": [10, 20]}},
        "set": {"evaluate.seeds": 2},
        "pairs": [6],
        "methods": {
            "bilevel": {"by_pairs": {20: {"bilevel.steps": 5}}},
            "bitraj": {"data": "drawn"},
        },
        "targets": {"random": {}, "full": {"data": "real"}},
    }
    cells = sweep(**keys).cells()
    assert [(cell.data, cell.row, cell.pairs) for cell in cells] == [
        ("drawn", "random:6", 6), ("drawn", "bilevel", 6), ("drawn", "bitraj", 6),
        ("real", "random:10", 10), ("real", "random:20", 20), ("real", "full", None),
        ("real", "bilevel", 10), ("real", "bilevel", 20),
    ]  # fmt: skip
    assert cells[1].id.startswith("drawn-heads-own-bilevel-6-s0-")
    assert [(c.configs[0].encoder.dim, c.configs[0].experts.count) for c in (cells[0], cells[-1])] == [(16, 3), (8, 20)]
    assert {cell.configs[0].evaluate.seeds for cell in cells} == {2}
    assert cells[-1].configs[0].methods["bilevel"].steps == 5
    small = sweep(**keys).shrunk().cells()
    assert {cell.configs[0].data.source.partition(",")[0] for cell in small} == {
        "scenes:train=40", "scenes:classes=shape"
    }  # fmt: skip
    path = tmp_path / "sweep.yaml"
    with pytest.raises(ConfigError, match="several data sets, each with a base of its own"):
        read_sweep(path, {"data": {"source": "digits"}})
    with pytest.raises(ConfigError, match=r"methods\.bilevel\.data: unknown data 'rael'"):
        sweep(**keys | {"methods": {"bilevel": {"data": "rael"}}})
    with pytest.raises(ConfigError, match=r"data\.real: unknown key 'options'"):
        sweep(**keys | {"data": {"real": {"options": {}}}})
    with pytest.raises(ConfigError, match="data names nothing"):
        sweep(**keys | {"data": {}})


def test_a_method_has_its_own_options_budgets_settings_and_label(sweep: Any) -> None:
    cells = sweep(
        pairs=[6, 8],
        settings={"heads": {}, "full": {"experts": {"count": 1}}},
        methods={
            "only images": {"method": "bitraj", "options": {"distill.text_lr": 0.0}, "settings": ["full"]},
            "bitraj": {"by_pairs": {8: {"bitraj": {"minibatch": 4}}}, "settings": "heads"},
        },
        targets=[],
    ).cells()
    assert [(c.row, c.setting, c.pairs) for c in cells] == [
        ("bitraj", "heads", 6),
        ("bitraj", "heads", 8),
        ("only images", "full", 6),
        ("only images", "full", 8),
    ]
    assert [cell.configs[0].methods["bitraj"].minibatch for cell in cells[:2]] == [0, 4]
    assert cells[2].configs[0].distill.text_lr == 0 and cells[0].configs[0].distill.text_lr == 0.1
    assert cells[2].configs[0].experts.count == 1


def test_an_image_section_of_towers_replaces_the_bases_whole(sweep: Any) -> None:
    small = {"image": {"name": "convnet", "weights": "random"}, "dim": 8}
    own, other = sweep(towers={"own": {}, "small": small}, targets=["full"]).cells()
    assert own.configs[0].encoder.image.size == 16 and own.configs[0].encoder.image.options == {"width": 8}
    assert other.configs[0].encoder.image.size == 0 and other.configs[0].encoder.image.options == {}
    assert other.configs[0].encoder.dim == 8 and other.configs[0].encoder.text.width == 32
    assert own.data_group != other.data_group


def test_a_target_may_be_limited_too(sweep: Any) -> None:
    targets = {"random": {"settings": "heads"}, "herding": {"pairs": [8], "settings": ["full"]}, "full": None}
    cells = sweep(pairs=[6, 8], settings=["heads", "full"], targets=targets).cells()
    assert [(cell.setting, cell.name) for cell in cells] == [
        ("heads", "random:6"),
        ("heads", "random:8"),
        ("heads", "full"),
        ("full", "herding:8"),
        ("full", "full"),
    ]


def test_every_method_gets_the_same_number_of_trials(sweep: Any) -> None:
    grid = {"distill.image_lr": [0.01, 0.03, 0.1], "distill.text_lr": [0.01, 0.03]}
    methods = {"bitraj": {}, "bilevel": {"grid": {"bilevel.steps": [5, 10, 20, 40]}}}
    cells = sweep(methods=methods, grid=grid, trials=4, minutes={100: 10, 500: 20}, pairs=[100, 500]).cells()
    tried = [cell for cell in cells if cell.kind == "method"]
    assert [len(cell.configs) for cell in tried] == [4] * 4
    rates = {(c.distill.image_lr, c.distill.text_lr) for c in tried[0].configs}
    assert len(rates) == 4 and rates < {(i, t) for i in (0.01, 0.03, 0.1) for t in (0.01, 0.03)}
    assert [cell.configs[0].distill.minutes for cell in tried] == [10, 20, 10, 20]
    assert [c.methods["bilevel"].steps for c in tried[2].configs] == [5, 10, 20, 40]
    with pytest.raises(ConfigError, match=r"method 'bilevel' has 4 options .* trials: 5"):
        sweep(methods=methods, grid=grid, trials=5).cells()


def test_a_cells_name_changes_with_what_its_set_depends_on_and_with_nothing_else(sweep: Any) -> None:
    def name(**options: Any) -> str:
        return sweep(methods={"bitraj": {"options": options}}, targets=[]).cells()[0].id

    same = name()
    for options in ({"evaluate.seeds": 2}, {"runtime.threads": 1}, {"data.cache": "/x"}, {"bilevel.steps": 3}):
        assert name(**options) == same, options
    for options in ({"distill.iterations": 7}, {"experts.count": 1}, {"bitraj.syn_steps": 3}, {"encoder.dim": 8}):
        assert name(**options) != same, options
    for options in ({"data.clean_captions": True}, {"data.views": 2}, {"data.max_pixels": 9}):
        assert name(**options) != same, options


def test_judging_is_part_of_a_cells_name_where_it_chooses_the_set_on_val_and_is_not_the_usual(sweep: Any) -> None:
    def name(grid: Any = None, **options: Any) -> str:
        entry = {"options": {"encoder.setting": "heads", **options}, **({"grid": grid} if grid else {})}
        settings = [options.get("encoder.setting", "heads")]
        cells = sweep(methods={"bitraj": entry}, targets=["random"], settings=settings).cells()
        assert cells[0].id == sweep(targets=["random"], settings=settings).cells()[0].id  # nothing is chosen there
        return cells[1].id

    other = {"evaluate.head_rates": [0.5], "evaluate.generic_epochs": 7}
    usual = {"evaluate.head_rates": [0.01, 0.03, 0.1, 0.3], "evaluate.generic_epochs": 100, "evaluate.seeds": 2}
    blind = {"distill.validate_every": 0}
    trained = {"encoder.setting": "full"}
    trials = {"distill.image_lr": [0.01, 0.03]}
    assert name(**usual) == name() and name(trials, **blind, **usual) == name(trials, **blind)
    assert name(**blind, **other) == name(**blind)
    assert name(**trained, **other) == name(**trained)
    for option, value in other.items():
        assert name(**{option: value}) != name()
        assert name(trials, **blind, **{option: value}) != name(trials, **blind)


def test_published_cells_keep_their_names() -> None:
    configs = ROOT / "src" / "vldistill" / "configs"
    known = {cell.id for cell in read_sweep(configs / "leaderboard_flickr8k_v1.yaml").cells()}
    published = json.loads((ROOT / "docs" / "results" / "leaderboard_v1.json").read_text())["cells"]
    assert {cell["cell"] for cell in published} <= known


def test_budgets_of_minutes_and_of_methods_are_all_named(sweep: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"minutes names 100 pairs, but not the 500 .* Add 500 to it \(0 is no limit\)"
    ):
        sweep(methods=["bitraj"], pairs=[100, 500], minutes={100: 10}).cells()
    with pytest.raises(ConfigError, match="but not the 500"):
        sweep(methods={"bitraj": {"pairs": [500]}}, minutes={100: 10}).cells()
    limits = sweep(methods=["bitraj"], targets=[], pairs=[100, 500], minutes={100: 10, 500: 0}).cells()
    assert [cell.configs[0].distill.minutes for cell in limits] == [10, 0]
    methods = {"bitraj": {"by_pairs": {50: {"bitraj.syn_steps": 3}}}}
    with pytest.raises(ConfigError, match=r"by_pairs names 50, which is not one of its budgets; .* some of 100, 500"):
        sweep(methods=methods, pairs=[100, 500])
    path = sweep(methods=["bitraj"]).path
    path.write_text(yaml.safe_dump({"base": "base.yaml", "methods": methods, "pairs": [100]}))
    assert read_sweep(path, other_pairs=True).methods["bitraj"].by_pairs.keys() == {50}


def test_data_read_in_another_way_has_experts_and_features_of_its_own(sweep: Any) -> None:
    clean = {"method": "bitraj", "options": {"data.clean_captions": True}}
    cells = sweep(methods={"bitraj": {}, "clean": clean}, targets=[]).cells()
    assert len(shared_experts(cells)) == 2 and len({cell.data_group for cell in cells}) == 2


def test_experts_are_shared_whatever_their_number(sweep: Any) -> None:
    asked = {"few": {"experts.count": 3}, "many": {"experts.count": 7}, "longer": {"experts.epochs": 9}}
    methods: dict[str, Any] = {name: {"method": "bitraj", "options": options} for name, options in asked.items()}
    methods["bilevel"] = {}
    groups = shared_experts(sweep(methods=methods).cells())
    assert sorted((config.experts.epochs, config.experts.count) for config in groups.values()) == [(3, 7), (9, 2)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"metods": ["bitraj"]}, "unknown key 'metods'. Did you mean methods"),
        ({"methods": ["bitrajj"]}, "unknown method 'bitrajj'. Did you mean bitraj"),
        ({"methods": {"bitraj": {"option": {}}}}, "unknown key 'option'. Did you mean options"),
        ({"methods": {"bitraj": {"settings": "hed"}}}, "unknown settings 'hed'"),
        ({"methods": {"bitraj": {"options": {"distill.pears": 3}}}}, "method 'bitraj'.*pears"),
        ({"methods": {"bitraj": {"options": {"bitraj.syn_steps": 0}}}}, "syn_steps is 0"),
        ({"methods": ["bitraj"], "pairs": [1]}, "pairs is .*2 or more"),
        ({"methods": ["bitraj"], "grid": {"distill.image_lr": 3}}, "grid is .*expected lists"),
        ({"methods": ["bitraj"], "minutes": -1}, "minutes is -1"),
        (
            {"methods": ["bitraj"], "minutes": {"100": 10}},
            "minutes has the key '100'; expected a number of pairs without",
        ),
        ({"methods": {"bitraj": {"by_pairs": {"100": {}}}}}, "bitraj.by_pairs has the key '100'"),
        ({"methods": {"bitraj": {"by_pairs": [100]}}}, r"by_pairs is \[100\]; expected a mapping by number of pairs"),
        ({"targets": "full"}, "targets is 'full'; expected a list"),
        ({"targets": ["randm"]}, "targets.randm: unknown selector 'randm'. Did you mean random"),
        ({"targets": ["random:one"]}, "targets.random:one: set .*random:N with N of 2 or more"),
        ({"targets": {"random": {"seeds": [1]}}}, "unknown key 'seeds'"),
        ({"targets": {"random": {"settings": "hed"}}}, "unknown settings 'hed'"),
        ({"targets": {"random": {"settings": [[]]}}}, r"unknown settings '\[\]'"),
        ({"methods": [], "targets": []}, "no methods and no targets"),
        ({"methods": ["bitraj"], "settings": [[]]}, r"settings is \[\[\]\]; expected a list of names"),
        ({"methods": ["bitraj"], "set": {"encoder": 5}}, "encoder is 5; expected options"),
        ({"methods": ["bitraj"], "towers": {"a/b": {}}}, "towers: 'a/b' cannot name towers"),
        ({"base": "configs/scene.yaml"}, "Did you mean scenes.yaml"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_remedy(sweep: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(**keys).cells()


def test_a_smoke_test_keeps_every_row_and_makes_each_small(sweep: Any) -> None:
    asked = sweep(
        pairs=[100, 500],
        towers={"own": {}, "other": {"image": {"name": "nfnet_l0"}}},
        methods={"bitraj": {}, "fixed text": {"method": "bitraj", "options": {"distill.text_lr": 0.0}}},
        targets=["random", "full", "random:1000"],
    )
    small = asked.shrunk().cells()
    assert [(c.row, c.towers, c.pairs) for c in small[:4]] == [
        ("random:6", "own", 6),
        ("full", "own", None),
        ("bitraj", "own", 6),
        ("fixed text", "own", 6),
    ]
    for cell in small:
        config = cell.configs[0]
        assert config.data.source.startswith("scenes:") and config.encoder.image.name == "convnet"
        assert config.distill.iterations == 2 and config.distill.pairs == 6
    assert small[3].configs[0].distill.text_lr == 0
    assert small[0].data_group != small[4].data_group  # towers that differ stay different
    config = small[0].configs[0]
    assert shrunken(config).data == config.data and shrunken(config).distill == replace(config.distill)
    assert config.encoder.text.name == "hashing"
    trained = replace(asked.cells()[0].configs[0], encoder=replace(config.encoder, setting="both"))
    trained = replace(trained, encoder=replace(trained.encoder, text=replace(config.encoder.text, name="minilm")))
    assert shrunken(trained).encoder.text.name == "minilm"  # the small one has nothing to train

"""The report: runs and the parts that need their data, as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vldistill.config.plain import Plain
from vldistill.reporting.charts import budget_chart, training_charts
from vldistill.reporting.costs import cost_table
from vldistill.reporting.overview import headline, result_table, short, tower_matrix, zero_shot_table
from vldistill.reporting.records import RunRecord
from vldistill.reporting.views import Extras, FigureView
from vldistill.version import __version__

HERE = Path(__file__).parent
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def render(runs: Sequence[RunRecord], extras: Mapping[str, Extras]) -> str:
    """The page.

    Args:
        runs: at least one.
        extras: parts that need a run's data, by its name; a run may be missing.

    Returns:
        A whole HTML document, without one address outside itself. Every text is escaped by the template engine; only
        drawings, the stylesheet and the script are taken as they are.
    """
    script, style = (HERE / "page.js").read_text("utf-8"), (HERE / "page.css").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["drawing"] = Markup
    known = [extras[run.name] for run in runs if run.name in extras]
    sets = [view for extra in known for view in extra.sets]
    browsers = [extra.browser for extra in known if extra.browser]
    many = len(runs) > 1
    maps = [
        FigureView(f"{view.run + ': ' if many else ''}{view.name}: {figure.title}", figure.svg, figure.note)
        for view in sets
        for figure in view.figures
    ]
    charts = [chart for chart in (budget_chart(runs), *training_charts(runs)) if chart]
    sections = [("results", "Results"), ("curves", "Curves"), ("gallery", "Gallery"), ("browser", "Retrieval browser")]
    sections += [("maps", "Maps"), ("towers", "Towers"), ("cost", "Cost"), ("how", "Configuration")]
    empty = {"curves": not charts, "gallery": not sets, "browser": not browsers, "maps": not maps}
    page = environment.get_template("page.html.j2").render(
        title=", ".join(run.name for run in runs),
        many=many,
        sections=[(anchor, name) for anchor, name in sections if not empty.get(anchor)],
        headline=headline(runs),
        facts=_facts(runs),
        notes=[note for run in runs for note in run.notes] + [note for extra in known for note in extra.notes],
        results=result_table(runs),
        zero_shot=zero_shot_table(runs),
        grouped=any(pair.group is not None for view in sets for pair in view.pairs),
        charts=charts,
        sets=sets,
        browsers=browsers,
        maps=maps,
        matrix=tower_matrix(runs),
        cost=cost_table(runs),
        runs=[_run_view(run) for run in runs],
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M"),
        script=Markup(script),
        style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", page.encode("utf-8", "replace").decode())


def _facts(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The main facts of the runs' configurations: (name, value)."""

    def fact(name: str, values: Iterable[Plain], show: Callable[[str], str] = str) -> list[tuple[str, str]]:
        different = dict.fromkeys(str(value) for value in values if value is not None)
        return [(name, ", ".join(map(show, different)))] if different else []

    def configured(*path: str) -> list[Plain]:
        return [_lookup(run.config, path) for run in runs]

    return [
        *fact("data", configured("data", "source")),
        *fact("image tower", configured("encoder", "image", "name")),
        *fact("text tower", configured("encoder", "text", "name"), short),
        *fact("setting", configured("encoder", "setting")),
        *fact("method", (str(item.info.get("method")) for run in runs for item in run.sets if item.finished)),
        *fact("commit", (run.environment.get("commit") or None for run in runs)),
    ]


def _lookup(value: Plain, path: Sequence[str]) -> Plain:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _run_view(run: RunRecord) -> dict[str, Plain]:
    sets = [(item.name, item.info.get("config")) for item in run.sets if item.finished]
    shown = [(name, _pretty(config)) for name, config in sets if config]
    plain: dict[str, Plain] = {"name": run.name, "commands": run.commands, "config_text": run.config_text}
    return plain | {"sets": shown, "environment": _pretty(run.environment) if run.environment else ""}


def _pretty(value: Plain) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

"""``vldistill report RUN [RUN2 ...]``: one offline HTML file about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vldistill.errors import ConfigError, Stopped, VldistillError
from vldistill.reporting.records import RunRecord, SetRecord, read_runs
from vldistill.reporting.views import BrowserView, Extras, SetView
from vldistill.runtime.log import Reporter
from vldistill.storage.files import human_bytes, storage_errors, write_text
from vldistill.workbench.opening import open_bench

GALLERY_BYTES, BROWSER_BYTES = 5_500_000, 1_500_000
"""What pictures may take of the page, all runs together: with drawings and texts it stays below 10 MB."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report.

    Args:
        students: train students for the retrieval browser: ``auto`` (where that takes seconds: with frozen towers, or
            on an accelerator), ``always``, or ``never``.
        queries: number of captions, and of photos, that are queries of the retrieval browser.
    """

    students: str = "auto"
    queries: int = 24

    def __post_init__(self) -> None:
        if self.students not in ("auto", "always", "never"):
            raise ConfigError(f"--students is {self.students!r}; expected auto, always or never.")
        if not 1 <= self.queries <= 200:
            raise ConfigError(f"--queries is {self.queries}; expected a number from 1 to 200.")


def write_report(folders: Sequence[Path], out: str | None, options: ReportOptions, reporter: Reporter) -> Path:
    """Write the report of some runs; returns its path.

    Raises:
        ConfigError: a folder that is not a run, or a file that cannot be written.
        Stopped: by the user; trained students are kept.
    """
    path = Path(out) if out else folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    runs = read_runs(folders)
    with storage_errors(path):
        if path.is_dir():
            raise ConfigError(f"--out {path} is a folder; expected a file, e.g. {path / 'report.html'}.")
        path.parent.mkdir(parents=True, exist_ok=True)
    count = max(1, sum(item.finished for run in runs for item in run.sets))
    try:
        extras = {
            run.name: _extras(run, number, options, reporter, GALLERY_BYTES // count, BROWSER_BYTES // len(runs))
            for number, run in enumerate(runs)
        }
    except KeyboardInterrupt:
        raise Stopped("stopped; trained students are kept. Run the same command to resume.") from None
    from vldistill.reporting.page import render

    text = render(runs, extras)
    write_text(path, text)
    reporter.info(f"report of {', '.join(run.name for run in runs)}: {human_bytes(path.stat().st_size)}, offline")
    return path


def _extras(
    run: RunRecord, number: int, options: ReportOptions, reporter: Reporter, set_bytes: int, browser_bytes: int
) -> Extras:
    """The parts of one run that need torch, and if possible its data."""
    finished = [item for item in run.sets if item.finished]
    if not finished:
        return Extras()
    from vldistill.distilled.distilled_set import DistilledSet
    from vldistill.reporting.gallery import view_set

    bench, select, notes = _open_bench(run, reporter)
    trouble = notes[0] if notes else ""
    views: list[SetView] = []
    loaded: list[tuple[DistilledSet, SetRecord]] = []
    for index, item in enumerate(finished):
        try:
            distilled = DistilledSet.load(item.folder)
            views.append(view_set(run.name, distilled, bench, f"set{number}-{index}", set_bytes, trouble, select))
            loaded.append((distilled, item))
        except VldistillError as error:
            reporter.warn(str(error))
            notes.append(str(error))
    if bench and bench.has_classes:
        notes.append(
            f"{run.name} has no retrieval browser: prompts of one class are equal, so none has a photo of its own."
        )
        return Extras(views, None, notes)
    browser = _browser(run, bench, loaded, options, browser_bytes) if bench and loaded else None
    return Extras(views, browser, notes)


def _open_bench(run: RunRecord, reporter: Reporter):
    """The workbench of a run, or None and the reason: a report can be made without the data."""
    from vldistill.options.words import parse

    if not run.config:
        return None, None, [f"{run.name} has no configuration: only the contents of its sets are shown."]
    try:
        config, _ = parse("evaluate", ["--run", str(run.folder)])
        bench = open_bench(config, reporter)
        bench.pairs("train")
        bench.check_towers()
        return bench, config.select, []
    except (VldistillError, ImportError, OSError) as error:
        reporter.warn(f"{run.name}: its data or towers are not available here ({error})")
        why = f"The data or towers of {run.name} were not available when this report was made"
        return None, None, [f"{why}: no pictures before, no nearest photos, no maps, no students. {error}"]


def _browser(run: RunRecord, bench, loaded, options: ReportOptions, budget: int) -> BrowserView | None:
    from vldistill.reporting.browser import browse, worth_training

    if options.students == "never":
        return None
    if options.students == "auto" and not worth_training(bench):
        return BrowserView(
            run.name,
            note=f"Students of setting {bench.setting} train a whole tower, which is slow on a CPU, so none is "
            f"trained. vldistill report {run.folder} --students always trains them.",
        )
    sets = [(distilled, str(item.record.get("sha256"))) for distilled, item in loaded]
    try:
        return browse(bench, run, sets, options.queries, budget)
    except VldistillError as error:
        bench.reporter.warn(f"{run.name}: no retrieval browser: {error}")
        return BrowserView(run.name, note=f"No retrieval browser: {error}")

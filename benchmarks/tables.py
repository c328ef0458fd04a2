"""Write the tables of the documentation from docs/results: python benchmarks/tables.py [--check].

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->`` in a Markdown file; NAME is a file of
docs/results without its ending. The options of a section or a method stand between ``<!-- options: NAME -->`` and
``<!-- end options -->``, made of the code that defines them. ``<!-- summary: NAME: ROW|PAIRS, ... -->`` shows some rows
of a comparison in few columns. ``--check`` changes nothing and fails when a table is not
what its file says. ``--take RUN NAME`` first copies the result of the comparison in RUN to docs/results/NAME.json;
``--take FILE NAME`` that of a matrix that `vldistill cross` wrote. ``--give NAME RUN`` puts
the finished cells of such a result back into the folder RUN, so that `vldistill compare` goes on with those it lacks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser

from vldistill.comparison.rows import Row
from vldistill.comparison.table import comparison_markdown
from vldistill.comparison.trials import TRIED, tried_row
from vldistill.evaluation.measures import title_of
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.tables import evaluation_text, markdown
from vldistill.storage.files import CHECKSUM, human_bytes, write_json, write_record, write_text
from vldistill.workbench.headline import TOP1

ROOT = Path(__file__).resolve().parent.parent
ONLY = re.compile(r" --only ('[^']*'|\"[^\"]*\"|\S+)")
TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end table -->)", re.DOTALL)
SUMMARY = re.compile(r"(<!-- summary: (?P<name>[\w-]+): (?P<rows>[^>]*) -->\n).*?(<!-- end table -->)", re.DOTALL)
OPTIONS = re.compile(r"(<!-- options: (?P<name>\w+) -->\n).*?(<!-- end options -->)", re.DOTALL)


def study_table(study: dict[str, Any]) -> str:
    """One row per set and recipe, what the numbers mean, and the command that made them."""
    table, _, note = evaluation_text([Evaluation.from_json(row) for row in study["rows"]]).rpartition("\n")
    made = f"Commit `{study['environment']['commit']}`, command\n`{study['command']}`."
    return f"{table}\n\nTest split, {note}. {_taken(study)}{made}\n"


def _taken(study: dict[str, Any]) -> str:
    """What a study's sets and experts took, where it says so."""
    sets = [f"{row['set']} {row['distilled']['seconds']:,.0f} s" for row in study["rows"] if "distilled" in row]
    if study.get("experts_seconds", 0) >= 1:  # else they were there before
        sets.append(f"the experts {study['experts_seconds']:,.0f} s")
    return f"Took on a shared machine, {study['environment']['threads']} thread(s): {', '.join(sets)}. " if sets else ""


def gradient_table(result: dict[str, Any]) -> str:
    """Estimators beside ``unrolled``: one row per tower and number of inner steps."""
    header = ["tower", "pairs", "pixels", "T", "estimator", "time / unrolled", "activations", "activations / unrolled"]
    rows = []
    for row in result["rows"]:
        if not row["seconds"]:
            continue
        key = f"{row['estimator']}_over_unrolled/{row['model']}/T{row['steps']}"
        ratios = [result["ratios"].get(f"{kind}_{key}") for kind in ("time", "activations")]
        time, memory = [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
        size = f"{row['activation_bytes'][0] / 1e9:.2f} GB"
        told = [str(row[name]) for name in ("model", "pairs", "size", "steps", "estimator")]
        rows.append([*told, time, size, memory])
    note = f"{result['dtype']}, {result['device']}, {result['threads']} thread(s); ratios are medians within one run"
    return f"{markdown(header, rows)}\n\n{note}. Commit `{result['commit']}`, command\n`{result['command']}`.\n"


def ablation_table(result: dict[str, Any]) -> str:
    """Variants on val."""
    rows = [
        [row["variant"], ", ".join(f"{k}={v}" for k, v in row["options"].items()), spread(row["val"]),
         f"{row['distill_seconds']:.0f}"]
        for row in result["rows"]
    ]  # fmt: skip
    table = markdown(["variant", "differs in", "mean recall on val", "seconds"], rows)
    base = ", ".join(f"{name}={value}" for name, value in result["base"].items())
    return (
        f"{table}\n\nGeneric recipe, {result['students']} students, mean ± standard deviation in percent; base: "
        f"{base}. "
        f"Commit `{result['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def recipes_table(result: dict[str, Any]) -> str:
    """Variants of the recipe that sets carry, on val."""
    names = list(result["rows"][0]["own_recipe_val"])
    rows = [
        [str(row["momentum"]), str(row["batch"] or "all"), str(row["epochs"]), row.get("schedule", "constant"),
         *(spread(row["own_recipe_val"][name]) for name in names)]
        for row in result["rows"]
    ]  # fmt: skip
    table = markdown(["momentum", "batch", "epochs", "schedule", *names], rows)
    return (
        f"{table}\n\nMean of six recalls on val in percent, mean ± "
        f"standard deviation of {result['students']} students. Commit `{result['environment']['commit']}`, command\n"
        f"`{result['command']}`.\n"
    )


def experts_table(result: dict[str, Any]) -> str:
    """Experts after every epoch, on val."""
    epochs = list(result["rows"][0]["expert_val"])
    rows = [
        [str(row["batch"]), str(row["rate"]), str(row["noise"]), *(spread(row["expert_val"][e]) for e in epochs)]
        for row in result["rows"]
    ]
    header = ["batch", "rate", "noise", *(f"epoch {epoch}" for epoch in epochs)]
    return (
        f"{markdown(header, rows)}\n\nMean of six recalls on val in percent, mean ± standard deviation of "
        f"{result['experts']} experts. Commit `{result['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def retrieval_table(result: dict[str, Any]) -> str:
    """The ranking against the per-row one."""
    rival = result["per_row"]
    rows = [
        ["per-row `argsort`", f"{rival['product_seconds']:.2f} s", f"{rival['total_seconds']:.2f} s", ""],
        ["`retrieval_ranks`", f"{result['bare_product_seconds']:.2f} s", f"{result['seconds']:.2f} s",
         f"{result['extra_bytes'] / 1e6:.0f} MB"],
    ]  # fmt: skip
    table = markdown(["", "the matrix product alone", "all", "extra memory"], rows)
    shares = {entry["name"]: entry["value"] for entry in result["targets"]}
    return (
        f"{table}\n\n{result['images']:,} images, {result['captions']:,} captions, {result['dim']}-d, both directions, "
        f"{result['threads']} thread(s): {shares['ratio_with_product']:.3f} of the time with the product, "
        f"{shares['ratio_of_ranking_beyond_product']:.3f} of what is not product. Commit "
        f"`{result['commit']}`, command\n`{result['command']}`.\n"
    )


def heads_table(result: dict[str, Any]) -> str:
    """What frozen towers cost beyond the arithmetic that is needed."""
    words = {
        "expert_over_products": "an epoch of an expert, over its bare matrix products",
        "iteration_over_tower_and_steps": "an outer iteration, over one pass there and back of the tower and its steps",
        "folded_over_tower": "a pass there and back of the folded tower, over one of the tower as published",
        "naive_over_ours": "an outer iteration that encodes the images in every step, over ours",
    }
    rows = [[text, f"{result['ratios'][name]['seconds']:.2f}"] for name, text in words.items()]
    for pairs, ratio in result["ratios"].get("spanned_over_written", {}).items():
        what = f"{result['spanned_steps']} inner steps of {pairs} pairs and their gradient, spanned over written out"
        rows.append([what, f"{ratio['seconds']:.2f}"])
    tower = result["tower"]
    return (
        f"{markdown(['time of', 'ratio'], rows)}\n\n{tower['name']} at {tower['size']} px, {tower['pairs']} pairs, "
        f"{tower['steps']} inner steps, {result['threads']} thread(s); medians within one run. Commit "
        f"`{result['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def memory_table(result: dict[str, Any]) -> str:
    """What fits by shapes, the paper's hours at assumed speeds, and shapes against measured memory."""
    fits = [
        [row["tower"], f"{row['size']}", human_bytes(row["bytes_per_pair"]), human_bytes(row["fixed_bytes"]),
         *(str(pairs) for pairs in row["pairs_per_step"].values())]
        for row in result["fits"]
    ]  # fmt: skip
    gpus = list(result["fits"][0]["pairs_per_step"])
    text = markdown(["tower trained", "pixels", "each pair of a step", "besides", *(f"pairs, {g}" for g in gpus)], fits)
    steps, speeds = result["fits"][0]["steps"], result["hours"]["assumed_tflop_per_second"]
    text += (
        f"\n\nPairs in each of {steps} inner steps, computed from shapes, with 15 % left free; nothing was measured "
        f"on a GPU.\n\n"
    )
    paper = [
        [name, f"{speeds[name][0]}", f"{speeds[name][1]}", f"{found['experts']:.1f}", f"{found['distill']:.1f}"]
        for name, found in result["hours"]["hours"].items()
    ]
    head = ["on", "TFLOP/s, experts", "TFLOP/s, distill", "hours, 20 experts", "hours, distill"]
    text += markdown(head, paper)
    work = result["hours"]
    text += (
        f"\n\nHours of the Flickr30K row, computed: {work['experts_tflop']:,} and {work['distill_tflop']:,} TFLOP over "
        f"speeds that are assumed, not measured.\n"
    )
    rows = [
        [row["work"], row["tower"], f"{row['size']}", f"{row['pairs']}", f"{row['steps']}",
         human_bytes(row["computed"]), human_bytes(row["measured"]), f"{row['off']:+.0%}"]
        for row in result.get("rows", ()) if "off" in row
    ]  # fmt: skip
    if rows:
        checked = ["work", "tower", "pixels", "pairs", "inner steps", "computed", "measured", "off"]
        text += f"\n{markdown(checked, rows)}\n\nOn a CPU, float32. Command `{result['command']}`.\n"
    return text


def precision_table(result: dict[str, Any]) -> str:
    """What each part does in each format, beside the spread of seeds."""
    rows = [
        [row["part"], row["format"], f"{row['mean']:.1f}", f"{row['moved']:+.2f}", f"{row['spread_of_seeds']:.2f}",
         "yes" if row["within"] else "no"]
        for row in result["rows"] if "mean" in row and row["format"] != "float32"
    ]  # fmt: skip
    head = ["computed in the format", "format", "mean recall on val", "moved", "spread of seeds", "within it"]
    text = markdown(head, rows)
    gradients = [
        [row["format"], *(f"{row['gradients'][name][key]:.3g}" for name in ("images", "texts")
                          for key in ("cosine", "relative_error"))]
        for row in result.get("gradients_through_a_trained_tower", ()) if "gradients" in row
    ]  # fmt: skip
    if gradients:
        head = ["format", "images: cosine", "relative error", "texts: cosine", "relative error"]
        shown = markdown(head, gradients)
        text += f"\n\nGradients through 4 inner steps of a trained MobileNetV2, against float32:\n\n{shown}"
    asked = result["asked"]
    return (
        f"{text}\n\nFlickr8k, the first {asked['images']:,} training photos, towers frozen, heads of width "
        f"{asked['dim']}; {asked['seeds']} students, {asked['sets']} distillations a row. "
        f"Commit `{result['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def selectors_table(result: dict[str, Any]) -> str:
    """Time and memory of every selector."""
    measured = result["selectors"]
    rows = [
        [f"`{name}`", f"{row['seconds']:.0f} s", human_bytes(row["peak_memory_bytes"])]
        for name, row in measured.items()
    ]
    one = next(iter(measured.values()))
    return (
        f"{markdown(['selector', 'time', 'peak memory'], rows)}\n\n{result['pairs']:,} picks of {result['images']:,} "
        f"images with {result['captions']:,} captions, {result['dim']}-d float16 features of each side on disk, "
        f"{one['threads']} thread(s); `facility` covers and chooses from {result['ground_set']:,} drawn pairs. The "
        f"warm-up that some need is apart. Commit `{one['commit']}`, command\n`{one['command'].strip()}`.\n"
    )


def selection_table(result: dict[str, Any]) -> str:
    """Mean recall of students on chosen pairs, and how well wrong captions are found."""
    known = result["selectors"]
    budgets = sorted({int(pairs) for row in known.values() for pairs in row})
    rows = []
    for name, row in known.items():
        cells = [row.get(str(pairs)) for pairs in budgets]
        random = [known.get("random", {}).get(str(pairs)) for pairs in budgets]
        gains = [f" (x {one['mean'] / base['mean']:.2f})" if one and base else "" for one, base in zip(cells, random)]
        rows.append([f"`{name}`", *(spread(one) + gain if one else "-" for one, gain in zip(cells, gains))])
    table = markdown(["selector", *(f"{pairs:,} pairs" for pairs in budgets)], rows)
    text = f"{table}\n\nMean recall on test in percent, its standard deviation over students, the gain over random.\n"
    if noise := result.get("noise"):
        text += (
            f"\nOf {noise['wrong']:,} captions that changed places (a fifth) weights find {noise['recall']:.0%}, at a "
            f"precision of {noise['precision']:.0%}."
        )
        if "share_of_clean" in noise:
            clean, weighed, mixed = (noise[name]["mean"] for name in ("clean", "weighed", "mixed"))
            text += (
                f" Students by one recipe reach {clean:.1f} on the clean pairs, {mixed:.1f} on the mixed ones and "
                f"{weighed:.1f} with the weights, {weighed / clean:.0%} of clean."
            )
        text += "\n"
    return f"{text}\nCommit `{result['environment']['commit']}`, command\n`{result['command']}`.\n"


def filtering_table(result: dict[str, Any]) -> str:
    """Seconds and memory of filters and detectors by size, and a straight line to ten millions."""
    sizes = {int(rows): steps for rows, steps in result["sizes"].items()}
    header = ["step", *(f"{rows:,} rows" for rows in sorted(sizes))]
    more = max(sizes) < TEN_MILLIONS
    lines = []
    for step in dict.fromkeys(step for steps in sizes.values() for step in steps):
        told = {rows: sizes[rows][step] for rows in sorted(sizes) if step in sizes[rows]}
        shown = {rows: f"{one['cpu_seconds']:.1f} s, {one['own_bytes'] / 1e9:.2f} GB" for rows, one in told.items()}
        line = [step, *(shown.get(rows, "-") for rows in sorted(sizes))]
        if more:
            many, high = max(told.items())
            few, low = min(told.items())
            seconds = high["cpu_seconds"] * (TEN_MILLIONS / many) ** POWERS.get(step, 1.0)
            slope = max(0, high["own_bytes"] - low["own_bytes"]) / (many - few) if many > few else 0.0
            own = f"{(high['own_bytes'] + slope * (TEN_MILLIONS - many)) / 1e9:.1f} GB" if slope else "-"
            line.append(f"{seconds:,.0f} s, {own}")
        lines.append(line)
    header += [f"{TEN_MILLIONS:,} rows, extrapolated"] if more else []
    return (
        f"{markdown(header, lines)}\n\nCPU seconds of one thread; memory that is not pages of files, Python and torch "
        f"included. Memory grows in a straight line; seconds do too, but for `semantic` (power 1.5) and "
        f"`near` (power 2: the groups of a band grow with the rows). "
        f"Features of {result['width']} numbers. Commit `{result['environment']['commit']}`, command\n"
        f"`{result['command']}`.\n"
    )


TEN_MILLIONS = 10_000_000
POWERS = {"semantic": 1.5, "near": 2.0}


def torture_table(result: dict[str, Any]) -> str:
    """Killed processes: how many, in which stage, and whether anything came out different."""
    killed = {name.split()[1] for name in result["kills_by_stage"]}
    stages = ["encode", "experts", "distill", "evaluate", *(one for one in ("select", "curve") if one in killed)]
    settings = list(dict.fromkeys(name.split()[0] for name in result["kills_by_stage"]))
    by_stage = result["kills_by_stage"]
    rows = [[setting, *(str(by_stage.get(f"{setting} {stage}", 0)) for stage in stages)] for setting in settings]
    hit = sum(count for name, count in result["kills_hit"].items() if name != "between writes")
    same = f"{result['lives_identical']} of {result['lives']} runs identical to undisturbed ones"
    return (
        f"{markdown(['setting, kills in', *stages], rows)}\n\n{result['kills']} processes killed, {hit} of them while "
        f"a file was being written; {same}, {len(result['lost'])} lost. Seed {result['seed']}. Commit "
        f"`{result['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def load_table(result: dict[str, Any]) -> str:
    """Peak memory of commands on many captions."""
    rows = [
        [f"`{name}`", f"{row['peak_memory_bytes'] / 1e9:.2f} GB", f"{row['cpu_seconds']:.0f}",
         "yes" if row["met"] else "no"]
        for name, row in result["load"].items()
    ]  # fmt: skip
    table = markdown(["command", "peak memory", "CPU seconds", "done within 4 GB"], rows)
    return (
        f"{table}\n\n{result['images']:,} images, {result['captions']:,} captions, a json of "
        f"{result['json_bytes'] / 1e6:.0f} MB. Commit `{result['environment']['commit']}`, command\n"
        f"`{result['command']}`.\n"
    )


def fuzz_table(result: dict[str, Any]) -> str:
    """Targets of the fuzzer: cases, how they ended, the slowest and the largest."""
    rows = []
    for name, row in result["targets"].items():
        refused = sum(count for outcome, count in row["outcomes"].items() if outcome != "result")
        rows.append(
            [f"`{name}`", f"{row['cases']:,}", f"{row['outcomes'].get('result', 0):,}", f"{refused:,}",
             f"{row['slowest_case_seconds']:.2f} s", human_bytes(row["peak_memory_bytes"]), str(len(row["findings"]))]
        )  # fmt: skip
    total = result["total"]
    header = ["target", "cases", "read", "refused by our own error", "slowest case", "memory", "findings"]
    return (
        f"{markdown(header, rows)}\n\n{total['cases']:,} cases in {total['seconds']:.0f} s, seed {result['seed']}; "
        f"memory beyond that of the process before. A finding is a crash, more than 5 s or 1 GB, a write elsewhere, a "
        f"process or a connection. Commit `{result['commit']}`, command\n`{result['command']}`.\n"
    )


LARGER = {"CC12M": 12_423_374, "LAION-400M": 413_871_335}  # pairs, as their papers count them


def scale_table(result: dict[str, Any]) -> str:
    """Seconds and memory of every stage by size, and the straight line through the two largest sizes."""
    rows = result["rows"]
    header = ["stage", *(f"{row['images']:,} pairs" for row in rows)]
    lines = []
    for stage in rows[0]["stages"]:
        told = [row["stages"][stage] for row in rows]
        line = [stage, *(f"{one['cpu_seconds']:.0f} s, {one['own_bytes'] / 1e9:.2f} GB" for one in told)]
        if len(rows) > 1:
            line += [_extrapolated(rows[-2:], stage, pairs) for pairs in LARGER.values()]
        lines.append(line)
    header += [f"{name} ({pairs / 1e6:.0f} M)" for name, pairs in LARGER.items()] if len(rows) > 1 else []
    disk = rows[-1]
    most = max(one["resident_bytes"] for row in rows for one in row["stages"].values())
    return (
        f"{markdown(header, lines)}\n\nCPU seconds of one thread; memory that is not pages of files, Python and torch "
        f"included; most resident memory of any stage {most / 1e9:.2f} GB. On disk at {disk['images']:,} pairs: source "
        f"{disk['source_bytes'] / 1e9:.2f} GB, cache {disk['cache_bytes'] / 1e9:.2f} GB. The last two columns are "
        f"extrapolated. Commit `{disk['environment']['commit']}`, command\n`{result['command']}`.\n"
    )


def vectors_table(result: dict[str, Any]) -> str:
    """The rows of demonstrations on vectors, each with its own sides."""
    parts = []
    for one in result["demonstrations"]:
        sides, full = one["sides"], one["rows"][-1]["mean_recall"]["mean"]
        random = one["rows"][0]["mean_recall"]["mean"]
        header = ["row", "pairs", "stored floats", "mean recall", *(title_of(name, sides) for name in ("tr1", "ir1"))]
        lines = [
            [
                row["set"], f"{row['pairs']:,}", f"{row['stored_floats']:,}",
                *(spread(row[name]) for name in ("mean_recall", "tr1", "ir1")),
                f"x {row['mean_recall']['mean'] / random:.2f}", f"{row['mean_recall']['mean'] / full:.0%}",
            ]
            for row in one["rows"]
        ]  # fmt: skip
        counts = ", ".join(f"{count:,} {split}" for split, count in one["pairs"].items())
        table = markdown([*header, "over random", "of full"], lines)
        parts.append(f"**{one['name']}** ({counts}; chance {one['chance']:.2f})\n\n{table}")
    told = "Mean ± standard deviation over three students in percent, generic recipe"
    return "\n\n".join(parts) + f"\n\n{told}; command\n`{result['command']}`.\n"


def vectors_scale_table(result: dict[str, Any]) -> str:
    """Seconds and memory of every stage on vectors, and the straight line through the two largest sizes."""
    rows = result["vectors"]
    larger = 10_000_000
    reached = rows[-1]["pairs"] >= larger
    header = ["stage", *(f"{row['pairs']:,} pairs" for row in rows), *([] if reached else [f"{larger:,} pairs"])]
    lines = []
    for stage in rows[0]["stages"]:
        told = [row["stages"][stage] for row in rows]
        line = [stage, *(f"{one['cpu_seconds']:.0f} s, {one['own_bytes'] / 1e9:.2f} GB" for one in told)]
        if not reached:
            line.append(_at(told[-2:], [row["pairs"] for row in rows[-2:]], larger))
        lines.append(line)
    disk = rows[-1]
    said = "" if reached else " The last column is extrapolated, on the line through the two sizes before it."
    return (
        f"{markdown(header, lines)}\n\nCPU seconds of one thread; memory that is not pages of files, Python and torch "
        f"included. On disk at {disk['pairs']:,} pairs: source {disk['source_bytes'] / 1e9:.2f} GB, cache "
        f"{disk['cache_bytes'] / 1e6:.2f} MB.{said} Command\n`{result['command']}`.\n"
    )


def _at(told: list[dict[str, Any]], sizes: list[int], pairs: int) -> str:
    """Seconds at ``pairs``, on the line through two sizes; memory does not grow along a line."""
    reach = (pairs - sizes[1]) / (sizes[1] - sizes[0])
    return f"{told[1]['cpu_seconds'] + reach * max(0, told[1]['cpu_seconds'] - told[0]['cpu_seconds']):.0f} s"


def spread(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.1f} ± {figure['std']:.1f}"


def _extrapolated(rows: list[dict[str, Any]], stage: str, pairs: int) -> str:
    """Hours and memory of a stage at ``pairs``, on the line through two sizes."""
    small, large = rows
    reach = (pairs - large["images"]) / (large["images"] - small["images"])
    seconds, memory = (
        large["stages"][stage][name] + reach * max(0, large["stages"][stage][name] - small["stages"][stage][name])
        for name in ("cpu_seconds", "own_bytes")
    )
    return f"{seconds / 3600:.1f} h, {memory / 1e9:.0f} GB"


def comparison_table(result: dict[str, Any]) -> str:
    """A comparison as its own command writes it."""
    text = comparison_markdown([Row.from_json(row) for row in result["rows"]], result["failed"]).rstrip()
    left = f" {len(result['missing'])} cells are not done." if result["missing"] else ""
    commits = dict.fromkeys(cell.get("commit") or result["environment"]["commit"] for cell in result["cells"])
    said = f"Commit{'s' if len(commits) > 1 else ''} {', '.join(f'`{one}`' for one in commits)}"
    command, parts = ONLY.subn("", result["environment"]["command"])
    piecewise = ", a few cells at a time with `--only`" if parts else ""
    return f"{text}{left} {said}, command\n`{command}`{piecewise}.\n"


def summary_table(result: dict[str, Any], wanted: str) -> str:
    """Some rows of a comparison, named ``ROW|PAIRS``, of one of several data ``DATA: ROW|PAIRS``, in few columns."""
    every = [row for row in map(Row.from_json, result["rows"]) if row.setting == "heads"]
    rows = {(tried_row(row.data, row.row), row.pairs): row for row in every}
    lines, classes = [], False
    for name, pairs in re.findall(r"(.+?)\|(\d+)(?:, |$)", wanted.strip()):
        row = rows[name, int(pairs)]
        classes |= row.measure == TOP1
        share = "-" if row.share is None else f"{row.share:.0%}"
        gain = "-" if row.gain is None else f"x {row.gain:.1f}"
        floats = f"{row.stored_floats:,}" if row.stored_floats else "-"
        lines.append([name, f"{row.pairs:,}", floats, str(row.generic), gain, share])
    header = ["row", "pairs", "stored floats", "top-1" if classes else "mean recall", "over random", "of full"]
    chosen = " and ".join(sorted({row.chosen_by for row in rows.values() if row.chosen_by}))
    measure = "Zero-shot top-1" if classes else "Mean of six recalls"
    return f"{markdown(header, lines)}\n\n{measure} on test in percent, generic recipe by {chosen}.\n"


def matrix_table(result: dict[str, Any]) -> str:
    """Sets by towers."""
    cells = {name.rpartition(" on ")[::2]: cell for name, cell in result["results"].items()}
    failed = [name.rpartition(" on ")[::2] for name in result.get("failed", ())]
    sets, towers = (list(dict.fromkeys(key[side] for key in (*cells, *failed))) for side in (0, 1))
    about = next(iter(cells.values()))
    recipe = "generic" if about.get("generic") else "own"

    def shown(row: str, column: str) -> str:
        if (row, column) in failed:
            return "failed"
        figures = cells.get((row, column), {}).get(recipe)
        return spread(figures["mean_recall"]) if figures else "-"

    one = {there: cell["image_tower"] for (_, there), cell in reversed(cells.items())}
    header = ["set", *(f"{one.get(column, column)}{' (own)' * (column == 'own')}" for column in towers)]
    rows = [[row, *(shown(row, column) for column in towers)] for row in sets]
    return (
        f"{markdown(header, rows)}\n\nMean of six recalls on test in percent, {recipe} recipe, setting "
        f"{about['setting']}, protocol {about['protocol']}, mean ± standard deviation over {about['seeds']} students. "
        f"Commit `{result['environment']['commit']}`, command\n`{result['environment']['command']}`.\n"
    )


def take(run: Path, name: str) -> None:
    """Copy the result of a comparison or a matrix, without the places of its files."""
    result = json.loads((run / "table.json" if run.is_dir() else run).read_text(encoding="utf-8"))
    matrix = list(result["results"].values()) if "results" in result else []
    for cell in [*result.get("cells", ()), *matrix]:
        cell["commit"] = (cell.pop("environment", None) or {}).get("commit")
        for trial in cell.get("trials", ()):
            trial.pop("set", None)
        if cell.get("making"):
            cell["making"].pop("set", None)
    result.pop(CHECKSUM, None)  # of the record as it was
    write_json(ROOT / "docs" / "results" / f"{name}.json", result)


def give(name: str, run: Path) -> None:
    """Put the finished cells of a result into a comparison's folder, where they are not done again."""
    result = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    run.mkdir(parents=True, exist_ok=True)
    for cell in result["cells"]:
        path = run / "cells" / cell["cell"] / "result.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_record(path, {**cell, "environment": {"commit": cell["commit"]}})
    for *place, known in result.get("tried", ()):
        row = dict(zip(("setting", "towers", "row", "pairs"), place))
        with (run / TRIED).open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps({**row, "config": one}) + "\n" for one in known)


def table_of(result: dict[str, Any]) -> str:
    """The table that fits what ``result`` holds."""
    if "results" in result:
        return matrix_table(result)
    if "sweep" in result:
        return comparison_table(result)
    if "per_row" in result:
        return retrieval_table(result)
    if "targets" in result and "total" in result:
        return fuzz_table(result)
    if "naive_over_ours" in result.get("ratios", {}):
        return heads_table(result)
    if "sizes" in result:
        return filtering_table(result)
    if "noise" in result:
        return selection_table(result)
    if "selectors" in result:
        return selectors_table(result)
    if "kills" in result:
        return torture_table(result)
    if "demonstrations" in result:
        return vectors_table(result)
    if "vectors" in result:
        return vectors_scale_table(result)
    if "load" in result:
        return load_table(result)
    if "fits" in result:
        return memory_table(result)
    if "spread_of_seeds" in result.get("rows", [{}])[0]:
        return precision_table(result)
    kinds = {
        "estimator": gradient_table,
        "variant": ablation_table,
        "stages": scale_table,
        "own_recipe_val": recipes_table,
        "expert_val": experts_table,
    }
    return next((make for key, make in kinds.items() if key in result["rows"][0]), study_table)(result)


def options_table(name: str) -> str:
    """Every option of a section or a method: its default and what its class says of it."""
    from vldistill import config
    from vldistill.distillation.method import METHODS

    cls = getattr(config, f"{name.capitalize()}Config", None) or METHODS[name].options
    rows = [[f"`{option}`", default, said] for option, default, said in _options(cls)]
    return f"{markdown(['option', 'default', 'meaning'], rows)}\n"


def _options(cls: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    said: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        said |= {
            p.arg_name: " ".join((p.description or "").split())
            for p in docstring_parser.parse(one.__doc__ or "").params
        }
    kinds = get_type_hints(cls)
    for option in fields(cls):
        if is_dataclass(kinds[option.name]):
            yield from _options(kinds[option.name], f"{prefix}{option.name}.")
            continue
        make = option.default_factory
        default = option.default if make is MISSING else make()
        shown = json.dumps(default if default != () else [])
        yield f"{prefix}{option.name}", f"`{shown}`", said[option.name].replace("``", "`").replace("|", "\\|")


def filled(text: str, results: Path) -> str:
    """``text`` with every table made anew."""

    def fill(match: re.Match[str]) -> str:
        study = json.loads((results / f"{match['name']}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{table_of(study)}{match[3]}"

    def summed(match: re.Match[str]) -> str:
        result = json.loads((results / f"{match['name']}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{summary_table(result, match['rows'])}{match[4]}"

    text = SUMMARY.sub(summed, text)
    text = OPTIONS.sub(lambda match: f"{match[1]}{options_table(match['name'])}{match[3]}", text)
    return TABLE.sub(fill, text)


def main() -> int:
    if "--give" in sys.argv:
        name, run = sys.argv[sys.argv.index("--give") + 1 :]
        give(name, Path(run))
        return 0
    if "--take" in sys.argv:
        run, name = sys.argv[sys.argv.index("--take") + 1 :]
        take(Path(run), name)
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        old = path.read_text(encoding="utf-8")
        new = filled(old, ROOT / "docs" / "results")
        if new != old:
            stale.append(path)
            if "--check" not in sys.argv:
                write_text(path, new)
    for path in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())

"""Two other pairs of modalities by their vectors: halves of digits, and drawn sounds with their descriptions.

    python benchmarks/vectors.py --work work

``digits``: the upper four rows of each of scikit-learn's 1,797 scans and the lower four, 32 grey levels each; the
splits are those of the source ``digits``. ``sounds``: 3,000 synthetic sounds of a second; the tower is a spectrogram of
24 bands in 16 parts of the second, and their descriptions pass the tower ``hashing``. Both are written as ``a.npy``,
``b.npy`` and a table, and read as ``embeddings:``. Rows: random pairs, k-means, sets in closed form and by ``bilevel``,
and the full data, each by the generic recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.encoders.text_towers import HashingTextTower
from vldistill.evaluation.results import Evaluation
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.stages.distill import distill
from vldistill.stages.evaluate import evaluate
from vldistill.stages.select import select
from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import Run, environment

OUT = Path(__file__).resolve().parent.parent / "docs/results/vectors.json"
PAIRS = 50
RATE, SOUNDS = 8000, 3000  # samples in a second; sounds
WINDOW, HOP, BANDS, PARTS = 512, 128, 24, 16
PITCHES = {"very low": 110, "low": 185, "middle": 311, "high": 523, "very high": 880}
TIMBRES = ("pure", "square", "bright", "noisy", "bell")
BEATS = {"one beat": 1, "two beats": 2, "three beats": 3, "four beats": 4, "six quick beats": 6}
LOUDNESS = ("getting louder", "fading out", "steady", "swelling in the middle")
GLIDES = {"rising": 1.5, "falling": 0.67, "level": 1.0}


def write(
    folder: Path, names: tuple[str, str], sides: tuple[np.ndarray, np.ndarray], rows: Sequence[dict[str, str]]
) -> None:
    """Both sides and the table of a source."""
    folder.mkdir(parents=True)
    for name, array in zip(names, sides):
        np.save(folder / f"{name}.npy", array.astype(np.float32))
    with (folder / "about.csv").open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def digits(folder: Path) -> None:
    """Halves of scans."""
    from vldistill.data.digits import NAMES, scans, splits_of

    levels, labels = scans()
    splits = splits_of(labels)
    rows = [
        {
            "id": f"scan {row:04d}",
            "caption": f"the lower half of scan {row:04d}, a {NAMES[label]}",
            "split": splits[row],
        }
        for row, label in enumerate(labels.tolist())
    ]
    halves = levels[:, :4].reshape(len(levels), -1) / 255, levels[:, 4:].reshape(len(levels), -1) / 255
    write(folder, ("upper", "lower"), halves, rows)


def sound(draw: np.random.Generator) -> tuple[np.ndarray, str]:
    """A second of sound (8000,) and what it is like."""
    pitch, beats, glide = (list(words)[draw.integers(len(words))] for words in (PITCHES, BEATS, GLIDES))
    timbre, loudness = TIMBRES[draw.integers(len(TIMBRES))], LOUDNESS[draw.integers(len(LOUDNESS))]
    seconds = np.arange(RATE) / RATE
    frequency = PITCHES[pitch] * draw.uniform(0.97, 1.03) * GLIDES[glide] ** seconds
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    wave = {
        "pure": np.sin(phase),
        "square": np.sign(np.sin(phase)),
        "bright": sum(np.sin(n * phase) / n for n in range(1, 7)),
        "noisy": np.sin(phase) + draw.normal(size=RATE),
        "bell": np.sin(phase) + 0.6 * np.sin(2.76 * phase) + 0.4 * np.sin(5.4 * phase),
    }[timbre]
    beat = np.exp(-4 * ((seconds * BEATS[beats]) % 1))
    shape = {
        "getting louder": seconds, "fading out": 1 - seconds, "steady": np.ones(RATE),
        "swelling in the middle": np.sin(np.pi * seconds),
    }[loudness]  # fmt: skip
    heard = wave * beat * (0.1 + shape) + 0.05 * draw.normal(size=RATE)
    words = [f"a {pitch} {timbre} tone", beats, glide, loudness]
    first, *others = words if draw.random() < 0.5 else [words[0], *(words[1:][i] for i in draw.permutation(3))]
    return heard, f"{first}, {', '.join(others)}"


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """The tower of sounds: logarithmic energies of 24 bands in 16 parts of the second, (384,)."""
    found = torch.stft(
        torch.from_numpy(wave).float(), WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True
    ).abs().square()  # fmt: skip
    edges = np.unique(np.geomspace(2, WINDOW // 2 + 1, BANDS + 1).astype(int))
    bands = torch.stack([found[low:high].mean(0) for low, high in pairwise(edges)])
    return torch.nn.functional.adaptive_avg_pool1d(bands, PARTS).add(1e-4).log().flatten().numpy()


def sounds(folder: Path) -> None:
    """Drawn sounds and their descriptions."""
    draw = np.random.default_rng(0)
    made = [sound(draw) for _ in range(SOUNDS)]
    texts = [text for _, text in made]
    vectors = HashingTextTower(256).encode(texts).numpy()
    rows = [{"id": f"sound {row:04d}", "caption": text} for row, text in enumerate(texts)]
    write(folder, ("audio", "text"), (np.stack([spectrogram(wave) for wave, _ in made]), vectors), rows)


DEMONSTRATIONS = {"digits": (digits, "upper,lower", ""), "sounds": (sounds, "audio,text", "?val=0.1&test=0.1")}


def demonstrate(name: str, work: Path) -> dict[str, Any]:
    """Every row of one demonstration."""
    make, sides, splits = DEMONSTRATIONS[name]
    folder = work / name
    if not folder.exists():
        make(folder)
    words = [
        *(f"--run={work / f'run-{name}'}", f"--data.source=embeddings:{folder}{splits}", f"--data.sides={sides}"),
        *(f"--data.cache={work / 'cache'}", f"--distill.pairs={PAIRS}", f"--select.pairs={PAIRS}", "--encoder.dim=128"),
        *("--select.method=kmeans", "--distill.iterations=60", "--bilevel.steps=20", "--distill.validate_every=0"),
        *("--evaluate.seeds=3", "--evaluate.trials=4", "--evaluate.max_steps=400", "--evaluate.recipes=generic"),
        "--runtime.threads=1",
    ]
    run, reporter, rows = Run(work / f"run-{name}"), Reporter(quiet=True), []
    targets = [f"random:{PAIRS}"]
    config = parse("select", words)[0]
    targets.append(str(select(run, config, reporter)))
    for method in ("canonical", "bilevel"):
        config = parse("distill", [*words, f"--distill.method={method}"])[0]
        targets.append(str(distill(run, config, reporter)))
    for target in [*targets, "full"]:
        began = time.monotonic()
        found = evaluate(run, config, reporter, target)
        rows.append(_row(found))
        print(f"{name}: {found.set} {rows[-1]['mean_recall']} in {time.monotonic() - began:.0f} s", flush=True)
    counts = {split: seen["images"] for split, seen in run.data().items()}
    return {"name": name, "sides": sides.split(","), "pairs": counts, "chance": found.chance.mean_recall, "rows": rows}


def _row(found: Evaluation) -> dict[str, Any]:
    assert found.generic is not None
    figures = {name: figure.to_json() for name, figure in found.generic.figures.items()}
    return {"set": found.set, "pairs": found.pairs, "stored_floats": found.stored_floats, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=DEMONSTRATIONS, default=None)
    parser.add_argument("--work", type=Path, default=None, help="where sources and runs go; default a temporary folder")
    parser.add_argument("--out", type=Path, default=OUT, help="the json file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        work = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on = {name: value for name, value in environment().items() if name != "command"}
        names = [asked.only] if asked.only else list(DEMONSTRATIONS)
        found = [demonstrate(name, work.absolute()) for name in names]
    write_json(asked.out, {"command": "python benchmarks/vectors.py", "demonstrations": found, "environment": on})


if __name__ == "__main__":
    main()

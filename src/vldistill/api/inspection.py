"""What a data source, an experts folder, a set or a run holds, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.config.plain import Plain
from vldistill.distilled.remote import is_set_on_hub, local_folder
from vldistill.errors import ArtefactError, ConfigError, DataError
from vldistill.runtime.log import Progress, Reporter

if TYPE_CHECKING:
    import numpy as np

    from vldistill.data.pairs import Pairs
    from vldistill.evaluation.data_checks.near_duplicates import Sketches

SHEET_PICTURES = 40
EXAMPLES = 3  # pairs of each split that are shown
THUMBNAIL = 72  # side of the copies in which near duplicates are searched; 8, 9 and 16 pixels are means of it
STACKED = 256  # small copies that are looked at together
AT_ONCE = 4096  # images given to the threads at a time


def describe(path: str, reporter: Reporter, sheet: str | None = None) -> dict[str, Plain]:
    """The contents of ``path`` as plain values; ``broken`` lists everything that could not be read.

    Args:
        path: a data source, a run, its experts folder, or a set.
        reporter: where progress goes.
        sheet: of a data source, where its contact sheet is drawn; by default in the cache folder.
    """
    folder = local_folder(path) if is_set_on_hub(path) else Path(path)
    if not folder.is_dir():  # a file, a name or a pattern
        return _describe_source(path, reporter, sheet)
    if (folder / "set.json").is_file() or (folder.parent.name == "sets" and (folder / "config.json").is_file()):
        return _describe_set(folder)  # or the error that it is not finished
    if any(folder.glob("expert-*.safetensors")):
        return _describe_experts(folder)
    if (folder / "config.yaml").is_file():
        return _describe_run(folder)
    return _describe_source(path, reporter, sheet)


def _describe_set(folder: Path) -> dict[str, Plain]:
    from vldistill.distilled.distilled_set import DistilledSet

    distilled = DistilledSet.load(folder)
    image, text = distilled.towers["image"], distilled.towers["text"]
    return {
        "kind": "coreset" if distilled.is_coreset else "distilled set",
        "name": distilled.name,
        "pairs": len(distilled),
        "stored_floats": distilled.stored_floats,
        "bytes": (folder / "set.safetensors").stat().st_size,
        "space": distilled.space,
        "text_space": distilled.text_space,
        "setting": distilled.setting,
        "images": list(distilled.images.shape),
        "texts": list(distilled.texts.shape),
        "similarity": None if distilled.similarity is None else list(distilled.similarity.shape),
        "fits": (
            f"text tower {text['name']} (fingerprint {text['fingerprint']}); "
            + (
                f"any image tower, made with {image['name']} at {image['size']} px"
                if distilled.space == "pixels"
                else f"image tower {image['name']} (fingerprint {image['fingerprint']}) only"
            )
        ),
        "recipe": distilled.recipe.to_dict(),
        "info": {key: value for key, value in distilled.info.items() if key != "config"},
        "broken": [],
    }


def _describe_experts(folder: Path) -> dict[str, Plain]:
    from vldistill.experts.trajectory import Trajectory

    broken: list[str] = []
    experts: list[Trajectory] = []
    for path in sorted(folder.glob("expert-*.safetensors")):
        try:
            expert = Trajectory(path)
            expert.check_whole()
        except ArtefactError as error:
            broken.append(str(error))
            continue
        experts.append(expert)
    first = experts[0].note if experts else None
    return {
        "kind": "experts",
        "count": len(experts),
        "bytes": sum(expert.path.stat().st_size for expert in experts),
        "snapshots": experts[0].epochs if experts else None,
        "dtype": first and first.dtype,
        "fits": f"setting {first.setting}, encoder {first.encoder}, data {first.data}" if first else None,
        "last_losses": [round(losses[-1], 4) for expert in experts if (losses := expert.note.losses)],
        "broken": broken,
    }


def _describe_run(folder: Path) -> dict[str, Plain]:
    experts = sorted(path.name for path in (folder / "experts").glob("expert-*.safetensors"))
    sets = sorted(path.parent.name for path in (folder / "sets").glob("*/set.json"))
    begun = sorted(path.parent.name for path in (folder / "sets").glob("*/checkpoint.safetensors"))
    return {
        "kind": "run",
        "experts": len(experts),
        "unfinished_experts": len(list((folder / "experts").glob("*.unfinished"))),
        "sets": sets,
        "unfinished_sets": [name for name in begun if name not in sets],
        "results": sorted(path.name for path in (folder / "results").glob("*.json")),
        "broken": [],
    }


def _describe_source(source: str, reporter: Reporter, sheet: str | None) -> dict[str, Plain]:
    from vldistill.config import expand
    from vldistill.data.load import read_collection
    from vldistill.data.pairs import SPLITS
    from vldistill.evaluation.data_checks.near_duplicates import sketch

    collection = read_collection(expand(source))
    summary = collection.summary()
    broken: list[str] = []
    sizes: Counter[str] = Counter()
    first: Pairs | None = None
    seen: dict[str, Pairs] = {}
    sketches: dict[str, Sketches] = {}
    broken += [loss for account in collection.accounts for loss in account.losses()]
    if not summary["splits"]:
        broken.append(f"{source} has no images at all")
    for split, counts in summary["splits"].items():
        if not counts["images"]:
            broken += counts["notes"]
            continue
        pairs = collection.pairs(split)
        broken += [f"{split}: {loss}" for loss in collection.split_losses(split)]
        seen[split] = pairs
        if pairs.vectors is None:
            readable: list[str] = []
            with reporter.progress(f"{split} images", pairs.count_images) as bar:
                sketches[split] = sketch(_thumbnails(pairs, readable, sizes, broken, bar), readable)
        words = sum(len(caption.split()) for caption in pairs.captions)
        counts["captions_per_image"] = round(pairs.count_captions / pairs.count_images, 2)
        counts["words_per_caption"] = round(words / pairs.count_captions, 1)
        counts["fingerprint"] = pairs.fingerprint
        counts["examples"] = [
            f"{pairs.images.names[index]}: {pairs.captions[int(pairs.image_captions[index][0])]}"
            for index in range(min(EXAMPLES, pairs.count_images))
        ]
        first = first or pairs
    drawn = _contact_sheet(first, sheet, reporter) if first else None
    return {
        "kind": "data source",
        **summary,
        "absent": [split for split in SPLITS if split not in summary["splits"]],
        "checks": _data_checks(seen, sketches),
        "image_sizes": dict(sizes.most_common(5)),
        "distinct_sizes": len(sizes),
        "contact_sheet": drawn,
        "broken": broken,
    }


def _thumbnails(
    pairs: Pairs, readable: list[str], sizes: Counter[str], broken: list[str], bar: Progress
) -> Iterator[np.ndarray]:
    """Small copies (B, 3, S, S) of the readable images; notes names and sizes, and what is broken."""
    import numpy as np

    small: list[np.ndarray] = []
    for name, (size, trouble, thumbnail) in zip(pairs.images.names, _checks(pairs)):
        bar.advance()
        if thumbnail is None:
            broken.append(f"{pairs.split}: {trouble}")
            continue
        sizes[size] += 1
        readable.append(name)
        small.append(thumbnail)
        if len(small) == STACKED:
            yield np.stack(small)
            small.clear()
    if small:
        yield np.stack(small)


def _data_checks(seen: Mapping[str, Pairs], sketches: Mapping[str, Sketches]) -> list[Plain]:
    """What the numbers of an evaluation on this source can mean; none where a split is missing."""
    from vldistill.data.pairs import SPLITS
    from vldistill.evaluation.data_checks import check_pairs, check_vectors
    from vldistill.evaluation.data_checks.near_duplicates import check_near_duplicates

    if set(seen) < set(SPLITS):
        return []
    checks = *check_pairs(seen), check_vectors(seen) or check_near_duplicates(sketches)
    return [check.to_json() for check in checks]


def _checks(pairs: Pairs) -> Iterator[tuple[str, str, np.ndarray | None]]:
    """The size of every image and a small copy (3, S, S), or its error, in order."""
    import numpy as np

    def check(index: int) -> tuple[str, str, np.ndarray | None]:
        try:
            image = pairs.images.read(index)
        except DataError as error:
            return "", str(error), None
        small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL))).transpose(2, 0, 1)
        return f"{image.width} x {image.height}", "", small

    with ThreadPoolExecutor() as pool:
        for start in range(0, pairs.count_images, AT_ONCE):  # a pool keeps a task for every image it is given
            yield from pool.map(check, range(start, min(start + AT_ONCE, pairs.count_images)))


def _contact_sheet(pairs: Pairs, sheet: str | None, reporter: Reporter) -> str | None:
    """Draw pictures spread over a split, each over one of its captions; returns the file, None without any."""
    import numpy as np

    from vldistill.config import DataConfig, expand
    from vldistill.drawing.pictures import TILE
    from vldistill.drawing.sheets import draw_contact_sheet

    images, captions = [], []
    wanted = min(SHEET_PICTURES, pairs.count_images)
    for row in range(wanted):
        index = pairs.count_images * row // wanted
        try:
            image = pairs.images.read(index, TILE).convert("RGB").resize((TILE, TILE))
        except DataError:
            continue  # it is in the list of broken ones
        images.append(np.asarray(image).transpose(2, 0, 1))
        captions.append(pairs.captions[int(pairs.image_captions[index][0])])
    if not images:
        return None
    name = f"contact-{pairs.split}-{pairs.fingerprint}.png"
    path = Path(sheet) if sheet else Path(expand(DataConfig().cache)) / "sheets" / name
    title = f"{Path(pairs.source).name}, {pairs.split}: {len(images)} of {pairs.count_images:,} pictures"
    try:
        draw_contact_sheet(np.stack(images), captions, path, title=title)
    except OSError as error:
        if sheet:
            raise ConfigError(f"--sheet {sheet} cannot be written ({error.strerror or error}).") from None
        reporter.warn(f"no contact sheet: {path} cannot be written ({error.strerror or error}); see --sheet")
        return None
    return str(path)

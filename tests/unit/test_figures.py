"""Figures: every drawing gives a complete picture of the right size, whatever stands in the captions."""

import sys
import threading
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from vldistill.drawing.figures import _spread, draw_curves
from vldistill.drawing.lettering import CAPTION_LINES, font, wrapped
from vldistill.drawing.pictures import whole_side
from vldistill.drawing.sheets import draw_contact_sheet, draw_pairs

HARD_CAPTIONS = [
    "",
    "a red circle above a small blue square",
    "costs $5, not $x_1^2$ \\frac{1}{0}",
    "two\nlines\r\nand a\ttab",
    "👩‍👩‍👧 and 🐶 and ❤️ in an e\u0301te\u0301",
    "日本語の長い文章がここにあります" * 20,
    "שלום עולם, مرحبا بالعالم",
    "\ud800 lone \x00 and \x1b controls",
    "word " * 2000,
    "x" * 10_000,
    " \n\t ",
]


def drawn(count: int, side: int) -> np.ndarray:
    """Circles on a coloured ground, (count, 3, side, side) uint8."""
    pictures = []
    for index in range(count):
        image = Image.new("RGB", (side, side), (60 + 17 * index % 190, 120, 200 - 13 * index % 150))
        box = (side // 5, side // 4, side // 5 + side // 2, side // 4 + side // 2)
        ImageDraw.Draw(image).ellipse(box, fill=(230, 200, 40))
        pictures.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(pictures)


def colours(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def contains(sheet: np.ndarray, picture: np.ndarray, scale: int) -> bool:
    """Is ``picture`` (3, S, S) on the sheet, every pixel a square of ``scale``?"""
    wanted = picture.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
    height, width = wanted.shape[:2]
    corners = (sheet[: -height + 1, : -width + 1] == wanted[0, 0]).all(-1)
    return any(np.array_equal(sheet[y : y + height, x : x + width], wanted) for y, x in zip(*corners.nonzero()))


def test_pairs_show_both_pictures_sharply(tmp_path: Path):
    generator = np.random.default_rng(0)
    before, after = generator.integers(0, 256, (2, 3, 3, 8, 8), dtype=np.uint8)
    draw_pairs(before, after, [("a dog", "a cat")] * 3, tmp_path / "p.png", title="Three")
    sheet = colours(tmp_path / "p.png")
    for picture in (*before, *after):
        assert contains(sheet, picture, whole_side(8) // 8)


@pytest.mark.parametrize("side", [1, 7, 32, 100, 128])
def test_pairs_take_any_caption(tmp_path: Path, side: int):
    after = drawn(len(HARD_CAPTIONS), side)
    captions = list(zip(HARD_CAPTIONS, reversed(HARD_CAPTIONS)))
    draw_pairs(after[::-1], after, captions, tmp_path / "p.png", title="$ \n" * 200)
    height, width, _ = colours(tmp_path / "p.png").shape
    assert 300 < width < 4000
    assert 300 < height < 4000
    assert [file.name for file in tmp_path.iterdir()] == ["p.png"]


def test_a_sheet_shows_the_first_pairs_and_is_wider_than_high(tmp_path: Path):
    sizes = {}
    for count in (1, 20, 30):
        draw_pairs(drawn(count, 16), drawn(count, 16), [("", "")] * count, tmp_path / f"{count}.png", "t")
        sizes[count] = colours(tmp_path / f"{count}.png").shape
    assert sizes[1] < sizes[20] == sizes[30]
    assert sizes[20][0] < sizes[20][1] < 2 * sizes[20][0]


def test_contact_sheet(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (44, 3, 12, 12), dtype=np.uint8)
    path = tmp_path / "new" / "folder" / "sheet.png"
    draw_contact_sheet(images, HARD_CAPTIONS * 4, path, title="scenes")
    sheet = colours(path)
    assert all(contains(sheet, image, 16) for image in images[:40])
    assert not any(contains(sheet, image, 16) for image in images[40:])


def test_wrong_pictures_are_refused(tmp_path: Path):
    images, captions, path = drawn(2, 8), ["a", "b"], tmp_path / "sheet.png"
    for wrong in (images[0], images / 255, images[:, :1], images[..., :5], images[:0], images.transpose(0, 2, 3, 1)):
        with pytest.raises(ValueError, match="must be uint8"):
            draw_contact_sheet(wrong, captions, path, "t")
    with pytest.raises(ValueError, match="2 pictures but there are 1 captions"):
        draw_contact_sheet(images, captions[:1], path, "t")
    with pytest.raises(ValueError, match=r"must end in \.png"):
        draw_contact_sheet(images, captions, tmp_path / "sheet.jpg", "t")
    with pytest.raises(ValueError, match="before has shape"):
        draw_pairs(drawn(2, 4), images, [("a", "b")] * 2, path, "t")
    assert not list(tmp_path.iterdir())


def test_a_failed_drawing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "sheet.png"
    draw_contact_sheet(drawn(1, 8), ["a"], path, "t")
    old = path.read_bytes()

    def broken(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        draw_contact_sheet(drawn(3, 8), ["a"] * 3, path, "t")
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("text", HARD_CAPTIONS)
@pytest.mark.parametrize("width", [40, 192, 600])
def test_wrapped_lines_fit(text: str, width: int):
    lines = wrapped(text, width)
    assert len(lines) <= CAPTION_LINES
    assert all(0 < font(13).getlength(line) <= width for line in lines)


def test_wrapping_keeps_every_word_and_cuts_with_an_ellipsis():
    text = "A black and white dog is running in a grassy garden ."
    lines = wrapped(text, 120)
    assert " ".join(lines) == text
    assert lines[-1] != "."
    assert "".join(wrapped("x" * 60, 192)) == "x" * 60
    assert wrapped("x" * 10_000, 192)[-1].endswith("…")
    assert wrapped("word " * 2000, 192)[-1].endswith("…")
    assert wrapped("", 192) == wrapped("\n\u200d", 192) == []


def lively() -> dict[str, list[tuple[float, float]]]:
    return {"distilled": [(i, 20 - 14 * 0.98**i) for i in range(0, 300, 10)], "other": [(0, 6.0), (290, 9.0)]}


def test_curves_are_written_whole(tmp_path: Path):
    path = tmp_path / "curves.png"
    levels = {"full data": 30.5, "random": 6.4, "chance": 0.1}
    draw_curves(lively(), path, xlabel="iteration", ylabel="mean recall (%)", title="Scenes", levels=levels)
    picture = colours(path)
    assert picture.shape[0] > 600
    assert (picture[0, 0] == 255).all()
    assert (picture == (0x00, 0x72, 0xB2)).all(-1).sum() > 500, "the first line is blue"
    assert (picture == (0xD5, 0x5E, 0x00)).all(-1).sum() > 500, "the second is vermilion"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_curves_take_any_name_and_number(tmp_path: Path):
    nan, inf = float("nan"), float("inf")
    series = {text: [(0.0, 1.0), (1.0, nan), (2.0, -3.0), (inf, 2.0), (4.0, inf)] for text in HARD_CAPTIONS}
    series |= {"_hidden": [(1.0, 2.0)], "none": [], "only nan": [(0.0, nan)]}
    levels = {"$a_b$ 🐶": 1.0, "日本": 1.0, "inf": inf, "nan": nan}
    for index, text in enumerate(HARD_CAPTIONS[2::3]):
        path = tmp_path / f"{index}.png"
        draw_curves(series, path, xlabel=text, ylabel=text, title=text, levels=levels)
        assert (colours(path) != 255).any(), "something is drawn"


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0.0, 0.0)]}, {"a": [(1.0, -2.0), (2.0, -2.0)]}])
def test_curves_of_next_to_nothing(tmp_path: Path, series: dict[str, list[tuple[float, float]]]):
    draw_curves(series, tmp_path / "c.png", xlabel="x", ylabel="y", title="t")
    assert colours(tmp_path / "c.png").size


def test_curves_leave_matplotlib_as_it_was(tmp_path: Path):
    settings = dict(matplotlib.rcParams)
    draw_curves(lively(), tmp_path / "c.png", xlabel="x", ylabel="y", title="t")
    assert dict(matplotlib.rcParams) == settings
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_curves_are_drawn_in_a_thread(tmp_path: Path):
    thread = threading.Thread(
        target=draw_curves, args=(lively(), tmp_path / "c.png"), kwargs={"xlabel": "x", "ylabel": "y"}
    )
    thread.start()
    thread.join()
    assert colours(tmp_path / "c.png").size


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.1, 0.11, 0.12], [0.1, 0.2, 0.3]),
        ([0.95, 0.96], [0.9, 1.0]),
        ([0.5, 0.99, 1.0], [0.5, 0.9, 1.0]),
    ],
)
def test_level_names_do_not_overlap(heights: list[float], expected: list[float]):
    assert _spread(heights, 0.1) == pytest.approx(expected)

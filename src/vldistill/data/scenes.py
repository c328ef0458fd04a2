"""Drawn scenes with compositional captions: an offline data set that is ready in seconds and known exactly.

A scene is two objects (colour, shape, size) in a relation (left of, above) on a background shade. Distinguishing scenes
needs all of it, as with real captions. Everything follows from (seed, scene number); only numpy's PCG64
bit stream is used, which numpy keeps the same for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from vldistill.data.stores import as_png
from vldistill.errors import DataError, unknown

SIDE = 64  # pixels of a drawn scene
SCALE = 4  # supersampling
ALONE = 17.0  # largest shift from the middle, along both axes, of an object that is drawn alone, in pixels
VERSION = 1  # part of the signature: a change of the drawing makes caches invalid

# Every word means one value only, so each single caption determines its scene.
COLOURS = {
    "red": ((214, 39, 40), ("red", "crimson")),
    "orange": ((250, 140, 22), ("orange", "amber")),
    "yellow": ((250, 219, 50), ("yellow", "lemon")),
    "green": ((46, 160, 67), ("green", "emerald")),
    "cyan": ((45, 204, 211), ("cyan", "turquoise")),
    "blue": ((38, 84, 214), ("blue", "sapphire")),
    "purple": ((136, 58, 196), ("purple", "violet")),
    "pink": ((247, 130, 190), ("pink", "rose")),
}
SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "pyramid"),
    "diamond": ("diamond", "rhombus"),
    "star": ("star", "five-pointed star"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "heart": ("heart", "love heart"),
}
SIZES = {"small": (8.0, ("small", "little", "tiny")), "large": (12.5, ("large", "big", "huge"))}  # radius in pixels
RELATIONS = {
    "left": (
        ("to the left of", "left of", "on the left side of"),
        ("to the right of", "right of", "on the right side of"),
    ),
    "above": (("above", "over", "higher than"), ("below", "under", "beneath")),
}
BACKGROUNDS = {
    "white": (245, ("white", "bright white")),
    "light grey": (188, ("light grey", "pale grey")),
    "dark grey": (104, ("dark grey", "charcoal")),
    "black": (28, ("black", "pitch black")),
}
TEMPLATES = (
    "a {one} {forward} a {two} on a {shade} background",
    "there is a {two} {reverse} a {one}, everything else is {shade}",
    "on a {shade} backdrop, one {one} is {forward} one {two}",
    "a {shade} picture of a {two} {reverse} a {one}",
    "you can see a {one} {forward} the {two} against {shade}",
)
SPREAD = 14.0  # distance of each object from the middle, along the relation, in pixels
JITTER_ALONG, JITTER_ACROSS = 1.5, 7.0  # largest shift of each object, in pixels

CLASS_VIEWS = {"shape": (tuple(SHAPES), "a drawing of a {}"), "colour": (tuple(COLOURS), "a drawing of a {} shape")}
"""The attributes of an object that can be its class: the classes, and their prompt."""

Item = TypeVar("Item")
Colour = tuple[int, int, int]


@dataclass(frozen=True, order=True)
class Object:
    """One object of a scene, by the keys of COLOURS, SHAPES and SIZES."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """``first`` is left of, or above, ``second``; ``number`` 0..TOTAL-1 is its identity, ``seed`` its jitter."""

    first: Object
    second: Object
    relation: str
    background: str
    number: int
    seed: int

    @property
    def key(self) -> str:
        """A readable unique name, e.g. ``large-red-ring_left_small-blue-star_white``."""
        one, two = (f"{thing.size}-{thing.colour}-{thing.shape}" for thing in (self.first, self.second))
        return f"{one}_{self.relation}_{two}_{self.background.replace(' ', '-')}"

    def bits(self, purpose: int) -> Iterator[int]:
        """The scene's own random 64-bit numbers, an independent stream for each purpose."""
        return iter(np.random.PCG64([self.seed, self.number, purpose]).random_raw(48).tolist())


# Two objects never share both colour and shape: "small red ring left of large red ring" would be too subtle at 64 px.
KINDS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
AXES = (len(KINDS), len(KINDS) - 1, len(SIZES), len(SIZES), len(RELATIONS), len(BACKGROUNDS))
TOTAL = math.prod(AXES)
# A fixed fifth each for test and val: another number of training scenes leaves the galleries as they are.
POOLS = {"train": (2 * (TOTAL // 5), TOTAL), "val": (TOTAL // 5, 2 * (TOTAL // 5)), "test": (0, TOTAL // 5)}
DEFAULTS = {"seed": 0, "train": 3000, "val": 500, "test": 500}


def parse_options(source: str) -> tuple[int, dict[str, int]]:
    """Seed and number of scenes of each split from ``scenes`` or ``scenes:seed=1,train=3000,val=500,test=500``.

    Raises:
        DataError: an unknown or repeated option, or a value that is not a number in range.
    """
    values = dict(DEFAULTS)
    given = [part.strip() for part in source.partition(":")[2].split(",")] if ":" in source else []
    seen: set[str] = set()
    for part in given:
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise DataError(
                f"{source}: {part!r} is not an option; expected name=number, such as scenes:seed=1,train=3000."
            )
        if name not in DEFAULTS:
            raise DataError(f"{source}: {unknown('option', name, DEFAULTS)}")
        if name in seen:
            raise DataError(f"{source}: {name} is given twice; expected it once.")
        seen.add(name)
        low, high = (0, 2**32 - 1) if name == "seed" else (1, POOLS[name][1] - POOLS[name][0])
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
            raise DataError(f"{source}: {name} is {text!r}; expected a whole number from {low} to {high:,}.")
        values[name] = int(text)
    return values.pop("seed"), values


def class_view(source: str) -> tuple[str, str]:
    """The attribute that ``scenes:classes=shape,...`` makes the class, empty without one, and the other options.

    Raises:
        DataError: no attribute of :data:`CLASS_VIEWS`, or two of them.
    """
    kind, _, tail = source.partition(":")
    parts = [part for part in tail.split(",") if part.strip()]
    asked = [part for part in parts if part.partition("=")[0].strip() == "classes"]
    if not asked:
        return "", source
    view = asked[0].partition("=")[2].strip()
    if len(asked) > 1 or view not in CLASS_VIEWS:
        raise DataError(f"{source}: {unknown('classes', view, CLASS_VIEWS)}" + " Name one." * (len(asked) > 1))
    others = ",".join(part for part in parts if part not in asked)
    return view, f"{kind}:{others}" if others else kind


def draw_splits(seed: int, counts: dict[str, int]) -> dict[str, list[Scene]]:
    """Choose the scenes of each split, all different.

    Args:
        seed: another seed gives other scenes, positions and captions.
        counts: split -> number of scenes, at most the size of its pool.
    """
    order = np.argsort(np.random.PCG64(seed).random_raw(TOTAL), kind="stable")
    return {
        split: [_scene(int(number), seed) for number in order[POOLS[split][0] : POOLS[split][0] + count]]
        for split, count in counts.items()
    }


def _scene(number: int, seed: int) -> Scene:
    """The scene with this number: its digits in the mixed radix AXES."""
    one, two, size_one, size_two, relation, background = (int(digit) for digit in np.unravel_index(number, AXES))
    two += two >= one  # skip the first object's kind
    sizes = list(SIZES)
    return Scene(
        first=Object(sizes[size_one], *KINDS[one]),
        second=Object(sizes[size_two], *KINDS[two]),
        relation=list(RELATIONS)[relation],
        background=list(BACKGROUNDS)[background],
        number=number,
        seed=seed,
    )


def caption_scene(scene: Scene) -> list[str]:
    """Five different captions, each naming every attribute in its own words and order."""
    bits = scene.bits(purpose=1)
    forward, reverse = RELATIONS[scene.relation]

    def pick(options: Sequence[Item]) -> Item:
        return options[next(bits) % len(options)]

    def say(thing: Object) -> str:
        return f"{pick(SIZES[thing.size][1])} {pick(COLOURS[thing.colour][1])} {pick(SHAPES[thing.shape])}"

    def words() -> dict[str, str]:
        """Fresh words for each blank of a template."""
        shade = pick(BACKGROUNDS[scene.background][1])
        objects = {"one": say(scene.first), "two": say(scene.second)}
        return {**objects, "forward": pick(forward), "reverse": pick(reverse), "shade": shade}

    return [template.format(**words()) for template in TEMPLATES]


@dataclass(frozen=True)
class SceneImages:
    """An image store that draws its scenes when they are read."""

    scenes: tuple[Scene, ...]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(scene.key for scene in self.scenes))

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """Draw a scene, always at 64 x 64 pixels."""
        return draw_scene(self.scenes[index])

    def signature(self, index: int) -> bytes:
        """The scene's key, its seed and the version of the drawing."""
        scene = self.scenes[index]
        return f"{scene.key}:{scene.seed}:{VERSION}".encode()

    def encoded(self, index: int) -> bytes:
        """The drawing as PNG."""
        return as_png(self.read(index))


@dataclass(frozen=True)
class ClassScenes(SceneImages):
    """An image store that draws the first object of each scene alone."""

    def __post_init__(self) -> None:
        names = (
            f"{one.size}-{one.colour}-{one.shape}-{scene.number}" for scene in self.scenes for one in [scene.first]
        )
        object.__setattr__(self, "names", tuple(names))

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """Draw an object, always at 64 x 64 pixels."""
        return draw_alone(self.scenes[index])

    def signature(self, index: int) -> bytes:
        """That of the scene, and that it is drawn otherwise."""
        return super().signature(index) + b":alone"


def draw_alone(scene: Scene) -> Image.Image:
    """The first object of a scene anywhere on its background, as an RGB image of 64 x 64 pixels."""
    bits = scene.bits(purpose=3)
    level, x, y = (next(bits) / 2**64 * 2 - 1 for _ in range(3))
    shade = BACKGROUNDS[scene.background][0] + round(level * 8)
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), (shade, shade, shade))
    _draw_object(ImageDraw.Draw(canvas), scene.first, (SIDE / 2 + x * ALONE, SIDE / 2 + y * ALONE), shade)
    return canvas.reduce(SCALE)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 64 x 64 pixels."""
    bits = scene.bits(purpose=2)

    def shift(largest: float) -> float:
        return (next(bits) / 2**64 * 2 - 1) * largest

    level = BACKGROUNDS[scene.background][0] + round(shift(8))
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), (level, level, level))
    pen = ImageDraw.Draw(canvas)
    for thing, side in ((scene.first, -1), (scene.second, 1)):
        along, across = SIDE / 2 + side * SPREAD + shift(JITTER_ALONG), SIDE / 2 + shift(JITTER_ACROSS)
        centre = (along, across) if scene.relation == "left" else (across, along)
        _draw_object(pen, thing, centre, level)
    return canvas.reduce(SCALE)


def _draw_object(pen: ImageDraw.ImageDraw, thing: Object, centre: tuple[float, float], level: int) -> None:
    """A soft shadow below the shape with a darker rim; ``centre`` in final pixels."""
    red, green, blue = COLOURS[thing.colour][0]
    rim = (round(red * 0.6), round(green * 0.6), round(blue * 0.6))
    shadow = round(level * 0.8)
    radius = SIZES[thing.size][0] * SCALE
    x, y = centre[0] * SCALE, centre[1] * SCALE
    _draw_shape(pen, thing.shape, x + SCALE, y + SCALE, radius, (shadow, shadow, shadow), None)
    _draw_shape(pen, thing.shape, x, y, radius, (red, green, blue), rim)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: Colour, rim: Colour | None
) -> None:
    """One shape around (x, y), filled, with a rim of one final pixel where given; lengths in supersampled pixels."""
    if shape == "ring":
        for colour, gap in ((rim, 0), (fill, SCALE if rim else 0)):
            outer = radius - gap
            if colour:
                thickness = round(radius * RING) - 2 * gap
                pen.ellipse((x - outer, y - outer, x + outer, y + outer), outline=colour, width=thickness)
        return
    points = [(x + radius * across, y + radius * down) for across, down in OUTLINES[shape]]
    pen.polygon(points, fill=fill, outline=rim, width=SCALE if rim else 0)


def _round_points(count: int, radii: Sequence[float], turn: float) -> list[tuple[float, float]]:
    """``count`` points around the origin at alternating ``radii``, the first at angle ``turn`` (0 is right, y down)."""
    angles = [turn + 2 * math.pi * index / count for index in range(count)]
    lengths = [radii[index % len(radii)] for index in range(count)]
    return [(length * math.cos(angle), length * math.sin(angle)) for length, angle in zip(lengths, angles)]


def _heart_points(count: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * index / count for index in range(count)]
    return [
        (
            1.05 * math.sin(angle) ** 3,
            -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 15.5,
        )
        for angle in angles
    ]


UP = -math.pi / 2
ARM = 0.34  # half the width of a cross's arm
RING = 0.48  # thickness of a ring
CORNERS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
# Outlines in units of the radius; areas are roughly alike, so that shape and size can be distinguished.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _round_points(60, (0.95,), 0.0),
    "square": [(0.84 * across, 0.84 * down) for across, down in CORNERS],
    "triangle": [(across, down + 0.2) for across, down in _round_points(3, (1.2,), UP)],
    "diamond": [(0.78 * across, 1.15 * down) for across, down in _round_points(4, (1.0,), UP)],
    "star": _round_points(10, (1.15, 0.5), UP),
    "cross": [
        *((1, ARM), (ARM, ARM), (ARM, 1), (-ARM, 1), (-ARM, ARM), (-1, ARM)),
        *((-1, -ARM), (-ARM, -ARM), (-ARM, -1), (ARM, -1), (ARM, -ARM), (1, -ARM)),
    ],
    "heart": _heart_points(48),
}

# %% [markdown]
# # Your own photos
#
# From a folder of captioned photos to a small set, its figures and a student that you keep. The notebook draws its own
# photos, so it runs offline, in about a minute; put your folder in their place.

# %%
import random
from pathlib import Path

from PIL import Image, ImageDraw

import vldistill as vd

# %% [markdown]
# ## Photos and captions
#
# The simplest form: each image has a text file of its name, one caption a line ([all forms](../data.md)).

# %%
COLOURS = {"red": "#d62728", "blue": "#2654d6", "green": "#2ea043", "yellow": "#fadb32", "purple": "#883ac4"}
SHAPES, PLACES = ("circle", "square", "triangle"), {"left": 16, "right": 48}


def draw(folder: Path, number: int) -> None:
    """One picture of 64 x 64 pixels with two captions."""
    chance = random.Random(number)
    colour, shape, place = chance.choice(list(COLOURS)), chance.choice(SHAPES), chance.choice(list(PLACES))
    ground = chance.choice(["white", "black"])
    image = Image.new("RGB", (64, 64), ground)
    x, y, r = PLACES[place] + chance.randint(-4, 4), 32 + chance.randint(-8, 8), chance.randint(8, 13)
    paint = ImageDraw.Draw(image)
    if shape == "circle":
        paint.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif shape == "square":
        paint.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    else:
        paint.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=COLOURS[colour])
    image.save(folder / f"photo-{number:03d}.jpg", quality=92)
    captions = (f"a {colour} {shape} on the {place}, {ground} ground", f"{ground}: the {shape} is {colour} and {place}")
    (folder / f"photo-{number:03d}.txt").write_text("\n".join(captions))


folder = Path("photos")
folder.mkdir(exist_ok=True)
for number in range(400):
    draw(folder, number)
print((folder / "photo-000.txt").read_text())

# %% [markdown]
# ## What is understood
#
# `inspect` reads everything once and says what is broken, what leaks between the splits, and how much test can measure.

# %%
found = vd.inspect("photos", quiet=True)
{name: split["images"] for name, split in found["splits"].items()}, found["broken"]

# %% [markdown]
# ## Distil
#
# `scenes.yaml` names small towers that need no download; leave `config` out for MobileNetV2 and MiniLM. The same call
# resumes what was stopped. Add `log="tensorboard"` to [follow it](../trackers.md).

# %%
pairs = vd.distill("photos", pairs=10, config="scenes.yaml", run="run", iterations=40, validate_every=20)
pairs

# %% [markdown]
# ## Evaluate
#
# Fresh students are trained on the set and tested on photos that nothing else has seen; random pairs are the row to beat.

# %%
print(vd.evaluate(pairs, seeds=2, trials=2, quiet=True))
print(vd.evaluate("random:10", run="run", seeds=2, trials=2, quiet=True))

# %% [markdown]
# ## Keep
#
# The set is a folder, and so is a student; `vd.report("run")` writes one offline HTML page about all of it.

# %%
student = pairs.train(quiet=True)
student.save("student")
for kept in (pairs.folder, Path("student")):
    print(kept, sorted(path.name for path in kept.iterdir() if path.suffix))

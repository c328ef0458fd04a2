# %% [markdown]
# # Search photos with a student
#
# A student that was trained on a few distilled pairs answers questions about photos. Drawn scenes stand for photos, so that
# the notebook runs offline in a minute; with your own, leave `config` out for towers that know the world.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import vldistill as vd

# %% [markdown]
# ## A set and a student
#
# The set carries its recipe: training reads none of the real data.

# %%
data = "scenes:train=400,val=100,test=100"
pairs = vd.distill(
    data, pairs=20, run="run", method="bilevel", iterations=50, validate_every=25, **{"bilevel.steps": 10}
)
student = pairs.train(quiet=True)
print(student.score(data, quiet=True))

# %% [markdown]
# ## Photos
#
# The test split as files, which no training has seen.

# %%
folder = Path("photos")
folder.mkdir(exist_ok=True)
test = vd.load_pairs(data, "test")
for number in range(test.count_images):
    test.images.read(number).save(folder / f"{number:03d}.png")

# %% [markdown]
# ## Questions
#
# Twenty pairs of 32 px and an untrained network: grounds and colours are found, shapes and relations less so.

# %%
questions = ("a red circle", "a large green star above a small pink ring", "black background")
found = [student.search(question, folder, top=6, quiet=True) for question in questions]
found[0]


# %%
def show(results: list[vd.SearchResult]) -> None:
    """A row of photos for each question, the best first."""
    figure, axes = plt.subplots(len(results), 6, figsize=(6, 1.3 * len(results)), squeeze=False)
    for row, result in zip(axes, results):
        row[0].set_title(result.question, fontsize=8, loc="left")
        for place, hit in zip(row, result):
            place.imshow(Image.open(hit.path))
            place.axis("off")
    figure.tight_layout()
    plt.show()


show(found)

# %% [markdown]
# ## Keep it
#
# `search` remembers the embeddings of a folder until its files change. On the command line it is
# `vldistill search --student student --images photos/ "a red circle"`.

# %%
student.save("student")
again = vd.Student.load("student")
assert again.search(questions[0], folder, top=6, quiet=True).paths == found[0].paths
again.encode_text(list(questions)) @ again.encode_image(found[0].paths[:2]).T  # cosines

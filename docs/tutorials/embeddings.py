# %% [markdown]
# # Sets of embeddings
#
# Where students always take the same frozen towers, pairs of features replace pairs of pictures: in setting `heads` a set
# with `distill.space features` stores one vector an image. It is smaller and quicker to distil, and fits that one tower.

# %%
import vldistill as vd

data, options = "scenes:train=400,val=100,test=100", {"method": "bilevel", "iterations": 60, "bilevel.steps": 10}
pixels = vd.distill(data, pairs=12, run="pixels", quiet=True, **options)
features = vd.distill(data, pairs=12, run="features", quiet=True, **{**options, "distill.space": "features"})
for made in (pixels, features):
    print(made.space, tuple(made.images.shape), f"{made.stored_floats:,} stored floats")

# %% [markdown]
# `images` holds standardised features: `(tower(photo) - image_mean) / image_scale`, with the numbers that the set carries.
# Nothing in it can be shown as a picture; captions are those of the real pairs nearest to each learned text.

# %%
features

# %% [markdown]
# Evaluations are the same, and so are students: they take photos, which pass the frozen tower first.

# %%
for made in (pixels, features):
    print(vd.evaluate(made, seeds=2, trials=2, quiet=True))

# %% [markdown]
# ## What the learned embeddings look like
#
# A student maps both sides into one space. Each learned pair should be its own best match there.

# %%
import matplotlib.pyplot as plt
import torch

student = features.train(quiet=True)
with torch.no_grad():
    image = student.encoder.embed("image", features.images)
    text = student.encoder.embed("text", features.texts)
figure, axes = plt.subplots(figsize=(3, 2.6))
figure.colorbar(axes.imshow(image @ text.T, cmap="magma"), label="cosine")
axes.set(xlabel="learned text", ylabel="learned image features")
plt.show()

# %% [markdown]
# With features computed elsewhere the same arithmetic holds: standardise them by `features.standardisation`, and train any
# head you like on `features.images` and `features.texts`: [in a loop of your own](train_elsewhere.ipynb).

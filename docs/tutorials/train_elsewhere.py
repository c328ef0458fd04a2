# %% [markdown]
# # Train elsewhere: plain PyTorch, OpenCLIP
#
# A distilled set is tensors and a recipe. Here it trains two heads in a plain PyTorch loop, then inside OpenCLIP's own
# training loop with its loss. Both are tested on real pairs.

# %%
import torch
from torch import nn
from torchvision.transforms import v2

import vldistill as vd

data = "scenes:train=400,val=100,test=100"
pairs = vd.distill(data, pairs=20, run="run", quiet=True, method="bilevel", iterations=60, **{"bilevel.steps": 10})
recipe, numbers = pairs.recipe, pairs.standardisation
print(pairs.towers["image"]["name"], tuple(pairs.images.shape), tuple(pairs.texts.shape))
print({side: round(recipe.rate(side, 0, recipe.epochs), 4) for side in ("image", "text")}, recipe.epochs, recipe.loss)

# %% [markdown]
# ## Inputs
#
# In setting `heads` the towers are frozen. Images pass theirs once, then both sides are standardised by the set's own
# numbers; texts of the set are stored that way. Real photos and captions go the same way.

# %%
tower = vd.image_tower("convnet", weights="random", size=32, options={"width": 64})  # as in scenes.yaml
words = vd.text_tower("hashing", width=512)
with torch.no_grad():
    images = (tower(pairs.images) - numbers["image_mean"]) / numbers["image_scale"]
    texts = pairs.texts

    test = vd.load_pairs(data, "test")
    prepare = v2.Compose(
        [v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True), v2.Normalize(tower.mean, tower.std)]
    )
    photos = torch.stack([prepare(test.images.read(number)) for number in range(test.count_images)])
    test_images = (tower(photos) - numbers["image_mean"]) / numbers["image_scale"]
    test_texts = (words.encode(list(test.captions)) - numbers["text_mean"]) / numbers["text_scale"]
caption_image = torch.as_tensor(test.caption_image)


# %%
class TwoHeads(nn.Module):
    """A linear head a side; the output that OpenCLIP's losses take."""

    def __init__(self, image: int, text: int, width: int = 256, temperature: float = 0.07) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image, width), nn.Linear(text, width)
        self.logit_scale = nn.Parameter(torch.tensor(1 / temperature).log(), requires_grad=False)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised embeddings, and the factor of the logits."""
        embed = nn.functional.normalize
        return {
            "image_features": embed(self.image(image), dim=1),
            "text_features": embed(self.text(text), dim=1),
            "logit_scale": self.logit_scale.exp(),
        }


def score(model: TwoHeads) -> float:
    """Mean recall on test, in percent."""
    with torch.no_grad():
        out = model.eval()(test_images, test_texts[: len(test_images)])
        text = nn.functional.normalize(model.text(test_texts), dim=1)
    return round(vd.retrieval_metrics(out["image_features"], text, caption_image).mean_recall, 2)


torch.manual_seed(0)
print("untrained", score(TwoHeads(images.shape[1], texts.shape[1])))

# %% [markdown]
# ## Plain PyTorch
#
# Any optimiser and schedule does; rates, epochs, momentum and temperature of the recipe are what the set was made for.

# %%
torch.manual_seed(0)
model = TwoHeads(images.shape[1], texts.shape[1], temperature=recipe.temperature or 0.07)
groups = [{"params": getattr(model, side).parameters(), "lr": recipe.rate(side, 0, 1)} for side in ("image", "text")]
optimiser = torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
own = torch.arange(len(pairs))
for _ in range(recipe.epochs):
    out = model.train()(images, texts)
    logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    loss = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print("plain loop", score(model))
print("pairs.train()", round(pairs.train(quiet=True).score(data, quiet=True).mean_recall, 2))

# %% [markdown]
# ## Inside OpenCLIP
#
# `train_one_epoch` is the loop of `open_clip_train`: it takes a loader of (image, text), a model that gives a dictionary, and
# one of OpenCLIP's losses. The set's own tensors are the loader; logging, scaling and accumulation are OpenCLIP's.

# %%
from types import SimpleNamespace

from open_clip import ClipLoss
from open_clip_train.data import DataInfo
from open_clip_train.train import train_one_epoch
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(images, texts), batch_size=len(pairs), shuffle=True)
loader.num_batches, loader.num_samples = len(loader), len(pairs)
args = SimpleNamespace(
    device="cpu", precision="fp32", distill=False, accum_freq=1, skip_scheduler=True, grad_clip_norm=1.0, horovod=False,
    rank=0, local_rank=0, log_local=False, world_size=1, batch_size=len(pairs), log_every_n_steps=1000, wandb=False,
)  # fmt: skip

torch.manual_seed(0)
model = TwoHeads(images.shape[1], texts.shape[1])
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
for epoch in range(60):
    train_one_epoch(model, {"train": DataInfo(loader)}, ClipLoss(), epoch, optimiser, None, None, None, args)
print("OpenCLIP's loop", score(model))

# %% [markdown]
# A whole OpenCLIP model can be the tower itself: `vd.distill(..., config={"encoder": {"image": {"name": "open_clip:MODEL"}, ...}})`
# ([towers](../towers.md)). Sentence vectors of a set are no tokens: they fit the text tower they were made with.

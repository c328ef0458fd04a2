"""Text as input embeddings: the inputs of a trained text tower, and the form in which texts are learned.

Shapes: B batch, L tokens, e width of an input embedding. Text inputs are (B, L, e + 1): the embeddings and, last, the
mask (1 for a token, 0 for padding). The embedding table is frozen, so that learned embeddings keep their meaning while
the tower is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from vldistill.encoders.text_towers import TransformersTextTower
from vldistill.encoders.tower import TextTower
from vldistill.errors import ConfigError
from vldistill.runtime.devices import moved


class TokenTower(nn.Module):
    """A transformers encoder from input embeddings to sentence vectors (B, width).

    Args:
        tower: its model is copied; all parameters are trained except the embedding table and the unused pooler.
    """

    def __init__(self, tower: TransformersTextTower) -> None:
        super().__init__()
        self.model = copy.deepcopy(tower.model).requires_grad_(True)
        self.model.get_input_embeddings().requires_grad_(False)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler.requires_grad_(False)
        self.pool = tower.pool
        self.width = tower.width
        self.eval()

    def train(self, mode: bool = True) -> TokenTower:
        """Stay in eval mode: dropout inside a tower is off, as in the image tower."""
        return super().train(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Sentence vectors (B, width) of text inputs (B, L, e + 1)."""
        mask = (inputs[..., -1] > 0.5).long()
        hidden = self.model(inputs_embeds=inputs[..., :-1], attention_mask=mask).last_hidden_state
        return self.pool(hidden, mask)


class TokenInputs:
    """Captions as text inputs; embeddings are looked up when rows are read.

    Args:
        ids: (M, L) int64 token ids, padded.
        mask: (M, L) 1 for a token, 0 for padding.
        table: (V, e) input embeddings, on the training device.
    """

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor, table: torch.Tensor) -> None:
        self.ids, self.mask, self.table = ids, mask, table

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Text inputs (B, L, e + 1) of rows ``index``, padded to the longest."""
        mask = self.mask[index.cpu()]
        longest = int(mask.sum(1).max())
        ids, mask = self.ids[index.cpu()][:, :longest], mask[:, :longest]
        embeddings = self.table[moved(ids, self.table.device)]
        return torch.cat([embeddings, moved(mask.to(embeddings.dtype), embeddings.device).unsqueeze(-1)], dim=-1)


def require_trainable(tower: TextTower) -> TransformersTextTower:
    """Return ``tower`` if it can be trained. Raises ConfigError."""
    if not isinstance(tower, TransformersTextTower):
        raise ConfigError(
            f"setting both trains the text tower, but {tower.name!r} has no parameters. Set encoder.text.name to "
            f"an encoder of transformers: a hub name or a local folder."
        )
    return tower


def token_inputs(tower: TextTower, captions: Sequence[str], device: torch.device) -> TokenInputs:
    """Text inputs of ``captions`` for ``tower``. Raises ConfigError if it cannot be trained."""
    model = require_trainable(tower)
    tokens = model.tokens(captions)
    table = model.model.get_input_embeddings().get_parameter("weight").detach().to(device)
    if model.tokenizer.padding_side != "right":
        raise ConfigError(f"text tower {tower.name!r} pads on the left; setting both needs padding on the right.")
    return TokenInputs(tokens["input_ids"], tokens["attention_mask"], table)

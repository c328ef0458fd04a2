"""Text towers: captions to sentence vectors (M, width). They are frozen; setting ``both`` uses tokens.py instead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vldistill.config import TextTowerConfig, expand
from vldistill.config.plain import Record
from vldistill.encoders.tower import ProgressHook, read_weights, refused_as, weights_digest
from vldistill.errors import ConfigError
from vldistill.runtime.devices import moved
from vldistill.storage.files import digest
from vldistill.storage.hub import bounded_look_up

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_TEXT_TOWERS = {"hashing": "hashed words and word pairs (scikit-learn); needs no download"}


class HashingTextTower:
    """Hashed words, word pairs and word triples, L2-normalised: scikit-learn's HashingVectorizer."""

    def __init__(self, width: int = 512) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.name, self.width = "hashing", width
        self.vectorizer = HashingVectorizer(n_features=width, ngram_range=(1, 3), token_pattern=r"\b\w+\b")

    def encode(self, captions: Sequence[str], progress: ProgressHook | None = None) -> torch.Tensor:
        """Sentence vectors (M, width)."""
        from scipy.sparse import csr_matrix

        chunks = []
        for start in range(0, len(captions), 4096):
            part = captions[start : start + 4096]
            counts = csr_matrix(self.vectorizer.transform(part))
            chunks.append(torch.from_numpy(counts.toarray().astype(np.float32)))
            if progress:
                progress(len(part))
        return torch.cat(chunks) if chunks else torch.empty(0, self.width)

    def fingerprint(self) -> str:
        """A hash of the width."""
        return digest("hashing", self.width, (1, 3))


class TransformersTextTower:
    """A transformers encoder with CLS or mean pooling, from the hub or a local folder."""

    def __init__(self, config: TextTowerConfig, device: torch.device, batch: int = 256) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()  # loading takes a second; slow work has progress bars of its own

        self.name, self.pooling, self.max_tokens, self.batch = config.name, config.pooling, config.max_tokens, batch
        self.options = dict(config.options)
        where = expand(config.name)
        if (where.startswith((".", "/")) or where.count("/") > 1) and not Path(where).is_dir():
            raise ConfigError(f"text tower {where!r}: no such folder. Give a local folder or a hub name.")
        remedy = (
            "Give a hub name that can be reached, a folder with config.json, tokenizer and model.safetensors, or "
            "'hashing', which needs no download."
        )
        with refused_as(f"text tower {where!r} could not be loaded", remedy), torch.random.fork_rng(devices=[]):
            # random weights, and a pooler missing from the file, must be the same in every process: they are hashed
            torch.default_generator.manual_seed(config.seed)
            local = nullcontext() if Path(where).is_dir() else bounded_look_up(f"text tower {where!r}", remedy)
            with local:
                self.tokenizer, self.model, missing = _load_transformer(where, config.weights, config.options)
        if missing:
            raise ConfigError(
                f"text tower {where!r}: its weights lack {len(missing)} tensors {missing[:2]}, which would stay "
                f"random. Its config.json and model.safetensors do not belong together; fetch the model again, or "
                f"check encoder.text.weights and encoder.text.options."
            )
        self.device = torch.device("cpu")
        self._check(where)
        self.device = device
        torch.nn.Module.to(self.model, device)

    def _check(self, where: str) -> None:
        """Encode a short and an over-long caption on the CPU, so that unusable models fail early."""
        limits = (self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None))
        limit = min(limit for limit in (*limits, self.max_tokens) if limit and limit > 0)
        if limit < self.max_tokens:
            raise ConfigError(
                f"encoder.text.max_tokens is {self.max_tokens}; expected {limit} or less, "
                f"the longest text that text tower {where!r} can read."
            )
        with refused_as(
            f"text tower {where!r} cannot encode captions of {self.max_tokens} tokens",
            "Expected an encoder of transformers such as BERT, with a padding token and room for "
            "encoder.text.max_tokens.",
        ):
            self.width = int(self.model.config.hidden_size)
            self.encode(["a", "a " * self.max_tokens])

    def tokens(self, captions: Sequence[str]) -> BatchEncoding:
        """``input_ids`` and ``attention_mask`` (B, L) of captions, truncated and padded to the longest."""
        return self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )

    @torch.no_grad()
    def encode(self, captions: Sequence[str], progress: ProgressHook | None = None) -> torch.Tensor:
        """Sentence vectors (M, width). Batches are sorted by length to reduce padding."""
        out = torch.empty(len(captions), self.width)
        order = np.argsort([len(caption) for caption in captions], kind="stable")
        for start in range(0, len(captions), self.batch):
            index = order[start : start + self.batch]
            rows = self.tokens([captions[int(row)] for row in index])
            tokens = {name: moved(tensor, self.device) for name, tensor in rows.items()}
            hidden = self.model(**tokens).last_hidden_state
            out[index] = self.pool(hidden, tokens["attention_mask"]).float().cpu()
            if progress:
                progress(len(index))
        return out

    def pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors (B, width) of token vectors (B, L, width); ``mask`` (B, L) is 0 for padding."""
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def fingerprint(self) -> str:
        """A hash of the weights, the vocabulary, the pooling, the token limit, and the options if there are any."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        options = (self.options,) if self.options else ()
        return digest(weights_digest(self.model), vocabulary, self.pooling, self.max_tokens, *options)


def _load_transformer(
    where: str, weights: str, options: Record
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Tokenizer, model in float32 and eval mode, and the names of tensors that are missing from its file."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    # trust_remote_code=False: never run code of a repository, without a question
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    if strange := [name for name in options if not hasattr(config, name)]:
        raise ValueError(f"its configuration has no {strange}")
    config.update(dict(options))
    if weights == "random":
        return tokenizer, AutoModel.from_config(config, trust_remote_code=False).float().eval(), []
    if weights == "hub":
        model, found = AutoModel.from_pretrained(
            where, config=config, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    else:
        with torch.device("meta"):  # draws nothing: missing tensors get the same random values as from the hub
            empty = AutoModel.from_config(config, trust_remote_code=False)
        wanted = [name for name in empty.state_dict() if not name.startswith("pooler.")]
        tensors = read_weights(Path(expand(weights)), "text tower weights", wanted)
        model, found = type(empty).from_pretrained(  # AutoModel needs a folder
            None, config=config, state_dict=tensors, output_loading_info=True, trust_remote_code=False
        )
    # the pooler is not used, and many encoders are published without it
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    return tokenizer, model.float().eval(), missing

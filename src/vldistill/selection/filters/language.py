"""The language of a caption, by py3langid (Lui and Baldwin, "langid.py", ACL 2012), an optional package."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from vldistill.errors import MissingExtraError
from vldistill.selection.filter import register
from vldistill.selection.material import Material


def _library() -> ModuleType:
    try:
        return importlib.import_module("py3langid")
    except ImportError:
        raise MissingExtraError(
            "the filter language needs the package py3langid, which is not installed: pip install 'vldistill[select]'"
        ) from None


@register("language", of="caption", texts=True, check=lambda _: _library() and None)
def language(material: Material) -> np.ndarray:
    """The language of the caption as two letters (en, de, zh); short captions are often taken for another one."""
    classify = _library().classify
    return np.array([classify(caption)[0] for caption in material.pairs.captions], object)

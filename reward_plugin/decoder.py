"""Qwen2's decoder over packed prompts: attention in blocks, the last layer only where answers are read.

A packed sequence is a prefix that all prompts share, then K suffixes that see the prefix and themselves.
Under a mask over the whole sequence two thirds of the attention scores would be computed to be thrown
away, and no flash-attention kernel takes such a mask. Here the prefix attends to itself, and each suffix
to the prefix and itself, as in a continuation from an expanded cache: no [L, L] mask exists, and both
calls are causal in the way (aligned to the end of the keys) that flash-attention computes. Everything that
works on single tokens, nearly all of the work, still runs on one unpadded sequence of full batches.

Shapes: B images, K prompts, P prefix tokens, S tokens of the longest suffix, L packed tokens, H hidden
size, D head size, N key-value heads, G query heads to a key-value head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2Model,
    rotate_half,
)

Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each [1, L, 1, D]


class Split(NamedTuple):
    """How the attention over one packed sequence is divided.

    Attributes:
        prefix: P, at least 1.
        suffixes: int64 [K * S]; the packed tokens of every suffix, a short one filled up with its last token,
            which comes too late for the others to see it.
        back: int64 [L - P]; where in `suffixes` each packed token after the prefix stands.
        read: int64 [K]; the packed tokens whose hidden states are wanted.
        prefix_mask: added to the scores of the prefix, [P * G, P]; query rows are grouped as in `_grouped`.
        suffix_mask: the same of a suffix, [S * G, P + S].
        read_mask: the same of the read tokens over the whole sequence, [K * G, L].
    """

    prefix: int
    suffixes: torch.Tensor
    back: torch.Tensor
    read: torch.Tensor
    prefix_mask: torch.Tensor
    suffix_mask: torch.Tensor
    read_mask: torch.Tensor


def split_attention(decoder: Qwen2Model, prefix: int, ends: tuple[int, ...], reads: torch.Tensor) -> Split:
    """Divide the attention over a packed sequence.

    Args:
        decoder: for device, dtype and the number of heads.
        prefix: tokens that all prompts share, at least 1.
        ends: index of each prompt's last token; suffixes lie one after the other from `prefix` on.
        reads: bool [K, L]; which tokens each of those last tokens sees.
    """
    starts = (prefix, *(end + 1 for end in ends[:-1]))
    longest = max(end + 1 - start for start, end in zip(starts, ends, strict=True))
    steps = torch.arange(longest)
    rows = [torch.clamp(start + steps, max=end) for start, end in zip(starts, ends, strict=True)]
    back = [
        k * longest + torch.arange(end + 1 - start)
        for k, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    config = decoder.config
    group = config.num_attention_heads // config.num_key_value_heads
    device, dtype = decoder.embed_tokens.weight.device, decoder.embed_tokens.weight.dtype

    def mask(visible: torch.Tensor) -> torch.Tensor:
        added = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, float("-inf"))
        return added.repeat_interleave(group, 0).to(device)

    return Split(
        prefix=prefix,
        suffixes=torch.cat(rows).to(device),
        back=torch.cat(back).to(device),
        read=torch.tensor(ends, device=device),
        prefix_mask=mask(torch.ones(prefix, prefix, dtype=torch.bool).tril()),
        suffix_mask=mask(torch.cat([torch.ones(longest, prefix, dtype=torch.bool), causal], 1)),
        read_mask=mask(reads),
    )


def rotation_of(decoder: Qwen2Model, position_ids: torch.Tensor) -> Rotation:
    """Rotary cos and sin, [1, L, 1, D] each, of positions int64 [L]; the same for every image."""
    weight = decoder.embed_tokens.weight
    cos, sin = decoder.rotary_emb(weight[:1], position_ids[None])
    return cos[:, :, None], sin[:, :, None]


def hidden_at(
    decoder: Qwen2Model,
    embeddings: torch.Tensor,
    rotation: Rotation,
    split: Split,
    run: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Final hidden states, after the last norm, of the tokens in `split.read` alone.

    All layers but the last run on every token, because later tokens look at them. In the last one only keys
    and values are needed everywhere; its queries and its feed-forward, most of the layer, run on K tokens.
    That saves three per cent of a model with 28 layers, and two thirds of a pocket model with one.

    Args:
        decoder: the language model without its head.
        embeddings: [B, L, H].
        rotation: see `rotation_of`.
        split: see `split_attention`.
        run: `decoder_layer`, or what torch.compile makes of it.

    Returns:
        [B, K, H].
    """
    run = run or decoder_layer
    hidden = embeddings
    for layer in decoder.layers[:-1]:
        hidden = run(layer, hidden, rotation, split)
    last = decoder.layers[-1]
    attended = _attend_read(last.self_attn, last.input_layernorm(hidden), rotation, split)
    hidden = hidden[:, split.read] + attended
    hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
    return decoder.norm(hidden)


def decoder_layer(
    layer: Qwen2DecoderLayer, hidden: torch.Tensor, rotation: Rotation, split: Split
) -> torch.Tensor:
    """One whole layer: [B, L, H] -> [B, L, H]."""
    hidden = hidden + _attend(layer.self_attn, layer.input_layernorm(hidden), rotation, split)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _attend(
    attention: Qwen2Attention, tokens: torch.Tensor, rotation: Rotation, split: Split
) -> torch.Tensor:
    """Self-attention of all tokens [B, L, H], prefix and suffixes apart."""
    P, B = split.prefix, len(tokens)
    q = _rotate(_heads(attention, attention.q_proj, tokens), *rotation)
    k = _rotate(_heads(attention, attention.k_proj, tokens), *rotation)
    v = _heads(attention, attention.v_proj, tokens)
    K = len(split.read)

    def suffixes(of: torch.Tensor) -> torch.Tensor:
        return of.index_select(1, split.suffixes).unflatten(1, (K, -1))  # [B, K, S, heads, D]

    def continued(of: torch.Tensor) -> torch.Tensor:
        prefix = of[:, None, :P].expand(-1, K, -1, -1, -1)
        return torch.cat([prefix, suffixes(of)], 2).flatten(0, 1)  # [B * K, P + S, N, D]

    first = _causal(attention, q[:, :P], k[:, :P], v[:, :P], split.prefix_mask)
    rest = _causal(attention, suffixes(q).flatten(0, 1), continued(k), continued(v), split.suffix_mask)
    rest = rest.view(B, -1, rest.shape[-1]).index_select(1, split.back)
    return attention.o_proj(torch.cat([first, rest], 1))


def _attend_read(
    attention: Qwen2Attention, tokens: torch.Tensor, rotation: Rotation, split: Split
) -> torch.Tensor:
    """Self-attention of the read tokens alone: [B, L, H] -> [B, K, H]."""
    cos, sin = rotation
    q = _heads(attention, attention.q_proj, tokens[:, split.read])
    q = _rotate(q, cos[:, split.read], sin[:, split.read])
    k = _rotate(_heads(attention, attention.k_proj, tokens), cos, sin)
    v = _heads(attention, attention.v_proj, tokens)
    return attention.o_proj(_grouped(q, k, v, split.read_mask))


def _heads(attention: Qwen2Attention, projection: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return projection(tokens).unflatten(-1, (-1, attention.head_dim))  # [B, tokens, heads, D]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + rotate_half(x) * sin


def _causal(
    attention: Qwen2Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The last tokens of a sequence attend to all of it up to themselves.

    Args:
        attention: the module, whose config names the implementation.
        q: [B, queries, N * G, D], the last of the sequence.
        k: [B, keys, N, D].
        v: like k.
        mask: says the same, for an implementation that takes masks.

    Returns:
        [B, queries, N * G * D].
    """
    implementation = attention.config._attn_implementation
    if "flash" not in implementation:
        return _grouped(q, k, v, mask)
    flash = ALL_ATTENTION_FUNCTIONS[implementation]
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return flash(attention, q, k, v, None, scaling=attention.scaling, is_causal=True)[0].flatten(2)


def _grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention in which the query heads of one key-value head are further rows of queries to it.

    Nothing is repeated, and kernels that take masks but no grouped heads can be used.

    Args:
        q: [B, queries, N * G, D].
        k: [B, keys, N, D].
        v: like k.
        mask: [queries * G, keys], each query's G heads in a row.

    Returns:
        [B, queries, N * G * D].
    """
    queries, N = q.shape[1], k.shape[2]
    q = q.unflatten(2, (N, -1)).transpose(1, 2).flatten(2, 3)
    out = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.unflatten(2, (queries, -1)).transpose(1, 2).flatten(2)

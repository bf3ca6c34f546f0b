"""PickScore: which of several pictures of one prompt a person would pick.

Kirstain et al., "Pick-a-Pic", arXiv 2305.01569; weights `yuvalkirstain/PickScore_v1`, a CLIP ViT-H/14
fine-tuned on over 500,000 choices. Score = exp(logit_scale) * cosine(image, prompt), the scale being about
100: mostly 18 to 24 (the paper's softmax over the scores of one prompt's pictures is the probability of the
pick). Preprocessing as published: shorter side to 224 by PIL's bicubic, centre crop; prompts cut at 77
tokens.

`normalise: flow_grpo` divides by 26, as flow_grpo's `pickscore` reward does, to about 0.7 to 0.9.
"""

from __future__ import annotations

from reward_plugin.errors import ConfigError
from reward_plugin.scorers.clip import ClipScorer

#: What flow_grpo's pickscore_scorer.py divides by, to bring scores near 1.
FLOW_GRPO = 26.0


def build(
    path: str = "yuvalkirstain/PickScore_v1",
    processor: str | None = None,
    normalise: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    revision: str | None = None,
) -> ClipScorer:
    """Load PickScore.

    Args:
        path: folder with config.json and safetensors of the CLIPModel; or a hub id.
        processor: folder or hub id with tokenizer and preprocessor_config.json where `path` has none;
            published with `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`.
        normalise: flow_grpo divides scores by 26; nothing leaves them as published.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16; the published score is
            that of float32, and preferences lie in its second decimal, so bfloat16 blurs them.
        batch_size: pairs per forward pass.
        revision: branch, tag or commit of a hub id given as `path`.
    """
    from transformers import CLIPModel

    from reward_plugin.devices import resolve
    from reward_plugin.scorers.clip_folder import load_model, load_processing
    from reward_plugin.source import find_folder

    if normalise not in (None, "flow_grpo"):
        raise ConfigError(f"normalise {normalise!r}: write flow_grpo (scores over 26), or leave it out")
    where, precision = resolve(device, dtype)
    folder = find_folder(path, revision)
    other = folder if processor is None else find_folder(processor, None, ("*.json", "*.txt"))
    tokenizer, pictures = load_processing(other)
    model = load_model(CLIPModel, folder, precision).to(where)
    scale = float(model.logit_scale.float().exp())
    return ClipScorer(
        model,
        tokenizer,
        pictures,
        batch_size,
        name="pickscore",
        dimension="pickscore",
        factor=scale / FLOW_GRPO if normalise else scale,
    )

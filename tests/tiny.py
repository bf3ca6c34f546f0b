"""A FLUX pipeline folder with random weights and all seven components, for tests that need real classes.

Every part is the class that FLUX.1-dev itself uses, a few thousand parameters each: what loads and trains
here loads and trains there. Building takes a fraction of a second and needs no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

# Words that the tests' prompts use; anything else falls back to letters.
WORDS = (
    "a",
    "red",
    "green",
    "blue",
    "apple",
    "boat",
    "cat",
    "house",
    "on",
    "under",
    "the",
    "sky",
    "grass",
    "and",
)
TEXT_LENGTH = 32


def tiny_flux(path: str | Path, *, seed: int = 0, contrast: float = 6.0) -> Path:
    """Write a random `FluxPipeline` folder.

    The VAE reduces four times and has 8 channels, so the transformer sees 32 channels after 2x2 packing and
    an image side must be a multiple of 8 pixels (32x32 gives 16 image tokens). Guidance embedding and dynamic
    shifting are on. Text length is 32 for both encoders.

    Args:
        path: Folder to create; parents are made.
        seed: Seed of all weights. The global random state is left as it was.
        contrast: Factor on the decoder's last layer, so that pictures are not all mid-grey.

    Returns:
        `path`, to be given to `FluxPipeline.from_pretrained`.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0,
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
            ),
            vae=_vae(contrast),
            text_encoder=_clip_text(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=t5(),
            tokenizer_2=t5_tokenizer(),
            transformer=_transformer(),
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(str(path), safe_serialization=True)
    return Path(path)


def tiny_prompts(path: str | Path, texts: Sequence[str] = ("a red apple", "a blue boat")) -> Path:
    """Write a prompt file with one text a line and return its path."""
    path = Path(path)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def _transformer() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # At their random size the blocks' gates are nearly shut, and an adapter could hardly change a
            # picture.
            if ".norm" in name and name.endswith("linear.weight"):
                weight.mul_(5)
    return model.eval()


def _vae(contrast: float) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.8,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(contrast)
    return vae.eval()


def _clip_text() -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    size = len(clip_vocabulary())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextModel(config).eval()


def clip_vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def clip_tokenizer() -> object:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=clip_vocabulary(), merges=[], model_max_length=TEXT_LENGTH)


def t5(width: int = 16) -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=256,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return T5EncoderModel(config).eval()


def t5_tokenizer() -> object:
    from transformers import T5TokenizerFast

    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [("▁" + word, -2.0) for word in WORDS]
    letters = [(chr(code), -6.0) for code in range(33, 127)]
    return T5TokenizerFast(vocab=[*specials, *words, *letters], extra_ids=0, model_max_length=TEXT_LENGTH)

"""Stable Diffusion 3.5 and Qwen-Image folders with random weights, of the classes of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import TEXT_LENGTH, clip_tokenizer, clip_vocabulary, t5, t5_tokenizer

#: Qwen-Image's template begins with this; diffusers drops its 34 tokens.
TEMPLATE = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:"
)


def tiny_sd3(path: str | Path, *, seed: int = 0, without_t5: bool = False) -> Path:
    """Write a random `StableDiffusion3Pipeline` folder; a picture's sides must be multiples of 8 pixels.

    Like 3.5 medium it has normalised queries and keys and a block with a second attention.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=_open(transformer, ".linear.weight"),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_image_vae(),
            text_encoder=_projected_clip(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=_projected_clip(),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=None if without_t5 else t5(width=32),
            tokenizer_3=None if without_t5 else t5_tokenizer(),
        )
    return _saved(pipeline, path)


def tiny_qwen_image(path: str | Path, *, seed: int = 0) -> Path:
    """Write a random `QwenImagePipeline` folder; a picture's sides must be multiples of 8 pixels."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 2, 2),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 1.0, 2.0],
        )
        pipeline = QwenImagePipeline(
            transformer=_open(transformer, "_mod.1.weight"),
            # As published: the last sigma before 0 is 0.02.
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=0.9,
                base_image_seq_len=256,
                max_image_seq_len=8192,
                shift_terminal=0.02,
            ),
            vae=vae.eval(),
            text_encoder=_qwen_text(),
            tokenizer=_qwen_tokenizer(),
        )
    return _saved(pipeline, path)


def _saved(pipeline: Any, path: str | Path) -> Path:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(str(path), safe_serialization=True)
    return Path(path)


def _open(transformer: torch.nn.Module, gates: str) -> torch.nn.Module:
    """Open the blocks' gates, which are nearly shut at their random size."""
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if name.endswith(gates):
                weight.mul_(5)
    return transformer.eval()


def _image_vae() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.3,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    ).eval()


def _projected_clip() -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    size = len(clip_vocabulary())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextModelWithProjection(config).eval()


def _qwen_text() -> torch.nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    size = len(_qwen_tokenizer())
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def _qwen_tokenizer() -> Any:
    """Bytes, and 18 pieces of the template, so that its beginning has the 34 tokens that are dropped."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {"<|endoftext|>": 0}
    for letter in sorted(ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    words = TEMPLATE.split(" ")
    first = " ".join(words[:3])
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", first, *(f" {word}" for word in words[3:])])
    return tokenizer

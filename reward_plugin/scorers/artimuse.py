"""ArtiMuse: overall aesthetics (artimuse), 0 to 100, in its own question.

Paper: "ArtiMuse", arXiv 2507.14533. Checkpoints: `Thunderbolt215215/ArtiMuse`, and its siblings fine-tuned on
other data sets, `ArtiMuse_AVA`, `ArtiMuse_FLICKR-AES`, `ArtiMuse_PARA` and `ArtiMuse_TAD66K`; all answer on
the same scale. The question can be asked of a UniPercept checkpoint too; beside a `unipercept` scorer of the
same checkpoint it costs no memory of its own.
"""

from __future__ import annotations

from reward_plugin.scorers.unipercept import UniPerceptScorer


def build(
    path: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    system_message: str | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    resize: str = "pil",
    quantise: str | None = None,
) -> UniPerceptScorer:
    """Load an ArtiMuse checkpoint, or share the model with a scorer that has it loaded.

    Args:
        path: folder in the published or the native layout, or a hub id such as `Thunderbolt215215/ArtiMuse`.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        batch_size: images per forward pass.
        system_message: replaces the system turn that the checkpoint asks for, which is the config's
            `system_message` where it has that key (null is sent as the text "None", as published), and the
            template's Chinese one otherwise.
        attention: attention implementation of transformers: sdpa, eager, flash_attention_2 or
            flash_attention_3 (those two on CUDA, in 16 bits, with their packages installed).
        revision: branch, tag or commit of a hub id.
        precision: what the score is computed in from the model's last hidden state; float32, or "published":
            the model's dtype. ArtiMuse's own code pins transformers 4.37, which turns logits to float32
            before the softmax, so float32 is the nearer of the two to it.
        compile: compile the model's layers with torch.compile, which needs a C++ compiler and takes a minute
            or more at the first batch; scorers that share the model share its compiled vision tower. Text
            names torch.compile's backend.
        resize: "pil", as published, or "torch", on the model's device, which moves scores a little (see
            `reward_plugin.prepare`).
        quantise: fewer bits for the decoder's weights: int8, int4 or fp8 (see `reward_plugin.quantise`); none
            by default.
    """
    from reward_plugin.engines import rating_engine
    from reward_plugin.prompting import ARTIMUSE_QUESTIONS

    engine = rating_engine(
        ARTIMUSE_QUESTIONS,
        path,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        system_message=system_message,
        attention=attention,
        revision=revision,
        precision=precision,
        compile=compile,
        resize=resize,
        quantise=quantise,
    )
    return UniPerceptScorer(engine, "artimuse")

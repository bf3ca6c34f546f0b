"""Embeddings of prompts: each computed once, the latest kept in memory, all of them on disk if asked.

With `model.text_cache` the encoders are loaded only when a prompt is missing on disk and dropped again, so
that no T5 lies on the GPU while the model trains; a run whose prompts are all on disk never loads one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flow_grpo.files import write_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flow_grpo.policy.base import Policy

Embedding = Mapping[str, torch.Tensor]
"""Named tensors of one prompt, on the CPU and without a batch dimension."""

#: Embeddings kept in memory. One takes 4 MiB at FLUX.1-dev's 512 tokens: those of a whole file would fill the
#: memory of a machine with eight processes.
REMEMBERED = 512
#: Part of every key: changes when what is stored does.
VERSION = 1
#: A file up to this many bytes enters the fingerprint whole; of a larger one, as many bytes in 64 blocks.
SAMPLE = 2**20


class TextStore:
    """Embeddings on disk, one safetensors file each: FOLDER/<key's first two digits>/<key>.safetensors.

    Files appear whole, by renaming, so several processes may write the same one at once. None is ever
    deleted; any may be, at any time. A file takes what its tensors take, for FLUX.1 2 bytes x
    max_sequence_length x 4,096: 4 MiB a prompt.

    Args:
        folder: Is made when the first embedding is written.
        fingerprint: Of everything besides the prompt that the embedding depends on.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = Path(folder), fingerprint

    def path(self, text: str) -> Path:
        """The file of a prompt's embedding."""
        key = hashlib.sha256(f"{self.fingerprint}\n{text}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, text: str) -> Embedding | None:
        """The embedding, or None where there is none that can be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(str(self.path(text)))
        except (FileNotFoundError, SafetensorError):  # torn by a crash of the machine: computed again
            return None

    def write(self, text: str, embedding: Embedding) -> None:
        """Store an embedding.

        Raises:
            OSError: The folder cannot be written to.
        """
        target = self.path(text)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Machines that share the folder may have equal process ids, so the name is drawn.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        os.close(descriptor)
        try:
            write_tensors(Path(temporary), {name: value.contiguous() for name, value in embedding.items()})
            os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)


class TextEmbeddings:
    """Prompt -> embedding, computed at most once.

    Args:
        compute: Encodes one prompt; an embedding must not depend on its neighbours in a batch.
        release: Called after computing where there is a store: drops the encoders.
        store: Where embeddings are kept on disk, or none.

    Attributes:
        always: Prompts that are needed beside those of any run, such as the negative one.
    """

    always: tuple[str, ...] = ()

    def __init__(
        self, compute: Callable[[str], Embedding], release: Callable[[], None], store: TextStore | None = None
    ) -> None:
        self._compute, self._release, self.store = compute, release, store
        self._remembered: dict[str, Embedding] = {}

    def __call__(self, texts: Sequence[str]) -> list[Embedding]:
        """Embeddings of prompts; the latest `REMEMBERED` stay in memory."""
        absent = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        for text in absent:
            stored = self.store.read(text) if self.store else None
            if stored is not None:
                self._remembered[text] = stored
        self._remembered |= self.compute(text for text in absent if text not in self._remembered)
        rows = [self._remembered[text] for text in texts]
        for text in dict.fromkeys(texts):  # the latest last
            self._remembered[text] = self._remembered.pop(text)
        for text in list(self._remembered)[:-REMEMBERED]:
            del self._remembered[text]
        return rows

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The prompts and `always`, each once, that are not on disk; none where there is no store."""
        if self.store is None:
            return []
        return [text for text in dict.fromkeys((*texts, *self.always)) if not self.store.path(text).is_file()]

    @torch.no_grad()
    def compute(self, texts: Iterator[str] | Sequence[str]) -> dict[str, Embedding]:
        """Encode prompts, and store the embeddings where there is a store."""
        made: dict[str, Embedding] = {}
        for text in texts:
            made[text] = {name: value.cpu() for name, value in self._compute(text).items()}
            if self.store is not None:
                self.store.write(text, made[text])
        if made and self.store is not None:
            self._release()
        return made


def warn_if_cut(tokenizer: Any, text: str, limit: int) -> None:
    """Say which prompt an encoder does not see whole.

    Args:
        tokenizer: Of the encoder, from transformers.
        text: The prompt.
        limit: Tokens that it is cut to, the closing one included.
    """
    tokens = len(tokenizer(text).input_ids)
    if tokens > limit:
        logging.getLogger("flow_grpo").warning(
            f"this prompt has {tokens} tokens and is cut to model.max_sequence_length {limit}: {text!r}"
        )


def encode_ahead(policy: Policy, texts: Sequence[str], accelerator: Accelerator) -> None:
    """Put all of a run's prompts into the text cache, if there is one, before training begins.

    The processes share the work; those on other machines, whose disk is another, then make up for theirs.
    """
    missing = policy.texts.missing(texts)
    accelerator.wait_for_everyone()  # before anyone writes: all see the same prompts missing
    for part in _parts(missing[accelerator.process_index :: accelerator.num_processes]):
        policy.texts.compute(part)
    accelerator.wait_for_everyone()
    for part in _parts(policy.texts.missing(texts)):
        policy.texts.compute(part)


def _parts(texts: Sequence[str], size: int = REMEMBERED) -> Iterator[Sequence[str]]:
    """Pieces whose embeddings fit into memory together."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def encoder_fingerprint(folder: Path, *settings: object) -> str:
    """Changes when a pipeline's text encoders, tokenizers or the given settings do.

    Read from the files, so that nothing has to be loaded: of a file of up to 1 MiB every byte, of a larger
    one its length and 64 blocks spread over it, first and last included.
    """
    digest = hashlib.sha256(repr((VERSION, *settings)).encode())
    parts = [p for p in folder.iterdir() if p.is_dir() and p.name.startswith(("text_encoder", "tokenizer"))]
    for file in sorted(path for part in parts for path in part.rglob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            for start in _block_starts(size):
                stream.seek(start)
                digest.update(stream.read(SAMPLE if size <= SAMPLE else SAMPLE // 64))
    return digest.hexdigest()


def _block_starts(size: int) -> list[int]:
    if size <= SAMPLE:
        return [0]
    return [number * (size - SAMPLE // 64) // 63 for number in range(64)]


class TextSide:
    """The pipeline that encodes prompts: the model's own, or one of encoders alone, loaded when needed.

    Args:
        whole: The model's pipeline with its encoders, or None where they are apart.
        load: Makes the pipeline of encoders alone.
    """

    def __init__(self, whole: Any, load: Callable[[], Any]) -> None:
        self._pipeline, self._load = whole, load

    @property
    def pipeline(self) -> Any:
        """Has `encode_prompt`; loaded on first use where the encoders are apart."""
        if self._pipeline is None:
            self._pipeline = self._load()
        return self._pipeline

    @property
    def loaded(self) -> bool:
        """Whether encoders are in memory."""
        return self._pipeline is not None

    def release(self) -> None:
        """Drop the encoders and give their memory on the GPU back."""
        self._pipeline = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

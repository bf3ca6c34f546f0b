"""Options of the commands chat, vqa, analyse and profile; light, so that `--help` needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward_plugin.images import Exif


@dataclass(frozen=True, kw_only=True)
class Common:
    """What the four commands share.

    Attributes:
        model: UniPercept or ArtiMuse checkpoint, a folder or a hub id.
        out: JSONL file for the rows. Where it exists, the run goes on: what is in it is not asked again.
            Without it, rows are printed.
        retry: Ask again what failed before, in a run that goes on.
        recursive: Look into the folders inside folders, too.
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published code does (ignore).
        batch_size: Answers written at once; those about one picture stay together.
        max_new_tokens: Longest answer in tokens.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        attention: Attention implementation of transformers.
        revision: Branch, tag or commit of a hub id.
        quantise: Kind of quantisation to load the model in.
        system_message: Replaces the system turn that the checkpoint asks for.
    """

    model: str
    out: Path | None = None
    retry: bool = False
    recursive: bool = False
    exif: Exif = "ignore"
    batch_size: int = 16
    max_new_tokens: int = 1024
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    quantise: str | None = None
    system_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChatConfig(Common):
    """Ask one question about each picture, or, without a prompt, talk about one picture.

    Attributes:
        prompt: The question, for the pictures that bring none in a list. Where one picture has none,
            questions are read from the keyboard.
        temperature: Draw answers at this temperature; 0 takes the likeliest token each time, as published.
        top_k: With a temperature, draw among this many likeliest tokens; 0 for all.
        top_p: With a temperature, draw among the fewest tokens that together are this probable.
        seed: With a temperature, fixes what is drawn.
    """

    prompt: str | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class VqaConfig(Common):
    """Answer multiple-choice questions about pictures by letter.

    Attributes:
        question: Question for the pictures that bring none in a list, with its options, one a line.
        image_root: Folder that image paths in a .json benchmark file are relative to; by default that of
            the file.
        by: Write answers and read the letter (text, as published), or take the likeliest letter in one
            forward pass (likelihood).
    """

    question: str | None = None
    image_root: Path | None = None
    by: Literal["text", "likelihood"] = "text"


@dataclass(frozen=True, kw_only=True)
class AnalyseConfig(Common):
    """Ask the published analysis questions about each picture.

    Attributes:
        questions: ArtiMuse's eight aspects, or UniPercept's questions about aesthetics or about quality.
    """

    questions: Literal["artimuse", "unipercept_aesthetics", "unipercept_quality"] = "artimuse"
    max_new_tokens: int = 8192


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(Common):
    """Make UniPercept's profile of each picture: ratings, structure as checked JSON, and its richness.

    Attributes:
        ratings: Whether to rate iaa, iqa and ista.
        texts: Whether to ask the twelve questions about aesthetics and quality, too.
        lexicon: JSON file of texture term -> weight in place of the paper's table 9.
    """

    ratings: bool = True
    texts: bool = False
    lexicon: Path | None = None
    max_new_tokens: int = 4096

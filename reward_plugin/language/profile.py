"""The profile of an image: UniPercept's ratings, its analyses in words, its structure and its richness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import PIL.Image

from reward_plugin.images import to_rgb
from reward_plugin.internvl import RatingEngine
from reward_plugin.language.analysis import UNIPERCEPT_AESTHETICS, UNIPERCEPT_QUALITY
from reward_plugin.language.chat import Chat, Reply
from reward_plugin.language.richness import TEXTURE_WEIGHTS, Richness, richness
from reward_plugin.language.structure import BadStructure, Structure, read_structure
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS
from reward_plugin.types import ImageLike

#: The published question (`conversation.sh`), to the letter: the apostrophe is U+2019.
STRUCTURE_QUESTION = (
    "Perform a detailed hierarchical analysis of the image’s texture and structure. For complex scenes, "
    "break them down into distinct components and provide the results as structured JSON only, without any "
    "explanations."
)

#: A scene of ten components takes about 1500 tokens; an annotation that is cut off is worth nothing.
MAX_NEW_TOKENS = 4096


@dataclass(frozen=True)
class Profile:
    """What was found out about one image.

    Attributes:
        ratings: dimension -> 0 to 100, the model's own ratings; None where they were not asked for.
        aesthetics: aspect -> answer; empty where not asked for.
        quality: aspect -> answer; empty where not asked for.
        response: the structure annotation as it was written.
        structure: the same, checked; None where it breaks a rule.
        richness: the paper's score of it; None without it.
        problem: which rule it breaks.
    """

    ratings: Mapping[str, float] | None
    response: Reply
    structure: Structure | None
    richness: Richness | None
    problem: str | None
    aesthetics: Mapping[str, Reply] = field(default_factory=dict)
    quality: Mapping[str, Reply] = field(default_factory=dict)


class Profiler:
    """Makes profiles with one checkpoint."""

    def __init__(
        self,
        chat: Chat,
        *,
        ratings: bool = True,
        texts: bool = False,
        weights: Mapping[str, int] = TEXTURE_WEIGHTS,
        max_new_tokens: int = MAX_NEW_TOKENS,
        system_message: str | None = None,
    ) -> None:
        """Take a model.

        Args:
            chat: asks the checkpoint.
            ratings: whether to rate iaa, iqa and ista too.
            texts: whether to ask the twelve published questions about aesthetics and quality too.
            weights: texture term -> weight, for the richness.
            max_new_tokens: longest answer.
            system_message: replaces the checkpoint's own, for the ratings; `chat` has its own setting.
        """
        self.chat = chat
        self.weights = weights
        self.max_new_tokens = max_new_tokens
        self._questions: list[tuple[str, str, str]] = [("structure", "", STRUCTURE_QUESTION)]
        if texts:
            self._questions += [
                ("aesthetics", aspect, text) for aspect, text in UNIPERCEPT_AESTHETICS.items()
            ]
            self._questions += [("quality", aspect, text) for aspect, text in UNIPERCEPT_QUALITY.items()]
        self._engine = (
            RatingEngine(
                chat.checkpoint,
                UNIPERCEPT_QUESTIONS,
                system_message=system_message,
                batch_size=chat.batch_size,
            )
            if ratings
            else None
        )

    def profile(self, images: Sequence[ImageLike]) -> list[Profile]:
        """Profiles of images; an annotation that breaks a rule costs only itself.

        Raises:
            BadImage: a picture cannot be read.
        """
        pictures: list[PIL.Image.Image] = [to_rgb(image) for image in images]
        rated = self._engine.rate(pictures).tolist() if self._engine is not None else [None] * len(pictures)
        prompts = [[text for _, _, text in self._questions]] * len(pictures)
        replies = self.chat.ask_all(pictures, prompts, max_new_tokens=self.max_new_tokens)
        return [self.read(values, about) for values, about in zip(rated, replies, strict=True)]

    def read(self, values: list[float] | None, replies: Sequence[Reply]) -> Profile:
        """One image's profile, from its ratings and the answers to its questions in their order."""
        said: dict[str, dict[str, Reply]] = {"structure": {}, "aesthetics": {}, "quality": {}}
        for (part, aspect, _), reply in zip(self._questions, replies, strict=True):
            said[part][aspect] = reply
        response = said["structure"][""]
        structure, problem = None, None
        try:
            structure = read_structure(response.text)
        except BadStructure as error:
            problem = str(error)
            if not response.finished:
                problem += (
                    f"; the answer was cut off after {response.num_tokens} tokens: raise max_new_tokens"
                )
        return Profile(
            ratings=None if values is None else dict(zip(UNIPERCEPT_QUESTIONS, values, strict=True)),
            response=response,
            structure=structure,
            richness=None if structure is None else richness(structure, self.weights),
            problem=problem,
            aesthetics=said["aesthetics"],
            quality=said["quality"],
        )

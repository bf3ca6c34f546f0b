"""Perceptual scores for images: in process, or from a server that holds the reward model on GPUs of its own.

Importing this package loads neither torch nor transformers; they load when a scorer is built.

`UniPerceptRewardInferencer` takes the place of the class of that name in the published package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_plugin.inferencer import UniPerceptRewardInferencer

__all__ = ["UniPerceptRewardInferencer"]


def __getattr__(name: str) -> Any:
    """Import the inferencer when it is first asked for."""
    if name == "UniPerceptRewardInferencer":
        from reward_plugin.inferencer import UniPerceptRewardInferencer

        return UniPerceptRewardInferencer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The models that can be trained. Each module's policy follows `flow_grpo.policy.base.Policy`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_grpo.policy.base import Policy

#: Class of a pipeline, as its model_index.json names it -> module and class of its policy.
POLICIES = {
    "FluxPipeline": ("flow_grpo.policy.flux", "FluxPolicy"),
    "StableDiffusion3Pipeline": ("flow_grpo.policy.sd3", "SD3Policy"),
    "QwenImagePipeline": ("flow_grpo.policy.qwen_image", "QwenImagePolicy"),
}


def policy_class(path: str) -> Any:
    """The policy of a pipeline folder or hub name.

    Raises:
        ValueError: There is no such model, or it is of a class that cannot be trained.
    """
    from flow_grpo.policy.load import read_index

    name = read_index(path).get("_class_name")
    if name not in POLICIES:
        raise ValueError(
            f"model.path {path!r} holds a {name}; those that can be trained: {', '.join(POLICIES)}."
        )
    module, policy = POLICIES[name]
    return getattr(import_module(module), policy)


def build_policy(config: Any, device: Any = "cpu", seed: int = 0, whole: bool = True) -> Policy:
    """The policy of `config.path`.

    Args:
        config: A `flow_grpo.policy.flux.ModelConfig`.
        device: Where everything is put.
        seed: Seed of the adapters' initialisation.
        whole: False: the transformer stays on the CPU, from where the trainer splits it over processes.

    Raises:
        ValueError: The model cannot be found, loaded or trained.
    """
    policy: Policy = policy_class(config.path)(config, device, seed, whole)
    return policy

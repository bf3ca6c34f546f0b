"""The objectives. Each module has a `Config` and `loss(inputs, config) -> (loss, metrics)`.

`Config.needs_trajectory` says what it is trained on: stochastic transitions of the rollout, or its final
pictures, noised again (see `flow_grpo.examples`).
"""

from flow_grpo.algorithms import grpo, guard, nft

ALGORITHMS = {
    "grpo": grpo,
    "guard": guard,
    "nft": nft,
}

"""Rewards for other trainers, one file each; docs/adapters.md has a snippet to copy for every one of them.

    trl               a reward function for TRL's GRPOTrainer
    flow_factory      Flow-Factory's own HTTP format, on our server
    flow_factory_model  the class that Flow-Factory loads by its path
    verl_omni         `compute_score`, plain and async, for verl-omni
    flow_grpo         `multi_score` for the published flow_grpo
    notebook          a plain function and a small table

All of them take a client or local scorers (`Rewards`), and weigh with `reward_plugin.combine`. Nothing of the
trainers is imported but where it says so, so each file loads in an environment that has only its own trainer.
"""

"""What the reward server is made of, behind `reward_plugin.app` and `reward_plugin.serve`."""

"""Training of UniSim's encoders: CLIP with LoRA on its vision tower, on questions of four tasks.

Ghazanfari et al., "Towards Unified Benchmark and Models for Multi-Modal Perceptual Metrics", arXiv
2412.10594.
The command is `reward_plugin.train_unisim`, the manual docs/unisim_training.md.
"""

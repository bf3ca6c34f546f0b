"""UniSim, a CLIP tuned to judge as people do whether pictures, and pictures and texts, are alike.

Ghazanfari et al., "Towards Unified Benchmark and Models for Multi-Modal Perceptual Metrics",
arXiv 2412.10594.
"""

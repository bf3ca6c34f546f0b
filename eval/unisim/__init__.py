"""UniSim-Bench: seven tasks by which perceptual metrics and reward models are compared; arXiv 2412.10594."""

"""ZeRO-2 by DeepSpeed."""

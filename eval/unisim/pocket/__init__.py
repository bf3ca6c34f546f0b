"""The small UniSim-Bench in `eval/data/unisim`, made of shipped pictures: `python -m eval.unisim.pocket`."""

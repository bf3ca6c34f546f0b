"""CD-COCO: captions of COCO pictures by six models, voted on by experts (arXiv 2306.11593).

Pictures whose best caption has 3 votes or more are asked, one question for each caption without a vote, as
published.
"""

from __future__ import annotations

from eval.unisim.draw import below, chosen, placed
from eval.unisim.reading import Ask, Drawn, finite, read_table, readable
from eval.unisim.samples import Sample

#: A model's column in the votes -> in the captions.
_MODELS = {
    "OFA": "OFA_Huge",
    "GIT": "GIT_Large",
    "Our": "Ensemble",
    "ExpNet-v2": "ExpansionNet_v2",
    "BLIP-2": "BLIP_2",
    "ViT-GPT2": "ViT_GPT2",
}
_VOTES = 3
_FOLDER = "coco-triplets/resources"


def cd_coco(ask: Ask) -> Drawn:
    """The caption with most votes against each caption that has none."""
    drawn = Drawn()
    votes = read_table(
        ask.file(f"{_FOLDER}/expert_worker_results_extended.csv"), ("Image_URL", "max_score", *_MODELS)
    )
    captions = _captions(ask, drawn)
    unsure = 0
    seen: dict[str, str] = {}
    for where, row in votes:
        scores = {model: finite(row[model]) for model in _MODELS} if row else {}
        most = finite(row["max_score"]) if row else None
        if row is None or most is None or None in scores.values():
            drawn.leave(where, "a number of votes is missing, or it has not as many cells as the first line")
            continue
        image = row["Image_URL"]
        problem = ask.files.problem([f"coco/val2014/{image}"])
        if most < _VOTES:
            unsure += 1
        elif image in seen or problem or image not in captions:
            drawn.leave(where, f"repeats {image} of {seen[image]}" if image in seen else
                        problem or f"{image} has no captions")  # fmt: skip
        else:
            seen[image] = where
            _ask(ask, drawn, image, {model: score or 0.0 for model, score in scores.items()}, captions[image])
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "cd_coco")
    drawn.notes += [
        f"{unsure} pictures whose best caption has fewer than {_VOTES} votes are not asked, as published.",
        "Where several captions have most votes, which of them is asked about, and which text comes first, "
        "is drawn from the seed and the names; in the published code, from the state of a worker.",
    ]
    return drawn


def _ask(ask: Ask, drawn: Drawn, image: str, scores: dict[str, float], texts: dict[str, str]) -> None:
    best = [model for model in _MODELS if scores[model] == max(scores.values()) > 0]
    for model in _MODELS:
        if scores[model] != 0 or not best:
            continue
        identity = f"{image}/{model}"
        better = texts[_MODELS[best[below(len(best), "best", ask.seed, "cd_coco", identity)]]]
        worse = texts[_MODELS[model]]
        if not readable(better) or not readable(worse):
            drawn.leave(identity, "a caption is missing")
        elif better.strip().lower() == worse.strip().lower():
            drawn.leave(identity, "a tie: both captions read the same")
        else:
            pair, label = placed(better, worse, ask.seed, "cd_coco", identity)
            drawn.samples.append(Sample(identity, "text_2afc", (f"coco/val2014/{image}",), pair, label))


def _captions(ask: Ask, drawn: Drawn) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    table = ask.file(f"{_FOLDER}/all_captions_extended.csv")
    for where, row in read_table(table, ("fname", *_MODELS.values())):
        if row is None:
            drawn.leave(where, "has not as many cells as the first line")
        else:
            found.setdefault(row["fname"], row)  # the first of a picture, as published
    return found

"""Structure annotations: reading, checking, and the paper's ISTA formula by hand; the profile of an image."""

import json
from pathlib import Path

import numpy as np
import pytest

from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.language.chat import Chat
from reward_plugin.language.command import profile as run_profile
from reward_plugin.language.config import ProfileConfig
from reward_plugin.language.profile import STRUCTURE_QUESTION, Profiler
from reward_plugin.language.richness import TEXTURE_WEIGHTS, load_weights, richness
from reward_plugin.language.structure import GROUPS, BadStructure, check_structure, find_json, read_structure
from tests.reward.golden import CHECKPOINT, TOLERANCE, expected

NOTHING = {group: {name: ["N/A"] for name in lists} for group, lists in GROUPS.items()}


def described(**terms: list[str]) -> dict:
    """A description in which everything that is not named is "N/A"."""
    return {group: {name: terms.get(name, ["N/A"]) for name in lists} for group, lists in GROUPS.items()}


def scene(*descriptions: dict) -> dict:
    parts = [{"ComponentName": f"part {i}", "DescriptionContent": d} for i, d in enumerate(descriptions)]
    return {"SceneType": "Composite Scene", "SceneName": "A scene", "Components": parts}


#: The example of the paper's annotation prompt, section 8.1.
SKYSCRAPERS = scene(
    described(
        BaseMorphology=["grid "],
        Arrangement=[" Vertical,Symmetrical "],
        MaterialClass=["Glass ", "Metal"],
        SurfaceProperties=[" Glossy", "Reflective "],
        PlanarContour=["Rectangle"],
        VolumetricForm=["Cuboid"],
        StyleType=["Modern Architecture"],
    ),
    described(BaseMorphology=["smooth"], MaterialClass=["Sky "]),
)


def test_the_papers_example_by_hand():
    found = richness(check_structure(SKYSCRAPERS))
    assert found.components == (
        {
            "physical_structure": 1 + 1,
            "material_representation": 2 + 2,
            "geometric_composition": 1 + 1,
            "semantic_perception": 0 + 1,
        },
        {
            "physical_structure": 1,
            "material_representation": 1,
            "geometric_composition": 0,
            "semantic_perception": 0,
        },
    )
    assert found.score == found.unclipped == 2 + 9 + 2
    assert found.unlisted == ()


def test_an_image_without_components_counts_as_one():
    whole = {
        "SceneType": "Single Scene",
        "SceneName": "Fur",
        "DescriptionContent": described(BaseMorphology=["Matted", "woven"], MaterialClass=["Hair"]),
    }
    structure = check_structure(whole)
    assert not structure.decomposed
    assert richness(structure).score == 1 + (3 + 2) + 1
    assert structure.to_json()["DescriptionContent"]["MaterialRepresentation"]["MaterialClass"] == ["Hair"]


def test_texture_weights_are_table_9():
    assert {weight: list(TEXTURE_WEIGHTS.values()).count(weight) for weight in (1, 2, 3)} == {
        1: 9,
        2: 9,
        3: 24,
    }
    for term, weight in (("smooth", 1), ("freckled", 1), ("swirly", 2), ("cobwebbed", 2), ("veined", 3)):
        assert TEXTURE_WEIGHTS[term] == weight


def test_unlisted_textures_weigh_nothing_and_are_reported():
    found = richness(check_structure(scene(described(BaseMorphology=["Fibrous", "Blocky", "cracked"]))))
    assert found.components[0]["physical_structure"] == 3
    assert found.unlisted == ("fibrous", "blocky")


def test_nothing_and_repetitions_do_not_count():
    texts = ["n/a", " N / A ", "", "Wood", "wood ", "Stone"]
    found = richness(check_structure(scene(described(MaterialClass=texts), NOTHING)))
    assert found.components[0]["material_representation"] == 2
    assert found.score == 2 + 2


def test_dynamics_are_kept_but_do_not_count():
    structure = check_structure(scene(described(Dynamics=["flowing"])))
    assert structure.components[0].terms["Dynamics"] == ("flowing",)
    assert richness(structure).score == 1


def test_the_score_is_clipped_at_100():
    part = described(BaseMorphology=["veined", "pitted"], Arrangement=[str(i) for i in range(20)])
    found = richness(check_structure(scene(*[part] * 4)))
    assert (found.unclipped, found.score) == (4 + 4 * 26, 100)


def test_another_lexicon_takes_the_place_of_table_9(tmp_path: Path):
    file = tmp_path / "lexicon.json"
    file.write_text('{"Smooth": 7}')
    assert richness(check_structure(SKYSCRAPERS), load_weights(file)).score == 13 - 2 + 7
    for text, message in (("[]", "JSON object"), ('{"smooth": 1.5}', "whole number"), ("{", "read as JSON")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_weights(file)


@pytest.mark.parametrize(
    "text",
    [
        "{json}",
        "```json\n{json}\n```",
        "Here is the analysis:\n```\n{json}\n```\nI hope that helps {{really}}.",
        "\n  {json} trailing prose",
    ],
)
def test_json_is_found_whatever_stands_around_it(text: str):
    found = read_structure(text.replace("{json}", json.dumps(SKYSCRAPERS)))
    assert found == check_structure(SKYSCRAPERS)
    assert check_structure(found.to_json()) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I cannot.", "no JSON object"),
        (json.dumps(SKYSCRAPERS)[:200], "where the response ends: cut off"),
        ('{"SceneType": nonsense}', "damaged JSON"),
        ('{"SceneType": "a", "SceneType": "b"}', "key SceneType occurs twice"),
        ("{" + '"a": {' * 100_000, "cut off|nested too deeply"),
    ],
)
def test_text_without_sound_json_says_so(text: str, message: str):
    with pytest.raises(BadStructure, match=message):
        find_json(text)


def changed(*path: str | int, to: object = None) -> dict:
    """The paper's example with one value replaced, or removed where `to` is None."""
    value = json.loads(json.dumps(SKYSCRAPERS))
    at = value
    for key in path[:-1]:
        at = at[key]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return value


FIRST = ("Components", 0, "DescriptionContent")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"\$: must be an object, is a list"),
        (changed("SceneType"), r"\$\.SceneType: missing"),
        (changed("SceneName", to=" "), r"\$\.SceneName: must be a text with something in it"),
        (changed("Components"), r"\$: must have either Components or"),
        (changed("Components", to=[]), r"\$\.Components: must be a list of at least one"),
        (changed("Scenetype", to="x"), r"\$\.Scenetype: not a key of the form; did you mean SceneType\?"),
        (changed("Components", 1, to="Sky"), r"\$\.Components\[1\]: must be an object, is a text"),
        (changed("Components", 1, "ComponentName"), r"\$\.Components\[1\]\.ComponentName: missing"),
        (changed("Components", 0, "DescriptionContent"), r"\[0\]\.DescriptionContent: missing"),
        (
            changed(*FIRST, "PhysicalStructure", "BaseMorphology"),
            r"\$\.Components\[0\]\.DescriptionContent\.PhysicalStructure\.BaseMorphology: missing; it is req",
        ),
        (changed(*FIRST, "MaterialRepresentation"), r"MaterialRepresentation\.MaterialClass: missing"),
        (
            changed(*FIRST, "GeometricComposition", "PlanarContour", to=["Circle", 3]),
            r"PlanarContour\[1\]: must be a text, is a number",
        ),
        (
            changed(*FIRST, "SemanticPerception", "StyleType", to={"a": 1}),
            r"StyleType: must be a list of texts, is an object",
        ),
        (
            changed(*FIRST, "GeometricComposition", "Volumetricform", to=["Cube"]),
            r"Volumetricform: not a key of the form; did you mean VolumetricForm\?",
        ),
    ],
)
def test_a_broken_rule_is_named_with_its_path(value: object, message: str):
    with pytest.raises(BadStructure, match=message):
        check_structure(value)


def test_optional_parts_may_be_missing_and_a_text_is_a_list_of_one():
    value = changed(*FIRST, "GeometricComposition")
    value["Components"][0]["DescriptionContent"]["PhysicalStructure"]["Arrangement"] = "Vertical"
    assert richness(check_structure(value)).score == 13 - 2


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_checkpoint(CHECKPOINT))


def test_a_profile_has_the_ratings_and_says_why_there_is_no_structure(chat: Chat):
    """Random weights write no JSON: what is there is kept, and nothing is invented in its place."""
    images, values = expected("scores")
    found = Profiler(chat, texts=True, max_new_tokens=4).profile(images[:2])
    ratings = np.array([list((one.ratings or {}).values()) for one in found])
    np.testing.assert_allclose(ratings, values[:2], rtol=0, atol=TOLERANCE)
    for image, one in zip(images, found, strict=False):
        assert one.response == chat.ask(image, STRUCTURE_QUESTION, max_new_tokens=4)
        assert one.structure is None and one.richness is None
        assert "cut off after 4 tokens: raise max_new_tokens" in (one.problem or "")
        assert len(one.aesthetics) == 8 and len(one.quality) == 4


def test_a_written_annotation_becomes_structure_and_richness(chat: Chat):
    """The last mile, with the words that a trained checkpoint would have written."""
    profiler = Profiler(chat, ratings=False, max_new_tokens=1)
    reply = chat.ask(None, "Hello", max_new_tokens=1)
    said = type(reply)(f"```json\n{json.dumps(SKYSCRAPERS)}\n```", True, 300)
    found = profiler.read(None, [said])
    assert found.problem is None and found.ratings is None
    assert found.richness is not None and found.richness.score == 13


def test_the_command_keeps_what_was_written_beside_the_error(tmp_path: Path):
    images, _ = expected("scores")
    out = tmp_path / "rows.jsonl"
    config = ProfileConfig(model=str(CHECKPOINT), out=out, device="cpu", max_new_tokens=3, texts=True)
    assert run_profile([str(images[0])], config) == 3
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["structure"] is None and row["richness"] is None
    assert row["response"] and row["finished"] is False and "cut off" in row["error"]
    assert list(row["ratings"]) == ["iaa", "iqa", "ista"]
    assert len(row["aesthetics"]) == 8 and len(row["quality_cut_off"]) == 4

"""The readers of prompt files, on miniatures of each format, their errors, and the files we ship."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flow_grpo.prompts import Prompt, duplicates, fold, read_prompts

SHIPPED = Path(__file__).resolve().parents[1] / "prompts"
CATEGORIES = {
    "people",
    "animals",
    "food",
    "places",
    "interiors",
    "objects",
    "art_styles",
    "materials_and_textures",
    "lighting",
    "composition",
    "counting",
    "text_in_the_picture",
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


def test_text_file_skips_comments_and_blank_lines(tmp_path):
    path = write(tmp_path / "p.txt", "# animals\n  a hare in frost \n\na heron, wading\r\n")
    prompts = read_prompts(path)
    assert prompts == [Prompt("a hare in frost", None, 0), Prompt("a heron, wading", None, 1)]


def test_text_file_breaks_at_newlines_only(tmp_path):
    assert texts(read_prompts(write(tmp_path / "p.txt", "one\u2028still one\ntwo\n"))) == [
        "one\u2028still one",
        "two",
    ]


def test_jsonl_keeps_category_and_metadata(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        '\ufeff{"prompt": "a hare", "category": "animals", "note": 3}\n\n{"prompt": "b"}\n',
    )
    prompts = read_prompts(str(path))
    assert prompts == [Prompt("a hare", "animals", 0, {"note": 3}), Prompt("b", None, 1)]


def test_geneval_tag_is_the_category(tmp_path):
    line = '{"tag": "counting", "include": [{"class": "oar", "count": 2}], "prompt": "a photo of two oars"}\n'
    (prompt,) = read_prompts(write(tmp_path / "evaluation_metadata.jsonl", line))
    assert prompt.text == "a photo of two oars"
    assert prompt.category == "counting"
    assert prompt.metadata == {"include": [{"class": "oar", "count": 2}]}


def test_drawbench_csv_with_quoted_commas(tmp_path):
    path = write(
        tmp_path / "d.csv", 'Prompts,Category\n"A hat, a cane and ""a sign""",Text\nA red oar,Colors\n'
    )
    assert read_prompts(path) == [
        Prompt('A hat, a cane and "a sign"', "Text", 0),
        Prompt("A red oar", "Colors", 1),
    ]


def test_partiprompts_quotation_marks_belong_to_the_text(tmp_path):
    content = (
        'Prompt\tCategory\tChallenge\tNote\n"OAR" carved in oak\tArts\tBasic\t\nbond\tAbstract\tBasic\tx\n'
    )
    prompts = read_prompts(write(tmp_path / "p.tsv", content))
    assert prompts[0] == Prompt('"OAR" carved in oak', "Arts", 0, {"Challenge": "Basic"})
    assert prompts[1].metadata == {"Challenge": "Basic", "Note": "x"}


def test_dpg_folder_is_in_numerical_order(tmp_path):
    for name, text in {"10": "ten", "9": "nine", "vrd2": "two"}.items():
        write(tmp_path / f"{name}.txt", f"{text}\n")
    write(tmp_path / "notes.md", "not a prompt")
    prompts = read_prompts(tmp_path)
    assert texts(prompts) == ["nine", "ten", "two"]
    assert prompts[2].metadata == {"item_id": "vrd2"}


def test_dpg_csv_joins_the_questions_of_an_item(tmp_path):
    path = write(
        tmp_path / "dpg.csv",
        "item_id,text,keywords,proposition_id,category_broad\n"
        '7,"A hat, wet",,1,entity\n7,"A hat, wet",,2,attribute\n8,An oar,,1,entity\n8,An oar,,2,entity\n',
    )
    prompts = read_prompts(path)
    assert texts(prompts) == ["A hat, wet", "An oar"]
    assert [prompt.category for prompt in prompts] == [None, "entity"]
    assert prompts[0].metadata == {"item_id": "7", "categories": ["entity", "attribute"]}


def test_duplicates_are_refused_with_their_lines(tmp_path):
    path = write(tmp_path / "p.txt", "A  red oar\n# x\nan egg\na red OAR\n")
    with pytest.raises(
        ValueError, match=r"p\.txt: 1 texts .*line 1 = line 4 \('A  red oar'\).*allow_duplicates"
    ):
        read_prompts(path)


def test_allowed_duplicates_stay_separate(tmp_path):
    prompts = read_prompts(write(tmp_path / "p.txt", "an oar\nan egg\nAn oar\n"), allow_duplicates=True)
    assert [prompt.index for prompt in prompts] == [0, 1, 2]
    assert [[prompt.index for prompt in group] for group in duplicates(prompts)] == [[0, 2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "holds no prompt; add"),
        ("p.txt", "# only a comment\n", "holds no prompt; add"),
        ("p.jsonl", "", "holds no prompt; add"),
        ("p.csv", "", "holds no prompt; add"),
        ("p.csv", "Prompts,Category\n", "holds no prompt; add"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', "line 2: the prompt is empty; write one"),
        ("p.csv", "Prompts,Category\nan oar,x\n,y\n", "line 3: the prompt is empty; write one"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt" "b"}\n', "line 2: not JSON .*; write one object"),
        ("p.jsonl", '["a"]\n', 'line 1: no text under the key "prompt"; write'),
        ("p.jsonl", '{"text": "a"}\n', 'line 1: no text under the key "prompt"; write'),
        ("p.jsonl", '{"prompt": "a", "category": 3}\n', 'line 1: "category" is 3, must be a text; put it'),
        (
            "p.csv",
            "Title,Category\nan oar,x\n",
            r"line 1: no column with the prompts among \['Title'.*; name it",
        ),
        ("p.csv", "Prompts,Category\na hat, wet,x\n", "line 2: more fields than the header's 2; put"),
        ("p.csv", 'Prompts,Category\n"an oar" wet,x\n', "line 2: malformed table .*; correct"),
        ("p.csv", "item_id,text\n7,a\n7,b\n", "line 3: item_id '7' has another text than on line 2; give"),
        ("p.yaml", "- an oar\n", "unknown ending '.yaml'; give a .txt, .jsonl, .csv, .tsv file"),
    ],
)
def test_error_names_file_line_rule_and_remedy(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "format", "content", "expected"),
    [
        ("prompts.list", "txt", "an oar\n", Prompt("an oar")),
        ("prompts.json", "jsonl", '{"prompt": "an oar"}\n', Prompt("an oar")),
        (
            "metadata.txt",
            "geneval",
            '{"tag": "single_object", "include": [], "prompt": "an oar"}\n',
            Prompt("an oar", "single_object", 0, {"include": []}),
        ),
        (
            "table",
            "dpg",
            "item_id,text,category_broad\n7,an oar,entity\n",
            Prompt("an oar", "entity", 0, {"item_id": "7", "categories": ["entity"]}),
        ),
        ("d.csv", "drawbench", "Prompts,Category\nan oar,Colors\n", Prompt("an oar", "Colors")),
        ("d.tsv", "drawbench", "Prompts\tCategory\nan oar\tColors\n", Prompt("an oar", "Colors")),
        (
            "p.txt",
            "partiprompts",
            "Prompt\tCategory\tChallenge\tNote\nan oar\tArts\tBasic\t\n",
            Prompt("an oar", "Arts", 0, {"Challenge": "Basic"}),
        ),
    ],
)
def test_a_format_can_be_named_whatever_the_ending(tmp_path, name, format, content, expected):
    (prompt,) = read_prompts(write(tmp_path / name, content), format=format)
    assert prompt == expected and prompt.metadata == expected.metadata


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("p.txt", "yaml", "prompt format 'yaml' is unknown; give auto or one of txt"),
        ("p.txt", "geneval", "its first line has no '\"tag\"', so it is not geneval's"),
        ("", "drawbench", "is a folder, which is DPG-Bench's layout, not drawbench"),
    ],
)
def test_a_file_of_another_format_than_named_is_refused(tmp_path, name, format, message):
    write(tmp_path / "p.txt", "an oar\n")
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name if name else tmp_path, format=format)


def test_broken_entries_can_be_left_out_by_name_and_keep_their_place(tmp_path):
    broken: list[str] = []
    path = write(tmp_path / "p.jsonl", '{"prompt": "a"}\n{"prompt" "b"}\n{"prompt": " "}\n{"prompt": "d"}\n')
    assert [(prompt.text, prompt.index) for prompt in read_prompts(path, broken=broken)] == [
        ("a", 0),
        ("d", 3),
    ]
    assert [reason.split(":")[0] for reason in broken] == ["line 2", "line 3"] and "not JSON" in broken[0]

    broken = []
    path = write(tmp_path / "p.csv", "Prompts,Category\na hat, wet,x\nan oar,y\n")
    (prompt,) = read_prompts(path, broken=broken)
    assert (prompt.text, prompt.index) == ("an oar", 1) and "more fields" in broken[0]

    with pytest.raises(ValueError, match="holds no prompt, only broken entries; the first: line 1: not JSON"):
        read_prompts(write(tmp_path / "q.jsonl", "{\n"), broken=[])


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.txt does not exist; give the path"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="holds no prompt; add"):
        read_prompts(tmp_path)


def test_other_encodings_are_refused_with_the_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("an oar\na café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"p\.txt, line 2: not UTF-8 .*; save the file as UTF-8"):
        read_prompts(path)


def test_reading_prompts_needs_the_standard_library_only():
    code = (
        "import sys; import flow_grpo.prompts; "
        "print([m for m in sys.modules if m in ('torch', 'numpy', 'diffusers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def flux_train() -> list[Prompt]:
    return read_prompts(SHIPPED / "flux_train.jsonl")  # raises if a text stands in it twice


@pytest.fixture(scope="module")
def flux_heldout() -> list[Prompt]:
    return read_prompts(SHIPPED / "flux_heldout.jsonl")


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def test_flux_prompts_are_balanced_over_the_categories(flux_train, flux_heldout):
    for prompts, total in ((flux_train, 2000), (flux_heldout, 200)):
        counts = Counter(prompt.category for prompt in prompts)
        assert len(prompts) == total
        assert set(counts) == CATEGORIES
        assert max(counts.values()) - min(counts.values()) <= 1


def test_flux_prompts_have_six_to_45_words(flux_train, flux_heldout):
    lengths = [len(prompt.text.split()) for prompt in (*flux_train, *flux_heldout)]
    assert min(lengths) >= 6
    assert max(lengths) <= 45


def test_flux_heldout_is_disjoint_from_train(flux_train, flux_heldout):
    assert not {fold(prompt.text) for prompt in flux_train} & {fold(prompt.text) for prompt in flux_heldout}


def test_no_flux_heldout_prompt_nearly_repeats_another(flux_train, flux_heldout):
    """Jaccard similarity of word sets; 0.8 is the usual bound for near-duplicates, ours stay below 0.5."""
    sets = [words(prompt.text) for prompt in (*flux_heldout, *flux_train)]
    vocabulary = {word: column for column, word in enumerate(sorted(frozenset().union(*sets)))}
    has = np.zeros((len(sets), len(vocabulary)), dtype=np.float32)
    for row, members in enumerate(sets):
        has[row, [vocabulary[word] for word in members]] = 1
    heldout, size = has[: len(flux_heldout)], has.sum(1)
    common = heldout @ has.T
    similarity = common / (size[: len(heldout), None] + size - common)
    np.fill_diagonal(similarity, 0)
    assert similarity.max() < 0.5


def test_flux_counting_prompts_state_a_number(flux_train, flux_heldout):
    numbers = {"two", "three", "four", "five", "six", "seven", "eight", "nine"}
    counting = [prompt.text for prompt in (*flux_train, *flux_heldout) if prompt.category == "counting"]
    assert [text for text in counting if not words(text) & numbers] == []


def test_flux_text_prompts_quote_the_text(flux_train, flux_heldout):
    prompts = [p.text for p in (*flux_train, *flux_heldout) if p.category == "text_in_the_picture"]
    assert [text for text in prompts if not re.search(r'"[^"]+"', text) or text.count('"') % 2] == []


def test_pocket_prompts_are_disjoint():
    files = [read_prompts(SHIPPED / f"pocket_{part}.txt") for part in ("train", "val", "trial", "heldout")]
    texts_of = [{fold(prompt.text) for prompt in prompts} for prompts in files]
    assert len(frozenset().union(*texts_of)) == sum(len(prompts) for prompts in files)

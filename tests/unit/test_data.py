"Whatever stands in a file: a result, or one typed error that says where; and every finding on a planted failure."

import csv
import json
import random
import string
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftguide.data import (
    KINDS,
    DataError,
    Findings,
    check,
    near_duplicates,
    normalised_text,
    personal_data,
    preflight,
    rare_words,
    read,
    similarity,
    spans,
    split,
    stream,
    to_trl,
)
from ftguide.market import load_tasks
from ftguide.models import LM, encode, load

TASKS = ("ad", "extraction", "sentiment", "summary", "arithmetic")
FUZZ = settings(max_examples=150)
ROW = {"prompt": "How much is 2 + 2?", "completion": "4"}

any_text = st.text(st.characters(), max_size=40)  # lone surrogates and control characters included
names = (
    st.sampled_from(
        [
            "prompt",
            "completion",
            "chosen",
            "rejected",
            "messages",
            "text",
            "instruction",
            "input",
            "output",
            "task",
            "",
        ]
    )
    | any_text
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | any_text, "content": any_text | st.none()}
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.lists(message, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)
almost = st.dictionaries(names, values, max_size=5)
good = st.one_of(
    st.fixed_dictionaries({"prompt": any_text, "completion": any_text}),
    st.fixed_dictionaries({"prompt": any_text, "chosen": any_text, "rejected": any_text}),
    st.fixed_dictionaries({"messages": st.lists(message, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"text": any_text}),
)
rows = st.lists(good | almost | values, max_size=6)
kinds = st.sampled_from(list(KINDS))


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def outcome(source, kind):
    "The rows, or the error; anything else is a failure of the test."
    try:
        found = read(source, kind)
    except DataError as e:
        said = str(e)
        said.encode("utf-8")
        assert said and "\n" not in said and len(said) < 1000
        if isinstance(source, Path):
            assert source.name in said
        return e
    assert found and all(isinstance(r, dict) for r in found)
    return found


@FUZZ
@given(rows, kinds)
def test_fuzz_read_list(data, kind):
    found = outcome(data, kind)
    if isinstance(found, DataError):
        assert "row " in str(found) or "no rows" in str(found)


@FUZZ
@given(rows, kinds, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans(), st.booleans())
def test_fuzz_read_json_lines(folder, data, kind, end, bom, ascii_only):
    path = folder / "fuzz.jsonl"
    text = "".join(json.dumps(r, ensure_ascii=ascii_only) + end for r in data)
    path.write_bytes(("\ufeff" * bom + text).encode("utf-8", "surrogatepass"))
    found = outcome(path, kind)
    if isinstance(found, DataError):
        assert "line " in str(found) or "no rows" in str(found)


@FUZZ
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
    kinds,
)
def test_fuzz_read_any_bytes(folder, data, suffix, kind):
    path = folder / f"bytes{suffix}"
    path.write_bytes(data)
    outcome(path, kind)


@FUZZ
@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=4), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    kinds,
    st.booleans(),
)
def test_fuzz_read_csv(folder, table, separator, kind, header):
    path = folder / "fuzz.csv"
    with open(path, "w", encoding="utf-8", newline="") as f:
        w = csv.writer(f, delimiter=separator)
        if header:
            w.writerow(["prompt", "completion"])
        w.writerows(table)
    outcome(path, kind)


@FUZZ
@given(rows, kinds, st.booleans())
def test_fuzz_check(tiny, data, kind, with_tokens):
    try:
        found = check(
            data, tiny if with_tokens else None, kind, test=[{"prompt": "a b c", "completion": "d"}]
        )
    except DataError:
        return
    assert isinstance(found, Findings) and found.n == len(data)
    assert all(0 <= i < len(data) for f in found.found for i in f.rows)
    str(found).encode("utf-8")
    found.markdown().encode("utf-8")


@FUZZ
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.sampled_from(["a", "A ", " a", "b", "c", "d", "e", "f"]),
                "completion": st.just("x"),
                "task": st.sampled_from("st"),
            }
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 99),
)
def test_fuzz_split(data, seed):
    parts = split(data, (0.5, 0.3, 0.2), seed)
    assert parts == split(data, (0.5, 0.3, 0.2), seed) and sum(map(len, parts)) == len(data)
    seen = [{normalised_text(r["prompt"]) for r in part} for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        2.5,
        b"bytes",
        {"prompt": "a"},
        [None],
        [[1]],
        [b"x"],
        object(),
        "x" * 5000,
        "a\0b",
        "",
        ".",
        "~/no/such",
        "a/b/c",
    ],
)
def test_what_is_no_data(source):
    with pytest.raises(DataError):
        read(source)
    with pytest.raises(DataError):
        check(source)


def test_data_frame_and_dataset_dict():
    import pandas as pd
    from datasets import Dataset, DatasetDict

    with pytest.raises(DataError, match="to_dict"):
        read(pd.DataFrame([ROW]))
    with pytest.raises(DataError, match="split"):
        read(DatasetDict(train=Dataset.from_list([ROW])))
    assert read(Dataset.from_list([ROW])) == [ROW] == read(r for r in [ROW])


def test_hub_name_offline_is_one_line():
    with pytest.raises(DataError, match="no data set of that name") as e:
        read("no-such-owner/no-such-data")
    assert "\n" not in str(e.value) and "HF_HUB_OFFLINE" in str(e.value)
    with pytest.raises(DataError, match="no data set"):
        check("no-such-owner/no-such-data:test")


def test_asking_the_hub_is_said_before_it_takes_its_time(monkeypatch, capsys):
    def slow(*args, **knobs):
        assert "no-such-owner/no-such-data is no file: asking the hub" in capsys.readouterr().err
        raise ConnectionError("no way out")

    monkeypatch.setattr("ftguide.engine.formats.load_dataset", slow)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataError, match="no data set of that name: no way out"):
        read("no-such-owner/no-such-data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    capsys.readouterr()
    monkeypatch.setattr("ftguide.engine.formats.load_dataset", lambda *args, **knobs: 1 / 0)
    with pytest.raises(DataError, match="switched off by HF_HUB_OFFLINE"):
        read("no-such-owner/no-such-data")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, says",
    [
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b", "prompt": "c"}',
            "line 1: not valid JSON (key 'prompt' appears twice)",
        ),
        ("a.jsonl", json.dumps(ROW) + "\n" + '{"prompt": ' + "1" * 5000 + "}", "line 2: not valid JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON (nested too deeply)"),
        (
            "a.jsonl",
            json.dumps(ROW) + "\n" + r'{"prompt": "\ud83d", "completion": "x"}',
            "line 2: column 'prompt' holds half a character",
        ),
        (
            "a.jsonl",
            json.dumps({"messages": [{"role": "user", "content": "Hi"}]}),
            "no message of the assistant",
        ),
        ("a.json", '{"prompt": "a"}', "must hold a list"),
        ("a.json", '[{"prompt": "a",\n "prompt": "b"}]', "appears twice"),
        ("a.csv", "prompt,prompt\na,b\n", "column 'prompt' appears twice"),
        ("a.csv", "prompt,completion\na,b\na,b,c\n", "row 2: more fields"),
        ("a.csv", "prompt,completion\na\n", "row 1: column 'completion' is empty"),
        ("a.csv", "", "no rows"),
    ],
)
def test_message(tmp_path, name, text, says):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as e:
        read(tmp_path / name)
    assert says in str(e.value) and name in str(e.value)


def test_bad_bytes_in_the_middle(tmp_path):
    line = json.dumps(ROW).encode()
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line[:-3] + b'\xff"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\n" + b"a,b\n" * 20_000 + b"\xff,b\n")
    with pytest.raises(DataError, match=r"after row \d+\): not UTF-8"):
        read(tmp_path / "a.csv")


def test_upper_case_suffix_bom_and_crlf(tmp_path):
    (tmp_path / "A.JSONL").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n" + json.dumps(ROW).encode()
    )
    assert read(tmp_path / "A.JSONL") == [ROW, ROW]


def test_one_line_of_ten_megabytes(tmp_path, tiny):
    words = " ".join(
        random.Random(0).choices(
            ["".join(p) for p in zip(string.ascii_lowercase, string.ascii_lowercase[1:])], k=3_400_000
        )
    )
    long = dict(ROW, prompt=words)
    (tmp_path / "long.jsonl").write_text(
        "\n".join(
            json.dumps(r)
            for r in (
                ROW,
                long,
                dict(long, completion="5"),
                dict(ROW, prompt="a" * 10_000_000),
                dict(ROW, prompt="@1 " * 3_000_000),
            )
        ),
        encoding="utf-8",
    )
    assert len(read(tmp_path / "long.jsonl")) == 5
    found = check(tmp_path / "long.jsonl")
    assert found["contradictory answers"].rows == [1, 2] and len(str(found)) < 5000
    assert check([ROW, dict(ROW, prompt=words[:200_000])], tiny)["no trained token"].rows == [1]


def test_a_million_rows_in_constant_memory(tmp_path):
    with open(tmp_path / "many.jsonl", "w") as f:
        for i in range(1_000_000):
            f.write('{"prompt": "How much is %d + 1?", "completion": "%d"}\n' % (i, i + 1))
    code = """import resource, sys
from ftguide.data import stream
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = stream(sys.argv[1])
for _ in range(1000): next(rows)
before = peak(); n = 1000 + sum(1 for _ in rows)
print(n, peak() - before)"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "many.jsonl"], capture_output=True, text=True, check=True
    )
    n, grown = map(int, done.stdout.split())
    assert n == 1_000_000 and grown < 20_000 * (1 if sys.platform != "darwin" else 1000)  # kB; bytes on a Mac


SAID = lambda *turns: [dict(role=role, content=text) for role, text in turns]


def test_alpacas_columns_are_one_prompt(tmp_path):
    rows = [
        dict(instruction="Translate to French.", input="Good morning", output="Bonjour."),
        dict(instruction="Name a colour.", input="", output="blue"),
        dict(instruction="Name a size.", input=None, output="30 cm"),
    ]
    assert [r["prompt"] for r in read(rows)] == [
        "Translate to French.\n\nGood morning",
        "Name a colour.",
        "Name a size.",
    ]
    (tmp_path / "a.csv").write_text("Instruction;Input;Output\nAdd.;2 and 3;5\nSay no.;;no\n")
    assert [(r["prompt"], r["completion"]) for r in read(tmp_path / "a.csv")] == [
        ("Add.\n\n2 and 3", "5"),
        ("Say no.", "no"),
    ]
    assert read([dict(instruction="be brief", prompt="Hi", completion="Ho")])[0]["prompt"] == "Hi"
    for row, says in (
        (dict(instruction=" ", input="", output="x"), "column 'instruction' is empty"),
        (dict(input="", output="x"), "column 'input' is empty"),
        (dict(input="a", output=3), "column 'output' must be text"),
        (
            dict(instruction="a", response="b"),
            "columns found: instruction, response; expected: prompt, completion",
        ),
    ):
        with pytest.raises(DataError, match=says):
            read([row])


def test_a_prompt_repeated_in_the_answers_is_taken_out_of_them(tiny):
    "UltraFeedback's columns: the answers are whole conversations."
    pair = dict(
        prompt="Ad?",
        chosen=SAID(("user", "Ad?"), ("assistant", "A mug.")),
        rejected=SAID(("user", "Ad?"), ("assistant", "no")),
    )
    plain = dict(prompt="Ad?", chosen=SAID(("assistant", "A mug.")), rejected=SAID(("assistant", "no")))
    assert (
        read([pair], "pairs") == [plain]
        and read([dict(pair, prompt=SAID(("user", "Ad?")))], "pairs")[0]["chosen"] == plain["chosen"]
    )
    assert read([dict(prompt="Ad?", completion=pair["chosen"])]) == [
        dict(prompt="Ad?", completion=plain["chosen"])
    ]
    assert spans(tiny.tokenizer, read([pair], "pairs"), "pairs") == spans(
        tiny.tokenizer, [dict(prompt="Ad?", chosen="A mug.", rejected="no")], "pairs"
    )
    with pytest.raises(
        DataError, match="row 1: column 'chosen' begins with a message of the user that is not the prompt"
    ):
        read([dict(pair, prompt="Another?")], "pairs")
    with pytest.raises(
        DataError, match="row 1: column 'chosen' begins with a message of the system that is not the prompt"
    ):
        read([dict(pair, chosen=SAID(("system", "Sell.")) + pair["chosen"])], "pairs")
    with pytest.raises(DataError, match="row 1: column 'rejected' is empty"):
        read([dict(pair, rejected=SAID(("user", "Ad?"), ("assistant", " ")))], "pairs")


def test_every_turn_of_a_conversation_counts():
    talk = lambda second, last: dict(
        messages=SAID(
            ("user", "Hello, I need help."),
            ("assistant", "Of course."),
            ("user", second),
            ("assistant", last),
        )
    )
    rows = [
        talk("Where is my blue mug?", "In the post."),
        talk("How large is the kettle?", "In the post."),
        talk("How large is the kettle?", "Two litres."),
        talk("I am ana.b@example.com, CPF 529.982.247-25", "Thank you."),
    ]
    found = check(rows)
    assert (
        "exact duplicates" not in found
        and found["contradictory answers"].rows == [1, 2]
        and found["personal data"].rows == [3]
    )
    assert check([*rows[:1], *rows[:1]])["exact duplicates"].rows == [1]


def test_a_system_message_hides_no_leak():
    rows = [dict(prompt=f"How much is {i} + {i}?", completion=str(2 * i)) for i in range(20)]
    test = [
        dict(messages=SAID(("system", "Be kind."), ("user", rows[3]["prompt"]), ("assistant", "6"))),
        dict(prompt=SAID(("system", "Be brief."), ("user", rows[5]["prompt"])), completion="10"),
    ]
    assert check(rows, test=test)["train/test leakage"].rows == [3, 5]


def test_a_greeting_is_no_answer():
    rows = [
        dict(
            messages=SAID(
                ("system", "Be kind."),
                ("assistant", "Hello! What can I do?"),
                ("user", f"How much is {i} + {i}?"),
                ("assistant", str(2 * i)),
            )
        )
        for i in range(100)
    ]
    assert [len(part) for part in split(rows)] == [80, 10, 10]
    found = check(rows[:80], test=rows[80:])
    assert "train/test leakage" not in found and "contradictory answers" not in found


def test_a_split_without_rows_is_said():
    with pytest.warns(
        UserWarning, match="part 2 of the split, of share 0.1, is empty: the rows have 2 different prompts"
    ):
        assert split([dict(prompt=f"Q{i % 2}", completion="A") for i in range(20)])[1] == []


def test_two_shapes(tmp_path):
    talk = [dict(role="user", content="Hi"), dict(role="assistant", content="Hello")]
    assert read([dict(ROW, messages=None)]) == [ROW] and read([dict(messages=talk, prompt=None)]) == [
        dict(messages=talk)
    ]
    with pytest.raises(DataError, match="row 1 has prompt, completion and row 2 has messages"):
        to_trl(read([ROW, dict(messages=talk)]))
    with pytest.raises(DataError, match="one table"):
        to_trl([dict(messages=[dict(talk[0], name=1), dict(talk[1], name=["x"])])])
    with pytest.raises(DataError, match="'messages' is empty"):
        read([dict(messages=[dict(role="user", content="")])])
    with pytest.raises(DataError, match="must be text, found list"):
        read([dict(text=talk)], "corpus")
    with pytest.raises(DataError, match="must be a list of messages, found str"):
        read([dict(messages="Hi")])
    with pytest.raises(DataError, match="no prompt, messages or text, only a"):
        split([dict(a=1)])


def test_stream_stops_at_the_bad_row():
    rows = stream([ROW, {"prompt": ""}])
    assert next(rows) == ROW
    with pytest.raises(DataError, match="row 2"):
        next(rows)
    with pytest.raises(ValueError, match="kind"):
        stream([ROW], "nonsense")


# findings


@pytest.fixture(scope="module")
def clean():
    return load_tasks("train", 1000, "en", TASKS)


@pytest.mark.parametrize(
    "name, row",
    [
        ("exact duplicates", lambda r: dict(r, prompt="  " + r["prompt"].upper())),
        ("near duplicates", lambda r: dict(r, completion=r["completion"] + " Hurry!")),
        ("contradictory answers", lambda r: dict(r, completion="Not that.")),
        (
            "vague prompts",
            lambda r: dict(prompt="Resuma o texto abaixo, por favor.", completion="Um resumo."),
        ),
        ("unfilled templates", lambda r: dict(prompt="Rewrite {{text}} politely.", completion="Done.")),
        (
            "truncated answers",
            lambda r: dict(r, prompt="Why the Zed-9?", completion="Because the Zed-9 is made of steel and …"),
        ),
        (
            "truncated answers",
            lambda r: dict(
                r,
                prompt="Why the Zed-8?",
                task="ad",
                completion="Because the Zed-8 is made of steel and comes with a",
            ),
        ),
        ("unusable rows", lambda r: dict(r, completion=None)),
        ("personal data", lambda r: dict(prompt="Whose number is it?", completion="529.982.247-25")),
        ("cut answers", lambda r: dict(prompt="Is it wide?", completion="very " * 600)),
        ("no trained token", lambda r: dict(prompt="very " * 600, completion="Yes.")),
    ],
)
def test_planted(name, row, clean, tiny):
    assert name not in check(clean, tiny)
    found = check(clean + [row(clean[0])], tiny)
    assert len(clean) in found[name].rows and len(found[name].rows) <= 2
    assert found[name].do and found[name].where and name in str(found) and name in found.markdown()
    if found[name].severity != "note":
        assert len(clean) not in [
            i for i, r in enumerate(clean + [0]) if r in found.without(clean + [0], name)
        ]


@pytest.mark.parametrize("lang", ["en", "pt"])
@pytest.mark.parametrize("seed", [1, 2])
def test_clean_rows_are_not_flagged(lang, seed, tiny):
    found = check(
        load_tasks("train", 2000, lang, TASKS, seed=seed),
        tiny,
        test=load_tasks("test", 500, lang, TASKS, seed=seed),
    )
    assert len(found.flagged()) <= 0.01 * found.n, found


def test_clean_pairs_are_not_flagged(tiny):
    rows, other = load_tasks("train", 600, "en", ("ad",)), load_tasks("train", 600, "en", ("ad",), seed=9)
    rng = random.Random(0)
    sides = [rng.sample([r["completion"], o["completion"]], 2) for r, o in zip(rows, other)]
    found = check(
        [dict(prompt=r["prompt"], chosen=c, rejected=j) for r, (c, j) in zip(rows, sides)], tiny, "pairs"
    )
    assert len(found.flagged()) <= 0.01 * found.n, found


def test_leakage_also_of_near_copies(clean):
    test = load_tasks("test", 100, "en", ("ad", "summary"))
    found = check(
        clean
        + [
            dict(test[0], prompt=test[0]["prompt"].lower()),
            dict(test[1], prompt="Please: " + test[1]["prompt"]),
        ],
        test=test,
    )
    assert (
        found["train/test leakage"].rows == [1000]
        and found["near leakage"].rows == [1001]
        and found.errors[0].name == "train/test leakage"
    )


def test_what_only_pairs_have():
    pair = lambda q, c, r: dict(prompt=q, chosen=c, rejected=r)
    found = check(
        [pair("q", "a", "b"), pair("Q ", "b", "a"), pair("other", "a", "b"), pair("x", "Same.", "same. ")],
        kind="pairs",
    )
    assert found["circular preferences"].rows == [0, 1] and found["chosen equals rejected"].rows == [3]
    shorter = check([pair(f"q{i}", f"short {i}", f"a good deal longer {i}") for i in range(40)], kind="pairs")
    assert "shorter answer is chosen in 100% of 40" in shorter["length bias"].example
    assert "length bias" not in check(
        [pair(f"q{i}", f"short {i}", f"a good deal longer {i}") for i in range(6)], kind="pairs"
    )


def test_labels_and_small_data():
    rows = lambda share: [
        dict(prompt=f"Review {i} of Zed-{i}", completion="good" if i % 100 < share else "bad", task="s")
        for i in range(200)
    ]
    assert (
        "unbalanced labels" in check(rows(90))
        and "unbalanced labels" not in check(rows(60))
        and "unbalanced labels" in check(rows(100))
    )
    assert "few rows" in check(rows(50)) and not check(rows(50))["few rows"].rows


@pytest.mark.parametrize(
    "template, name",
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no end token"),
        (
            "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{{ eos_token }}{% endfor %}",
            "prompt changes",
        ),
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", "template refuses"),
    ],
)
def test_broken_templates(template, name, tiny):
    broken = tiny.copy().tokenizer
    broken.chat_template = template
    assert [f.name for f in check([ROW] * 1 + [dict(ROW, prompt="How much is 3 + 3?")], broken).errors] == [
        name
    ]


def test_a_prompt_that_ends_in_line_breaks(small):
    "A byte-level tokenizer joins line breaks at the end of a text and parts them before a word."
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from ftguide.models import PLAIN_TEMPLATE

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(
        ["Hi there\n\n"] * 50,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<eos>", model_max_length=100
    )
    tok.chat_template = PLAIN_TEMPLATE
    assert "prompt's end changes" not in check([ROW, dict(ROW, prompt="Hi there")], tok)
    tok.chat_template = PLAIN_TEMPLATE.replace("\n", "\n\n")
    found = check([ROW, dict(ROW, prompt="Hi there")], tok)
    assert found["prompt's end changes"].rows == [0, 1] and not found.errors
    with pytest.warns(UserWarning, match="last token joins"):
        preflight(LM(small.model, tok), [ROW] * 8)


def test_spans_are_those_of_encode(tiny):
    rows = load_tasks("train", 40, "pt", TASKS) + [
        dict(
            prompt=[dict(role="system", content="Be brief."), dict(role="user", content="Hi")],
            completion="\n Hello",
        )
    ]
    for s, r in zip(spans(tiny.tokenizer, rows), rows):
        ids, labels = encode(tiny.tokenizer, r["prompt"], r["completion"])
        assert (s.length, s.start) == (len(ids), labels.count(-100)) and s.ends


def test_similarity_needs_the_rare_words():
    texts = [
        f"product: mug\nbrand: Zed{i}\nmodel: Vex-{i * 7}\ncolour: blue\nwarranty: 12 months"
        for i in range(50)
    ]
    assert not near_duplicates(texts)
    assert set(near_duplicates([texts[3] + "!", texts[4].replace("mug", "cup")], texts)) == {0, 1}
    rare = rare_words(texts + [texts[0] + " !"])
    assert (
        similarity(texts[0], texts[0] + " !", rare[0], rare[-1])
        > 95
        > 75
        > similarity(texts[0], texts[31], rare[0], rare[31])
    )


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("write to ana+shop@example.com.br now", ["e-mail"]),
        ("529.982.247-25", ["CPF"]),
        ("52998224725", ["CPF"]),
        ("529.982.247-26", []),
        ("4111-1111-1111-1111", ["card number"]),
        ("4111 1111 1111 1112", []),
        ("378282246310005", ["card number"]),
        ("+44 20 7946 0958", ["phone number"]),
        ("(11) 91234-5678", ["phone number"]),
        ("order 20240506123", []),
        ("2024-05-06 12:30", []),
        ("12 + 345 = 357", []),
        ("size: 1200 ml, 24 months", []),
        ("@" * 5000, []),
        ("1 " * 50_000, []),
        ("a" * 100_000 + "@", []),
    ],
)
def test_personal_data(text, kinds):
    assert [what for what, _ in personal_data(text)] == kinds


def test_personal_data_is_not_printed():
    found = check(
        [
            dict(prompt="Whose is ana@example.com?", completion="529.982.247-25"),
            dict(prompt="Whose is ana@example.com?", completion="Nobody's."),
        ]
    )
    assert "ana@" not in str(found) + found.markdown() and "529" not in str(found) + found.markdown()


def test_split_keeps_tasks_and_conversations_together():
    rows = [
        dict(prompt=f"{t} {i}", completion="x", task=t)
        for t, n in (("many", 900), ("few", 20))
        for i in range(n)
    ]
    for seed in range(5):
        assert [sum(r["task"] == "few" for r in part) for part in split(rows, seed=seed)] == [16, 2, 2]
    first = [dict(role="user", content="Hi "), dict(role="assistant", content="Hello")]
    rows = [
        dict(messages=first),
        dict(messages=first + [dict(role="user", content="Bye"), dict(role="assistant", content="Bye")]),
    ] + [dict(prompt=f"q{i}", completion="x") for i in range(50)]
    assert any(rows[0] in part and rows[1] in part for part in split(rows))


# preflight

PAIRS = [dict(prompt=f"Ad {i}?", chosen="A mug.", rejected="no") for i in range(8)]
ROWS = [dict(prompt=f"How much is {i} + 1?", completion=str(i + 1)) for i in range(8)]


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


def broken_end(lm):
    other = lm.copy("mute")
    other.tokenizer.chat_template = other.tokenizer.chat_template.replace(other.tokenizer.eos_token, "")
    return other


def swapped(lm):
    "The same vocabulary size, two tokens exchanged."
    other = lm.copy("swapped")
    vocabulary = other.tokenizer.get_vocab()
    other.tokenizer = type(
        "Swapped",
        (type(other.tokenizer),),
        {"get_vocab": lambda self: {t: {7: 8, 8: 7}.get(i, i) for t, i in vocabulary.items()}},
    ).from_pretrained(lm.tokenizer.name_or_path)
    return other


@pytest.mark.parametrize(
    "says, bad, mended",
    [
        (
            "bfloat16",
            lambda lm: (load("tiny-small", dtype="bfloat16"), PAIRS, "dpo", dict(learning_rate=5e-7)),
            lambda lm: (lm, PAIRS, "dpo", dict(learning_rate=5e-7)),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS[:4], "sft", {}),
            lambda lm: (lm, ROWS[:4], "sft", dict(config=dict(warmup_steps=0))),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS, "sft", dict(batch_size=8)),
            lambda lm: (lm, ROWS, "sft", dict(batch_size=8, config=dict(max_steps=1))),
        ),
        (
            "no step",
            lambda lm: (lm, ROWS, "sft", dict(config=dict(max_steps=0))),
            lambda lm: (lm, ROWS, "sft", dict(config=dict(max_steps=5))),
        ),
        (
            "no step",
            lambda lm: (lm, ROWS[:3], "sft", dict(config=dict(dataloader_drop_last=True))),
            lambda lm: (lm, ROWS, "sft", dict(config=dict(dataloader_drop_last=True))),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS, "sft", dict(config=dict(packing=True))),
            lambda lm: (lm, ROWS, "sft", dict(epochs=2, config=dict(packing=True))),
        ),
        ("end token", lambda lm: (broken_end(lm), ROWS, "sft", {}), lambda lm: (lm, ROWS, "sft", {})),
        (
            "end token",
            lambda lm: (broken_end(lm), ROWS, "distill", dict(teacher=lm)),
            lambda lm: (lm, ROWS, "distill", dict(teacher=lm)),
        ),
        (
            "different tokenizers",
            lambda lm: (lm, ROWS, "distill", dict(teacher=swapped(lm))),
            lambda lm: (lm, ROWS, "distill", dict(teacher=swapped(lm), alpha=0)),
        ),
        (
            "do not fit",
            lambda lm: (lm, [ROWS[0], dict(ROW, completion="very " * 600)], "sft", dict(epochs=3)),
            lambda lm: (lm, ROWS[:2], "sft", dict(epochs=3)),
        ),
        (
            "not the model that training starts from",
            lambda lm: (lm, PAIRS, "dpo", dict(reference="tiny")),
            lambda lm: (lm, PAIRS, "dpo", dict(reference="tiny-small")),
        ),
    ],
)
def test_preflight(says, bad, mended, small):
    model, data, method, how = bad(small)
    with pytest.raises(ValueError, match=says):
        preflight(model, data, method, **how)
    with pytest.warns(UserWarning, match=says):
        assert preflight(model, data, method, force=True, **how) == data
    model, data, method, how = mended(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preflight(model, data, method, **how) == data


def test_trainers_ask_preflight(small):
    import torch

    from ftguide.distill import distill
    from ftguide.dpo import align_dpo
    from ftguide.sft import finetune_sft

    tuned = small.copy("tuned")
    with torch.no_grad():
        next(tuned.model.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="learning rate 0"):
        finetune_sft(small, ROWS[:4], epochs=1)
    with pytest.raises(ValueError, match="not the model"):
        align_dpo(tuned, PAIRS, precompute_ref_log_probs=False)
    with pytest.raises(ValueError, match="different tokenizers"):
        distill(swapped(small), small, ROWS)
    with pytest.raises(ValueError, match="float32, whose"):
        finetune_sft(small, ROWS, learning_rate=1e-12)
    same = lambda a, b: all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    with pytest.warns(UserWarning, match="learning rate 0"):
        assert same(finetune_sft(small, ROWS[:4], epochs=1, force=True), small)  # it does fail silently
    assert not same(
        finetune_sft(small, ROWS[:4], epochs=1, lr_scheduler_type="constant"), small
    )  # a schedule without warm-up
    with pytest.warns(UserWarning, match="not the model"):
        history = align_dpo(tuned, PAIRS, precompute_ref_log_probs=False, force=True).history
    assert abs(next(h["loss"] for h in history if "loss" in h) - 0.6931) > 0.001

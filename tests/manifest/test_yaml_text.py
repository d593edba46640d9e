from __future__ import annotations

import time
import tracemalloc

import pytest

from appliance.manifest.finding import InvalidManifestError
from appliance.manifest.yaml_text import MAX_DEPTH, MAX_SIZE_BYTES, MAX_VALUES, read_yaml

# Of a busy machine's processor, within a long test run; what these files could expand to takes
# hours. `refuse` itself takes a second or less.
MUCH_S = 20


def refuse(data: bytes | str) -> str:
    data = data.encode() if isinstance(data, str) else data
    with pytest.raises(InvalidManifestError) as caught:
        read_yaml(data, "a.yaml")
    return str(caught.value)


def test_every_place_knows_its_line():
    document = read_yaml(
        b"# comment\na:\n  b: 1\n\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "a"
    )
    assert document.value == {"a": {"b": 1, "c": ["x", {"d": 2, "e": 3}]}}
    assert document.lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 6,
        ("a", "c", 1): 7,
        ("a", "c", 1, "d"): 7,
        ("a", "c", 1, "e"): 8,
    }


def test_a_place_that_is_not_written_has_the_line_of_the_nearest_one_around_it():
    document = read_yaml(b"a:\n  b: 1\n", "a.yaml")
    assert document.line_of(("a", "c", 3)) == 1
    assert document.line_of(("a", "b")) == 2


def test_windows_line_ends_and_a_byte_order_mark_are_read():
    document = read_yaml("\ufeffa: 1\r\nb: 2\r\n".encode(), "a.yaml")
    assert document.value == {"a": 1, "b": 2}
    assert document.lines[("b",)] == 2


def test_quoted_scalars_are_text():
    value = read_yaml(b'a: "yes"\nb: \'010\'\nc: "2024-01-01"\nd: |\n  1\ne: ""\n', "a").value
    assert value == {"a": "yes", "b": "010", "c": "2024-01-01", "d": "1\n", "e": ""}


def test_an_alias_is_a_copy_of_its_anchor():
    document = read_yaml(b"a: &x {k: [1, 2]}\nb: *x\n", "a.yaml")
    assert document.value == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}
    assert document.lines[("b",)] == 2
    assert document.lines[("b", "k")] == 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b"",
            (
                "the file holds no manifest (a.yaml). Begin it with `version: 1`; `manifests/` has"
                " examples."
            ),
        ),
        (
            b"# only a comment\n",
            (
                "the file holds no manifest (a.yaml). Begin it with `version: 1`; `manifests/` has"
                " examples."
            ),
        ),
        (
            b"---\n...\n",
            (
                "the file holds no manifest (a.yaml). Begin it with `version: 1`; `manifests/` has"
                " examples."
            ),
        ),
        (
            b"a: 1\n---\nb: 2\n",
            (
                "a second document begins here (a.yaml:2). A file holds one manifest: remove this"
                " `---`, or split the file."
            ),
        ),
        (
            b"a: 1\nb: 2\na: 3\n",
            "a: is written twice, first on line 1 (a.yaml:3). Remove one of the two `a`.",
        ),
        (
            b"a: {b: 1, b: 2}\n",
            "a.b: is written twice, first on line 1 (a.yaml:1). Remove one of the two `b`.",
        ),
        (
            b"a:\n  b: no\n",
            (
                "a.b: `no` is true or false to some YAML readers and text to others (a.yaml:2)."
                ' Write true or false. Quote it if text is meant: "no".'
            ),
        ),
        (
            b"a: \xe9\n",
            (
                "the file is not UTF-8 text, at byte 3 (a.yaml:1). Save it as UTF-8, and check"
                " that it is a manifest."
            ),
        ),
        (
            b"a: 1\nb: \0\n",
            (
                "the character U+0000 is not allowed in YAML (a.yaml:2). Remove it, or write it as"
                " an escape in double quotation marks."
            ),
        ),
        (
            b"a: !!python/object/apply:os.system [ls]\n",
            "a: the tag `!!python/object/apply:os.system` is not read (a.yaml:1). Remove it.",
        ),
        (b"a: !x 1\n", "a: the tag `!x` is not read (a.yaml:1). Remove it."),
        (
            b"a: &x {b: 1}\nc:\n  <<: *x\n",
            "c: `<<` (a merge key) is not read (a.yaml:3). Write the merged keys themselves.",
        ),
        (
            b"a: 1\n2: b\n",
            (
                "the key 2 is not text, as keys must be (a.yaml:2). Check the line; quote the key"
                " if it is meant."
            ),
        ),
        (
            b"a:\n  ? [x]\n  : 1\n",
            (
                "a: a list is not text, as keys must be (a.yaml:2). Check the line; quote the key"
                " if it is meant."
            ),
        ),
        (
            b"a: *x\n",
            "the alias `*x` has no anchor that ends before it (a.yaml:1). Write the value itself.",
        ),
        (
            b"a: &x [*x]\n",
            "the alias `*x` has no anchor that ends before it (a.yaml:1). Write the value itself.",
        ),
        (
            b"a: 1\n\tb: 2\n",
            (
                "not valid YAML: while scanning for the next token found character '\\t' that"
                " cannot start any token (a.yaml:2). Indent with spaces, not with tabs."
            ),
        ),
        (
            b"a: b: c\n",
            (
                "not valid YAML: mapping values are not allowed here (a.yaml:1). Check the"
                " indentation, and quote a value that holds `: `."
            ),
        ),
        (
            b'a: "b\n\n',
            (
                "not valid YAML: while scanning a quoted scalar begun on line 1, found unexpected"
                " end of stream (a.yaml:3). Close the quotation mark."
            ),
        ),
        (
            b"a: [1, 2\n",
            (
                "not valid YAML: while parsing a flow sequence begun on line 1, expected ',' or"
                " ']', but got '<stream end>' (a.yaml:2). Close the bracket, or separate its items"
                " by commas."
            ),
        ),
        (
            b'a: "\\U00110000"\n',
            (
                "not valid YAML: an escape in quotation marks is not a character (a.yaml). Look"
                " for a backslash in double quotation marks; single ones take it as it is."
            ),
        ),
        (
            b'a: "\\uD800"\n',
            (
                'a: "\\ud800" holds half a character (U+D800 to U+DFFF) (a.yaml:1). Write the whole'
                " character."
            ),
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line_and_the_fix(data, text):
    assert refuse(data) == text


def test_all_problems_of_a_file_are_reported_at_once():
    text = refuse("a: yes\nb: 2024-01-01\nc: 1\nc: 2\n")
    assert text.startswith("a.yaml has 3 errors:\n- a: `yes`")
    assert "\n- b: `2024-01-01` is a date" in text
    assert "\n- c: is written twice, first on line 3 (a.yaml:4)." in text


def test_a_file_larger_than_the_limit_is_refused_unread():
    assert "larger than 256 KiB (a.yaml)" in refuse(b"#" * (MAX_SIZE_BYTES + 1))
    assert "no manifest" in refuse(b"#" * MAX_SIZE_BYTES)


def test_nesting_is_limited_with_and_without_aliases():
    assert read_yaml(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "a").lines
    assert "nested more than 16 deep (a.yaml:1)" in refuse(b"[" * (MAX_DEPTH + 1))
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 20))
    assert "nested more than 16 deep (a.yaml:15)" in refuse(chain)


def test_the_number_of_values_is_limited_after_expansion():
    assert read_yaml(b"[" + b"1," * (MAX_VALUES - 1) + b"]", "a").lines
    assert "more than 20000 values" in refuse(b"[" + b"1," * MAX_VALUES + b"]")


def make_bomb(levels: int, width: int) -> bytes:
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * width)}]"
        for level in range(1, levels)
    ]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "data",
    [
        make_bomb(10, 9),
        make_bomb(15, 2),
        b"a: &a {" + b", ".join(b"k%d: 1" % i for i in range(100)) + b"}\n"
        b"b: &b [" + b", ".join([b"*a"] * 100) + b"]\nc: [" + b", ".join([b"*b"] * 100) + b"]\n",
        b"[" * (MAX_SIZE_BYTES - 1),
        b"{a: " * 60_000,
        b"- " * 100_000,
        b'"' + b"\\n" * 100_000,
        b"&a " * 80_000,
        b"[" + b"a," * 120_000,
        b"\n" * (MAX_SIZE_BYTES - 1),
    ],
    ids=[
        "billion laughs",
        "pairs",
        "mapping",
        "[[[",
        "{{{",
        "- -",
        "escapes",
        "&&",
        "flow",
        "blank",
    ],
)
def test_a_hostile_file_costs_little_time_and_memory(data):
    assert len(data) <= MAX_SIZE_BYTES
    started_s = time.process_time()
    refuse(data)
    assert time.process_time() - started_s < MUCH_S
    tracemalloc.start()
    try:
        refuse(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 2**20


def test_billion_laughs_is_refused_at_once_and_within_a_few_megabytes():
    started_s = time.process_time()
    assert "more than 20000 values, aliases expanded (a.yaml:5)" in refuse(make_bomb(10, 9))
    assert time.process_time() - started_s < MUCH_S

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ManifestError
from appliance.manifest.finding import InvalidManifestError
from appliance.manifest.load import load_manifest
from tests.manifest.samples import GOOD, HEX, changed, read, refuse


def test_a_small_manifest_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(GOOD)
    manifest = load_manifest(path)
    assert manifest.name == "touch_block-demo50"
    assert manifest.dataset.fingerprint == f"sha256-content-v1:{HEX}"
    assert manifest.plan is not None
    assert manifest.plan["gripper_dims"] == (6, 13)
    assert manifest.eval.checkpoint == "latest"
    assert manifest.source_path == path
    assert manifest.base_dir == tmp_path
    assert manifest.warnings == ()


def test_the_base_folder_is_absolute_when_the_path_is_relative(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_manifest(Path("sub/a.yaml")).base_dir == tmp_path / "sub"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            changed(("batch_size: 16", "batch_size: 0")),
            "train.batch_size: 0 is not positive (manifests/a.yaml:12). Use 1 or more.",
        ),
        (
            changed(("steps: 1000", "steps: -1")),
            "train.steps: -1 is negative (manifests/a.yaml:11). Use 0 or more.",
        ),
        (
            changed(more="norm_stats: {mode: reuse, path: ''}\n"),
            (
                "norm_stats.path: is empty (manifests/a.yaml:16). It must be a path without control"
                " characters, not empty."
            ),
        ),
        (
            changed(("num_episodes_keep: 50", "clip_ratio: 0.5")),
            "plan.clip_ratio: 0.5 is below 1 (manifests/a.yaml:8). Use 1 or more.",
        ),
        (
            changed(("num_episodes_keep: 50", "epsilon_mix: 1.5")),
            "plan.epsilon_mix: 1.5 is above 1 (manifests/a.yaml:8). Use 1 or less.",
        ),
        (
            changed(("num_episodes_keep: 50", "gripper_sigma: 0")),
            "plan.gripper_sigma: 0 is not positive (manifests/a.yaml:8). Use more than 0.",
        ),
        (
            changed(("steps: 1000", "steps: many")),
            (
                'train.steps: "many" is text, not a whole number (manifests/a.yaml:11). Write a'
                " whole number, for example 6000."
            ),
        ),
        (
            changed(("steps: 1000", 'steps: "1000"')),
            (
                'train.steps: "1000" is text, not a whole number (manifests/a.yaml:11). Remove the'
                " quotation marks."
            ),
        ),
        (
            changed(("steps: 1000", "steps: 999.6")),
            (
                "train.steps: 999.6 is a number, not a whole number (manifests/a.yaml:11). Round"
                " it, to 1000."
            ),
        ),
        (
            changed(("steps: 1000", "steps:")),
            (
                "train.steps: is empty (null), not a whole number (manifests/a.yaml:11). Write a"
                " whole number, for example 6000."
            ),
        ),
        (
            changed(("batch_size: 16", "seed:")),
            (
                "train.seed: is empty (null), not a whole number (manifests/a.yaml:12). Give it a"
                " value, or remove the key for its default, `42`."
            ),
        ),
        (
            changed(("batch_size: 16", "batch_size: [1]")),
            (
                "train.batch_size: a list of 1 item is a list, not a whole number"
                " (manifests/a.yaml:12). Write a whole number or null."
            ),
        ),
        (
            changed(("name: touch_block-demo50", "name: 42")),
            (
                "name: 42 is a whole number, not text (manifests/a.yaml:2). Put it in quotation"
                ' marks if this is meant: "42".'
            ),
        ),
        (
            changed(more="runtime: fast\n"),
            (
                'runtime: "fast" is text, not a mapping of keys (manifests/a.yaml:16). Write its'
                " keys on lines of their own, indented: engine, cpu_threads, cpu_max_isa, gpus,"
                " network and others."
            ),
        ),
        (
            changed(("pi0_tiny_aloha_robotwin", "pi0_tinny_aloha_robotwin")),
            (
                'train.config: "pi0_tinny_aloha_robotwin" is not a choice (manifests/a.yaml:10).'
                " Did you mean `pi0_tiny_aloha_robotwin`? Use pi0_tiny_aloha_robotwin,"
                " pi0_base_aloha_robotwin_lora or pi0_base_aloha_robotwin_full."
            ),
        ),
        (
            changed(more="runtime: {network: bridge}\n"),
            'runtime.network: "bridge" is not a choice (manifests/a.yaml:16). Use none.',
        ),
        (
            changed((f"sha256-content-v1:{HEX}", "sha256-content-v1:abc")),
            (
                'dataset.fingerprint: "sha256-content-v1:abc" does not fit (manifests/a.yaml:6).'
                " It must be `sha256-content-v1:` and 64 hexadecimal digits in lower case, as"
                " `appliance dataset fingerprint ROOT` prints it."
            ),
        ),
        (
            changed(("episodes: 20", "episodes: 20\n  trials: []")),
            "eval.trials: holds 0 items (manifests/a.yaml:16). Give 1 or more, or write null.",
        ),
        (
            changed(("num_episodes_keep: 50", f"gripper_dims: {list(range(65))}")),
            "plan.gripper_dims: holds 65 items (manifests/a.yaml:8). Give 64 or fewer.",
        ),
        (
            changed(("episodes: 20", "episodes: 20\n  trials: [1, -2]")),
            "eval.trials[1]: -2 is negative (manifests/a.yaml:16). Use 0 or more.",
        ),
        (
            changed(("version: 1\n", "")),
            "version: is missing (manifests/a.yaml:1). Add `version: 1`.",
        ),
        (
            changed(("version: 1", "version: 0")),
            "version: 0 is not 1 (manifests/a.yaml:1). Use 1.",
        ),
        (
            changed(("version: 1", 'version: "1"')),
            (
                'version: "1" is text, not a whole number (manifests/a.yaml:1). Remove the'
                " quotation marks."
            ),
        ),
        (
            changed(("version: 1", "version: 2"), ("steps: 1000", "stepps: 1000")),
            (
                "version: 2 is a newer format than this appliance reads, which is version 1"
                " (manifests/a.yaml:1). Update the appliance, or write the manifest as version 1."
            ),
        ),
        (
            changed(("  episodes: 20\n", "")),
            (
                "eval.episodes: is missing (manifests/a.yaml:13). Add it, for example `episodes:"
                " 20`. How many trials are scored; a bundle holds the videos of at most 10,000."
            ),
        ),
        (
            changed(("  config: pi0_tiny_aloha_robotwin\n", "")),
            (
                "train.config: is missing (manifests/a.yaml:9). Add it: pi0_tiny_aloha_robotwin,"
                " pi0_base_aloha_robotwin_lora or pi0_base_aloha_robotwin_full. The preset: model,"
                " batch size, schedule and everything else that has no key here."
            ),
        ),
        (
            changed(more="expect: {success_rate: {value: 0.5, margin: 0.4, alfa: 0.1}}\n"),
            (
                "expect.success_rate.alfa: is not a known key (manifests/a.yaml:16). Did you mean"
                " `alpha`? Known here: value, margin, alpha."
            ),
        ),
        (
            changed(("name: touch", "episodes: 3\nname: touch")),
            (
                "episodes: is not a known key (manifests/a.yaml:2). It belongs under `eval`. Known"
                " here: version, name, dataset, plan, norm_stats, train, eval, runtime, expect."
            ),
        ),
        (
            changed(("name: touch", "qqq: 3\nname: touch")),
            (
                "qqq: is not a known key (manifests/a.yaml:2). Remove it. Known here: version,"
                " name, dataset, plan, norm_stats, train, eval, runtime, expect."
            ),
        ),
        (
            changed(("name: touch_block-demo50", "name: ../evil")),
            (
                'name: "../evil" does not fit (manifests/a.yaml:2). It must be up to 100 letters,'
                " digits, `.`, `_` and `-`, starting with a letter or digit and not ending with a"
                " dot, so that it can name a folder."
            ),
        ),
        (
            "- version: 1\n",
            (
                "the file holds a list, not keys and values (manifests/a.yaml:1). Begin it with"
                " `version: 1`; `manifests/` has examples."
            ),
        ),
        (
            "hello\n",
            (
                'the file holds "hello", not keys and values (manifests/a.yaml:1). Begin it with'
                " `version: 1`; `manifests/` has examples."
            ),
        ),
    ],
)
def test_each_error_says_where_what_and_what_now(text, error):
    assert refuse(text) == error


def test_historic_spellings_of_plan_keys_lead_to_the_new_ones():
    text = refuse(changed(("num_episodes_keep: 50", "num_stages_K: 6\n  stride-S: 3")))
    assert "plan.num_stages_K: is not a known key (manifests/a.yaml:8). Did you mean" in text
    assert "`num_stages`? Known here: num_episodes_keep, " in text
    assert text.endswith(
        "- plan.stride-S: is not a known key (manifests/a.yaml:9). Did you mean `stride`?"
    )


def test_all_schema_errors_are_listed_by_line():
    text = refuse("version: 1\nname: a b\ntrain:\n  steps: -1\n  setps: 2\neval: 3\n")
    lines = text.splitlines()
    assert lines[0] == "manifests/a.yaml has 6 errors:"
    places = [line.split(":")[0] for line in lines[1:]]
    assert places == [
        "- dataset",
        "- name",
        "- train.config",
        "- train.steps",
        "- train.setps",
        "- eval",
    ]


def test_a_file_with_very_many_errors_names_the_first_ones_and_counts_the_rest():
    keys = "".join(f"key{number}: {number}\n" for number in range(9_000))
    with pytest.raises(InvalidManifestError) as caught:
        read(GOOD + keys)
    assert len(caught.value.findings) == 20
    assert caught.value.unlisted == 8_980
    assert str(caught.value).startswith("manifests/a.yaml has 9000 errors:\n- key0: ")
    assert str(caught.value).endswith("\n- and 8980 more.")


def test_findings_are_data_for_machines():
    with pytest.raises(InvalidManifestError) as caught:
        read(changed(("steps: 1000", "steps: -1")))
    (finding,) = caught.value.findings
    assert finding.path == ("train", "steps")
    assert finding.line == 11
    assert caught.value.exit_code == 10


def test_names_that_other_rooms_know_are_checked_with_a_suggestion(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(changed(("task: touch_block", "task: touch_blok")))
    known = {"eval.task": ("touch_block", "stack_blocks_two"), "eval.shader": ("minimal",)}
    with pytest.raises(InvalidManifestError) as caught:
        load_manifest(path, known_names=known)
    assert str(caught.value) == (
        f'eval.task: "touch_blok" is not known ({path}:14). Did you mean `touch_block`? Known:'
        " touch_block, stack_blocks_two."
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("steps: 1000", "steps: 1000"), ("steps: 1000", "steps: 1000.0")),
        (("steps: 1000", "steps: 1000"), ("steps: 1000", "steps: 1e3")),
        (("steps: 1000", "steps: 1000\n  plan_lr_min_scale: 1"), None),
        (("train:", "norm_stats: {mode: recompute}\ntrain:"), ("train:", "norm_stats: {}\ntrain:")),
        (("version: 1\n", "# yaml-language-server: $schema=x.json\nversion: 1\n"), None),
    ],
)
def test_two_spellings_of_one_manifest_have_one_digest(one, other):
    first = read(changed(one))
    second = (
        read(changed(other)) if other else read(changed(one).replace("scale: 1\n", "scale: 1.0\n"))
    )
    assert first == second
    assert first.sha256 == second.sha256


def test_the_digest_depends_on_content_only():
    assert read(GOOD).sha256 == read("# a comment\n" + GOOD).sha256
    assert read(GOOD).sha256 != read(changed(("num_episodes_keep: 50", "stride: 3"))).sha256


def test_a_missing_file_is_named_with_its_likely_neighbour(tmp_path):
    (tmp_path / "golden.yaml").write_text(GOOD)
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "goldn.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/goldn.yaml: there is no such file. Did you mean {tmp_path}/golden.yaml?"
    )
    with pytest.raises(ManifestError, match=r"there is no such file\. Check the path\.$"):
        load_manifest(tmp_path / "nowhere" / "a.yaml")


def test_a_folder_is_not_a_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"is a folder, not a manifest\. Name a YAML file\."):
        load_manifest(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "/dev/null", "/dev/zero"])
def test_a_path_that_cannot_be_a_manifest_is_refused_in_words(name):
    with pytest.raises(ManifestError):
        load_manifest(Path(name))


def test_a_file_that_may_not_be_read_is_refused_in_words(tmp_path):
    path = tmp_path / "a.yaml"
    path.symlink_to(path)
    with pytest.raises(ManifestError, match="while reading the manifest"):
        load_manifest(path)


def test_importing_the_loader_brings_in_nothing_heavy():
    code = (
        "import sys, appliance.manifest.load, appliance.manifest.lock;"
        "heavy = {'jsonschema', 'numpy', 'scipy', 'pyarrow', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

from __future__ import annotations

import pytest

from appliance.manifest.finding import format_path
from appliance.manifest.rules import RULES
from tests.manifest.samples import HEX, changed, read, refuse

BASELINE = ("plan:\n  num_episodes_keep: 50\n", "plan: null\nnorm_stats: {subset: none}\n")
TOKENIZER = f"tokenizer: {{path: a.model, sha256: {HEX}}}"
INIT = f"init: {{checkpoint: a/params, sha256: {HEX}}}"
LORA = ("pi0_tiny_aloha_robotwin", "pi0_base_aloha_robotwin_lora")


def evaluate(checkpoint: object, **train: object) -> str:
    settings = "".join(f"\n  {key}: {value}" for key, value in train.items())
    return changed(
        ("batch_size: 16", "batch_size: 16" + settings),
        ("episodes: 20", f"episodes: 20\n  checkpoint: {checkpoint}"),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            evaluate(6000),
            (
                "eval.checkpoint: 6000 is past the end of training, train.steps: 1000"
                " (manifests/a.yaml:16). Use `latest` or 1000, or train longer."
            ),
        ),
        (
            evaluate(600),
            (
                "eval.checkpoint: 600 is not saved: training keeps only the last one, 1000, because"
                " train.save_interval is null (manifests/a.yaml:16). Use `latest` or 1000, or set"
                " train.save_interval to a divisor of 600."
            ),
        ),
        (
            evaluate(600, save_interval=250),
            (
                "eval.checkpoint: 600 is not saved: training keeps every 250 steps and the last"
                " one, 1000 (manifests/a.yaml:17). Use 500 or 750, or set train.save_interval to a"
                " divisor of 600."
            ),
        ),
        (
            evaluate(100, save_interval=250),
            (
                "eval.checkpoint: 100 is not saved: training keeps every 250 steps and the last"
                " one, 1000 (manifests/a.yaml:17). Use 250, or set train.save_interval to a"
                " divisor of 100."
            ),
        ),
        (
            evaluate(950, save_interval=900),
            (
                "eval.checkpoint: 950 is not saved: training keeps every 900 steps and the last"
                " one, 1000 (manifests/a.yaml:17). Use 900 or 1000, or set train.save_interval to"
                " a divisor of 950."
            ),
        ),
        (
            evaluate(0),
            (
                "eval.checkpoint: 0 is not saved: training keeps only the last one, 1000, because"
                " train.save_interval is null (manifests/a.yaml:16). Use `latest` or 1000."
            ),
        ),
        (
            changed(BASELINE, ("batch_size: 16", "plan_aware_lr_scale: true")),
            (
                "train.plan_aware_lr_scale: true needs a plan, and plan is null"
                " (manifests/a.yaml:12). Set it to false, or give a plan (`plan: {}` takes every"
                " default)."
            ),
        ),
        (
            changed(BASELINE, ("batch_size: 16", "sampler_seed_override: 0")),
            (
                "train.sampler_seed_override: 0 needs a plan, and plan is null"
                " (manifests/a.yaml:12). Set it to null, or give a plan (`plan: {}` takes every"
                " default)."
            ),
        ),
        (
            changed(BASELINE, ("batch_size: 16", "sampler_replacement_override: false")),
            (
                "train.sampler_replacement_override: false needs a plan, and plan is null"
                " (manifests/a.yaml:12). Set it to null, or give a plan (`plan: {}` takes every"
                " default)."
            ),
        ),
        (
            changed(BASELINE, more=f'expect: {{plan_sha256: "{HEX}"}}\n'),
            (
                f'expect.plan_sha256: "{HEX[:57]}..." needs a plan, and plan is null'
                " (manifests/a.yaml:16). Set it to null, or give a plan (`plan: {}` takes every"
                " default)."
            ),
        ),
        (
            changed(("plan:\n  num_episodes_keep: 50\n", "plan: null\n")),
            (
                'norm_stats.subset: "episodes_valid" (the default) needs a plan, and plan is null'
                " (manifests/a.yaml:1). Write `subset: none` for statistics over the whole"
                " dataset, or give a plan."
            ),
        ),
        (
            changed(
                ("plan:\n  num_episodes_keep: 50\n", "norm_stats:\n  subset: anchors\n"),
            ),
            (
                'norm_stats.subset: "anchors" needs a plan, and plan is null (manifests/a.yaml:8).'
                " Write `subset: none` for statistics over the whole dataset, or give a plan."
            ),
        ),
        (
            changed(more="norm_stats: {subset: none}\n"),
            (
                'norm_stats.subset: "none" would take statistics over frames that the plan leaves'
                " out (manifests/a.yaml:16). Use episodes_valid (recommended), episodes or"
                " anchors, or set plan to null."
            ),
        ),
        (
            changed(more="norm_stats: {mode: reuse}\n"),
            (
                "norm_stats.path: is missing, and norm_stats.mode is reuse (manifests/a.yaml:16)."
                " Name the norm_stats.json to reuse, or set mode to recompute."
            ),
        ),
        (
            changed(more="norm_stats: {path: a/norm_stats.json}\n"),
            (
                'norm_stats.path: "a/norm_stats.json" is not used: norm_stats.mode is recompute'
                " (manifests/a.yaml:16). Remove it, or set mode to reuse."
            ),
        ),
        (
            changed(("num_episodes_keep: 50", "gripper_smooth_window: 4")),
            (
                "plan.gripper_smooth_window: 4 is even, and a median filter needs a middle"
                " (manifests/a.yaml:8). Use 3 or 5."
            ),
        ),
        (
            changed(("num_episodes_keep: 50", "gripper_dims: [6, 13, 6]")),
            (
                "plan.gripper_dims: holds 6 more than once (manifests/a.yaml:8). Name each"
                " dimension once."
            ),
        ),
        (
            changed(("episodes: 20", "episodes: 3\n  trials: [7, 7, 8]")),
            "eval.trials: holds 7 more than once (manifests/a.yaml:16). Name each trial once.",
        ),
        (
            changed(("episodes: 20", f"episodes: 20\n  trials: {[*range(10), *range(10)]}")),
            (
                "eval.trials: holds 0, 1, 2, 3, 4 and 5 more more than once (manifests/a.yaml:16)."
                " Name each trial once."
            ),
        ),
        (
            changed(("episodes: 20", "episodes: 20\n  trials: [7, 8]")),
            (
                "eval.trials: pins 2 trials, but eval.episodes is 20 (manifests/a.yaml:16). Set"
                " eval.episodes to 2, or pin 20 trials."
            ),
        ),
        (
            changed(LORA, ("batch_size: 16", TOKENIZER)),
            (
                "train.init: is missing: pi0_base_aloha_robotwin_lora fine-tunes pretrained"
                " weights (manifests/a.yaml:9). Give init: {checkpoint: ..., sha256: ...}, or"
                " write `init: null` if random weights are meant."
            ),
        ),
        (
            changed(("batch_size: 16", "batch_size: 15\n  processes: 2")),
            (
                "train.batch_size: 15 samples cannot be shared evenly by 2 CPU devices (processes"
                " x cpu_devices) (manifests/a.yaml:12). Use a multiple of 2, or fewer devices."
            ),
        ),
        (
            changed(("batch_size: 16", "cpu_devices: 4\n  fsdp_devices: 3")),
            (
                "train.fsdp_devices: 3 does not divide 4 CPU devices (processes x cpu_devices)"
                " (manifests/a.yaml:13). Use a divisor of 4."
            ),
        ),
        (
            changed(
                ("batch_size: 16", "batch_size: 15\n  processes: 2"),
                more="runtime: {engine: docker, gpus: 3}\n",
            ),
            (
                "train.processes: 2 processes cannot share 3 GPUs evenly (manifests/a.yaml:13)."
                " Use a divisor of 3, or change runtime.gpus."
            ),
        ),
        (
            changed(
                LORA,
                ("batch_size: 16", f"{TOKENIZER}\n  init: {{checkpoint: gs://a/b, sha256: {HEX}}}"),
            ),
            (
                'train.init.checkpoint: "gs://a/b" is on the network, and stages have none'
                " (manifests/a.yaml:13). Download it once and name the folder or file; its sha256"
                " says that it is the same."
            ),
        ),
        (
            changed(LORA, ("batch_size: 16", INIT)),
            (
                "train.tokenizer: is missing: pi0_base_aloha_robotwin_lora reads prompts with"
                " PaliGemma's SentencePiece model, which is not part of this project"
                " (manifests/a.yaml:9). Give tokenizer: {path: ..., sha256: ...}."
            ),
        ),
        (
            changed(more="runtime: {gpus: 1}\n"),
            (
                "runtime.gpus: 1 cannot be given to a stage: runtime.engine is host, which runs"
                " stages on the CPU (manifests/a.yaml:16). Use 0, or another engine."
            ),
        ),
        (
            changed(more="expect:\n  success_rate:\n    value: 0.9\n    margin: 0.05\n"),
            (
                "expect.success_rate.margin: eval.episodes: 20 is too few to decide a margin of"
                " 0.05 around 0.9 at alpha 0.05: a true claim would be confirmed with probability"
                " 0.00, and 0.8 is required (manifests/a.yaml:19). Set eval.episodes to 326, or"
                " widen the margin to 0.25."
            ),
        ),
        (
            changed(more="expect: {success_rate: {value: 0.5, margin: 0.001}}\n"),
            (
                "expect.success_rate.margin: eval.episodes: 20 is too few to decide a margin of"
                " 0.001 around 0.5 at alpha 0.05: a true claim would be confirmed with"
                " probability 0.00, and 0.8 is required (manifests/a.yaml:16). Widen the margin"
                " to 0.33."
            ),
        ),
        (
            changed(
                ("episodes: 20", "episodes: 1"),
                more="expect: {success_rate: {value: 0.5, margin: 0.4, alpha: 0.01}}\n",
            ),
            (
                "expect.success_rate.margin: eval.episodes: 1 is too few to decide a margin of"
                " 0.4 around 0.5 at alpha 0.01: a true claim would be confirmed with probability"
                " 0.00, and 0.8 is required (manifests/a.yaml:16). Set eval.episodes to 17."
            ),
        ),
        (
            changed(more="expect: {success_rate: {value: 0.4, margin: 0.6}}\n"),
            (
                "expect.success_rate.margin: 0.6 around 0.4 covers every rate from 0 to 1, so"
                " nothing could contradict it (manifests/a.yaml:16). Use less than 0.6."
            ),
        ),
    ],
)
def test_a_contradiction_is_named_with_every_way_out(text, error):
    assert refuse(text) == error


@pytest.mark.parametrize(
    "text",
    [
        changed(BASELINE),
        changed(("plan:\n  num_episodes_keep: 50\n", "plan: {}\n")),
        changed(BASELINE, more=""),
        evaluate(1000),
        evaluate(-1),
        evaluate("latest"),
        evaluate(500, save_interval=250),
        changed(("steps: 1000", "steps: 0"), ("episodes: 20", "episodes: 20\n  checkpoint: 0")),
        changed(more="norm_stats: {mode: reuse, path: ../a/norm_stats.json}\n"),
        changed(more="norm_stats: {mode: reuse, path: a.json, subset: none}\n"),
        changed(("episodes: 20", "episodes: 2\n  trials: [100001, 100000]")),
        changed(("batch_size: 16", "sampler_seed_override: 3\n  plan_aware_lr_scale: true")),
        changed(LORA, ("batch_size: 16", f"{INIT}\n  {TOKENIZER}")),
        changed(("batch_size: 16", TOKENIZER)),
        changed(more="runtime: {engine: docker, gpus: 1}\n"),
        changed(("batch_size: 16", "processes: 2\n  cpu_devices: 2\n  fsdp_devices: 4")),
        changed(("batch_size: 16", "batch_size: 16\n  processes: 2\n  sampler: counter")),
        changed(more="expect: {success_rate: {value: 0.9, margin: 0.25}}\n"),
        changed(more="expect: {}\n"),
    ],
)
def test_what_does_not_contradict_itself_is_accepted_without_a_word(text):
    assert read(text).warnings == ()


def test_random_weights_for_a_pretrained_preset_are_accepted_with_a_warning():
    manifest = read(changed(LORA, ("batch_size: 16", f"init: null\n  {TOKENIZER}")))
    (warning,) = manifest.warnings
    assert format_path(warning.path) == "train.init"
    assert warning.text("a.yaml") == (
        "train.init: is null: pi0_base_aloha_robotwin_lora starts from random weights, not from"
        " pi0's (a.yaml:12). Such a policy is good for timing only; give init: {checkpoint, sha256}"
        " for results."
    )


def test_contradictions_are_reported_together():
    text = refuse(
        changed(
            ("num_episodes_keep: 50", "gripper_smooth_window: 2"),
            ("episodes: 20", "episodes: 20\n  checkpoint: 2000"),
            more="runtime: {gpus: 2}\n",
        )
    )
    assert text.startswith("manifests/a.yaml has 3 errors:\n- plan.gripper_smooth_window: 2")


def test_every_rule_is_in_the_list_once():
    import appliance.manifest.rules as rules

    named = {name for name in vars(rules) if name.startswith("check_")}
    assert {rule.__name__ for rule in RULES} == named
    assert len(RULES) == len(named)

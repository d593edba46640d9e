from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from appliance.manifest.finding import format_path
from appliance.manifest.model import Manifest
from appliance.manifest.schema import (
    SCHEMA_PATH,
    allowed_types,
    default_values,
    fill_defaults,
    iterate_keys,
    load_schema,
    schema_at,
)
from appliance.manifest.violation import WORDINGS
from appliance.plan.params import PlanParams
from appliance.policy.presets import PRESETS
from tests.manifest.samples import GOOD, read

KEYS = list(iterate_keys())
ANNOTATIONS = {"title", "description", "default", "examples", "patternErrorMessage"}
STRUCTURE = {"properties", "additionalProperties", "required", "items"}
JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}

DEFAULTS: Mapping[str, Any] = {
    "dataset.media": None,
    "plan": None,
    "plan.num_episodes_keep": None,
    "plan.episode_selection_seed": 0,
    "plan.valid_start_tail_keep": 0,
    "plan.stride": 2,
    "plan.plan_seed": 0,
    "plan.min_anchors": None,
    "plan.stage_strategy": "time_quantile",
    "plan.num_stages": 4,
    "plan.change_point_delta": 3,
    "plan.change_point_min_gap": 10,
    "plan.stage_balance": "uniform_over_stage",
    "plan.inv_freq_power": 1.0,
    "plan.clip_ratio": 5.0,
    "plan.epsilon_mix": 0.01,
    "plan.gripper_event_enabled": False,
    "plan.gripper_dims": [6, 13],
    "plan.gripper_smooth_window": 5,
    "plan.gripper_delta1": 1,
    "plan.gripper_delta2": 5,
    "plan.gripper_quantile_q": 0.95,
    "plan.gripper_min_gap": 10,
    "plan.gripper_event_mode": "soft_exp",
    "plan.gripper_sigma": 10.0,
    "plan.gripper_window_w": 5,
    "plan.gripper_gamma": 2.0,
    "plan.gripper_reduce": "max_abs",
    "plan.sampler_seed": 0,
    "plan.replacement": True,
    "norm_stats": {},
    "norm_stats.mode": "recompute",
    "norm_stats.subset": "episodes_valid",
    "norm_stats.asset_id": None,
    "norm_stats.path": None,
    "train.batch_size": None,
    "train.seed": 42,
    "train.num_workers": 2,
    "train.sampler": "torch",
    "train.processes": 1,
    "train.cpu_devices": 1,
    "train.fsdp_devices": None,
    "train.freeze_mode": "default",
    "train.budget_aware_schedule": False,
    "train.budget_warmup_ratio": 0.03,
    "train.budget_min_warmup_steps": 50,
    "train.plan_aware_lr_scale": False,
    "train.plan_target_effective_repeat": 50.0,
    "train.plan_lr_scale_power": 0.5,
    "train.plan_lr_min_scale": 0.05,
    "train.sampler_seed_override": None,
    "train.sampler_replacement_override": None,
    "train.save_interval": None,
    "train.init": None,
    "train.tokenizer": None,
    "eval.simulator": "robotwin",
    "eval.checkout": None,
    "eval.checkout.tree": None,
    "eval.embodiment": "stand_in",
    "eval.planner": "ik_toppra",
    "eval.shader": "minimal",
    "eval.task_config": "demo_clean",
    "eval.checkpoint": "latest",
    "eval.seed": 0,
    "eval.policy_seed": 0,
    "eval.instruction_type": "unseen",
    "eval.action_steps": 50,
    "eval.query_batch": 1,
    "eval.call_timeout_s": 600,
    "eval.sampling_steps": 10,
    "eval.trials": None,
    "eval.video": True,
    "runtime": {},
    "runtime.engine": "host",
    "runtime.cpu_threads": 2,
    "runtime.cpu_max_isa": "AVX2",
    "runtime.gpus": 0,
    "runtime.network": "none",
    "runtime.image": None,
    "runtime.image_digest": None,
    "runtime.memory_gib": None,
    "runtime.cpus": None,
    "runtime.pids": 4096,
    "expect": None,
    "expect.plan_sha256": None,
    "expect.norm_stats_sha256": None,
    "expect.content_digest": None,
    "expect.success_rate": None,
    "expect.success_rate.alpha": 0.05,
}
"""A default changed in the schema changes every manifest that leaves it out: change it here too."""


def test_the_schema_is_a_valid_draft_2020_12_schema():
    Draft202012Validator.check_schema(load_schema())
    assert load_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_defaults_are_the_agreed_ones():
    found = {format_path(path): part["default"] for path, part in KEYS if "default" in part}
    assert found == DEFAULTS


@pytest.mark.parametrize(("path", "part"), KEYS, ids=[format_path(path) for path, _ in KEYS])
def test_every_key_is_described_closed_and_required_or_defaulted(path, part):
    assert part["title"]
    assert part["description"].endswith(".")
    required = path[-1] in schema_at(path[:-1]).get("required", [])
    assert required != ("default" in part)
    if "properties" in part:
        assert part["additionalProperties"] is False
    if "pattern" in part:
        assert part["patternErrorMessage"].startswith("must be ")
        assert part["pattern"].endswith("$(?!\\n)"), "Python's $ lets a final newline through"
    if "default" in part:
        Draft202012Validator(part).validate(part["default"])
    for example in part.get("examples", []):
        Draft202012Validator(part).validate(example)


def test_every_keyword_of_the_schema_has_words_for_its_violation():
    parts = [part for _, part in KEYS]
    parts += [part["items"] for part in parts if "items" in part]
    used = {keyword for part in parts for keyword in part}
    assert used - ANNOTATIONS - STRUCTURE == set(WORDINGS)


def types_of(annotation: Any) -> set[str]:
    """The JSON types of a field's annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        return {"string"}
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return set().union(*map(types_of, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        return {"array"}
    if dataclasses.is_dataclass(annotation) or typing.get_origin(annotation) is Mapping:
        return {"object"}
    return {JSON_TYPES[annotation]}


def part_class(annotation: Any) -> Any:
    options = [annotation, *typing.get_args(annotation)]
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def literals(annotation: Any) -> set[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set().union(*map(literals, typing.get_args(annotation)))


def compare(cls: Any, schema: Mapping[str, Any]) -> None:
    hints = typing.get_type_hints(cls)
    own = {field.name: field for field in dataclasses.fields(cls)}
    if cls is Manifest:
        del own["source_path"], own["warnings"]
    assert list(own) == list(schema["properties"])
    for name, part in schema["properties"].items():
        field = own[name]
        assert field.default is dataclasses.MISSING, f"{name}: a default outside the schema"
        assert field.default_factory is dataclasses.MISSING
        assert types_of(hints[name]) == set(allowed_types(part)), name
        assert literals(hints[name]) == set(part.get("enum", ())), name
        inner = part_class(hints[name])
        if inner is not None:
            compare(inner, part)


def test_model_and_schema_have_the_same_keys_types_and_choices_and_defaults_only_in_the_schema():
    compare(Manifest, load_schema())


def test_plan_keys_and_defaults_are_those_of_the_plan_room():
    params = PlanParams()
    own = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    own["gripper_dims"] = list(own["gripper_dims"])
    assert default_values(("plan",)) == own


def test_training_configurations_are_those_of_the_policy_room():
    assert set(schema_at(("train", "config"))["enum"]) == set(PRESETS)


def test_a_manifest_without_optional_keys_gets_every_default():
    manifest = read(GOOD).as_dict()
    for path, part in KEYS:
        if "default" in part and part["default"] not in ({}, None):
            value: Any = manifest
            for step in path:
                value = value[step] if value is not None else None
            if path[:-1] != ("expect", "success_rate"):
                assert value == part["default"], path


def test_filling_defaults_twice_changes_nothing():
    once = read(GOOD).as_dict()
    assert fill_defaults(once) == once


def test_the_schema_file_is_what_an_editor_reads():
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    assert SCHEMA_PATH.name == "schema-v1.json"
    assert schema["$id"] == "urn:plan-star-appliance:manifest:v1"
    assert schema["properties"]["version"]["const"] == 1

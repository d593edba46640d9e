"""Whether a plan belongs to this training data (Plan-STaR section 3, order of the checks)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from appliance.episodes import name_some
from appliance.errors import PlanError
from appliance.plan.command import describe_build_command
from appliance.plan.files import check_plan_hash
from appliance.plan.plan import Plan


def check_plan_matches(
    plan: Plan,
    *,
    repo_id: str,
    dataset_len: int,
    action_horizon: int,
    batch_size: int,
    dataset_fingerprint: str | None,
    episode_digests: Mapping[int, str] | None = None,
) -> None:
    """Raise PlanError at the first difference between a plan and the data it shall train on.

    In order: sha256, repo_id, dataset_len, action_horizon_H, fingerprint, index range, number of
    anchors for this batch size. A fingerprint is compared when both sides have one;
    ``episode_digests`` (episode id -> SHA-256) let a mismatch name the episodes.
    """
    check_plan_hash(plan)
    _check_equal("repo_id", plan.meta.get("repo_id"), repo_id)
    _check_equal("dataset_len", plan.meta.get("dataset_len"), dataset_len)
    _check_equal("action_horizon_H", plan.meta.get("action_horizon_H"), action_horizon)
    recorded = plan.meta.get("dataset_fingerprint")
    if recorded is not None and dataset_fingerprint not in (None, recorded):
        raise PlanError(
            f"Sampling plan dataset_fingerprint mismatch: the plan was built from {recorded}, the"
            f" training data is {dataset_fingerprint}."
            f"{_describe_changes(plan, episode_digests)} The data changed; rebuild the plan with"
            f" `{describe_build_command(plan)}`."
        )
    rows = plan.anchor_indices
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= dataset_len):
        raise PlanError(
            f"Sampling plan index out of range: anchors reach from {int(rows.min())} to"
            f" {int(rows.max())}, the training data has rows 0 to {dataset_len - 1}. Rebuild the"
            " plan."
        )
    if len(rows) < batch_size:
        raise PlanError(
            f"Not enough anchors for one batch: anchors={len(rows)}, required>={batch_size}."
            " Try smaller stride or more demos."
        )


def find_changed_episodes(plan: Plan, episode_digests: Mapping[int, str]) -> list[int] | None:
    """Ids of episodes that differ from those the plan was built from, ascending.

    None when the plan does not hold its episodes' digests.
    """
    ids = plan.extra_arrays.get("dataset_episode_ids")
    digests = plan.extra_arrays.get("dataset_episode_digests")
    if ids is None or digests is None or ids.ndim != 1 or digests.shape != (len(ids), 32):
        return None
    recorded = {
        int(episode): digest.tobytes().hex() for episode, digest in zip(ids, digests, strict=True)
    }
    everywhere = sorted(recorded.keys() | episode_digests.keys())
    return [
        episode for episode in everywhere if recorded.get(episode) != episode_digests.get(episode)
    ]


def _check_equal(name: str, planned: object, actual: object) -> None:
    if planned != actual:
        raise PlanError(
            f"Sampling plan {name} mismatch: the plan has {planned!r}, the training data has"
            f" {actual!r}. Use the data the plan was built from, or rebuild the plan."
        )


def _describe_changes(plan: Plan, episode_digests: Mapping[int, str] | None) -> str:
    if episode_digests is None:
        return ""
    changed = find_changed_episodes(plan, episode_digests)
    if not changed:
        return ""
    return f" Changed episodes: {name_some(np.array(changed, dtype=np.int64))}."

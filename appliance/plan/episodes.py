"""The choice of the episodes a plan keeps (Plan-STaR section 1.1)."""

from __future__ import annotations

import numpy as np

from appliance.episodes import EpisodeTable, IntArray
from appliance.errors import PlanError
from appliance.plan.params import DEFAULT_EPISODES_KEEP


def select_episodes(
    table: EpisodeTable, num_episodes_keep: int | None, seed: int, *, has_episode_fields: bool
) -> IntArray:
    """Ids of the kept episodes, ascending; a draw without replacement unless all are kept.

    Raises PlanError when more are asked for than there are, or any choice is asked for in a
    dataset without episode columns.
    """
    total = len(table)
    if not has_episode_fields and num_episodes_keep not in (None, 1):
        raise PlanError(
            "Dataset missing episode_index/frame_index; episode subset sampling is unavailable."
            f" Set num_episodes_keep to 1 (it is {num_episodes_keep}) or add the columns."
        )
    keep = min(DEFAULT_EPISODES_KEEP, total) if num_episodes_keep is None else num_episodes_keep
    if keep > total:
        raise PlanError(
            f"Requested num_episodes_keep={keep} but dataset has {total} episodes."
            f" Use {total} or fewer."
        )
    episodes_all = np.sort(table.ids)
    if keep == total:
        return episodes_all
    return np.sort(np.random.default_rng(seed).choice(episodes_all, size=keep, replace=False))

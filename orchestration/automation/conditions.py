"""When Dagster's daemon materialises an asset by itself; `corgi run` does the same by a walk.

Both mean the same by "changed": an input has another data version, or the asset another code
version. An input that was materialised again with an equal digest is no change, so work stops where
its results are as they were.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from orchestration.partitions import ASKED_FOR

_NOW_CHANGED: Any = (  # Dagster 1.13 types what follows for asset checks as well
    dg.AutomationCondition.code_version_changed()
    | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
)
CHANGED = _NOW_CHANGED.since_last_handled().with_label("an input or the code has changed")
DUE = CHANGED & ~dg.AutomationCondition.missing()  # what was made once is kept up to date
READY_TO_MAKE = (
    DUE
    & ~dg.AutomationCondition.in_progress()
    # Inputs first: what waits for one that changes is made once, and not twice.
    & ~dg.AutomationCondition.any_deps_match(DUE | dg.AutomationCondition.in_progress())
).with_label("changed, and its inputs are up to date")


def automated(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset with the condition, unless it is of a group that is made by name only."""
    return asset.map_asset_specs(
        lambda spec: (
            spec
            if spec.group_name in ASKED_FOR
            else spec.replace_attributes(automation_condition=READY_TO_MAKE)
        )
    )


def keep_up_to_date() -> dg.AutomationConditionSensorDefinition:
    """The switch in Dagster's pages: off, the conditions start nothing."""
    return dg.AutomationConditionSensorDefinition(
        "keep_up_to_date",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
        description="Materialises what was made once and has changed since: an input's data "
        "version, or the code's. Everything downstream follows, training from scratch included.",
    )

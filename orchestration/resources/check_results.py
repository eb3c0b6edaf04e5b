"""What Dagster's instance says of asset checks."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg


def not_passed(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey]) -> list[str]:
    """Those whose latest evaluation is there and failed, each as "asset: check".

    A check that was never evaluated is left out: what it guards was then not made by Dagster.
    """
    found = []
    for key in checks:
        record = instance.get_latest_asset_check_evaluation_record(key)
        evaluation = record.event.asset_check_evaluation if record and record.event else None
        if evaluation is not None and not evaluation.passed:
            found.append(f"{key.asset_key.to_user_string()}: {key.name}")
    return found

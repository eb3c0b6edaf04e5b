"""What people and automations start by name."""

import dagster as dg

from orchestration.partitions import priors

semi_supervised_priors = dg.define_asset_job(
    "semi_supervised_priors",
    selection=["prior"],
    partitions_def=priors,
    description="Train the priors of one or more (variant, caption subset) partitions.",
)


@dg.op
def bring_up_to_date(context: dg.OpExecutionContext) -> None:
    """Materialise what is missing or out of date, stage by stage, as `corgi demo` does."""
    from orchestration.refresh import refresh

    for step in refresh(context.instance):
        context.log.info(f"materialising {step.title}")


@dg.job(description="Bring all assets up to date: what is done and unchanged is not done again.")
def everything() -> None:
    bring_up_to_date()

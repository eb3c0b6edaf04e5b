"""The proxy before Dagster's and MLflow's pages: whom it lets through, and how it forwards."""

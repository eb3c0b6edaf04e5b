-- Run once, when PostgreSQL's volume is empty. Dagster's database is made by POSTGRES_DB.
CREATE DATABASE mlflow;

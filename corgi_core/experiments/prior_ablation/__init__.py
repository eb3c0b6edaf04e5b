"""The study of the prior: many small trainings that differ in one thing at a time, and figures."""

"""The study of the prior: small trainings that differ in one thing at a time, and figures."""

"""Prompt suites: their files, the pictures that models make of them, and pages to look at."""

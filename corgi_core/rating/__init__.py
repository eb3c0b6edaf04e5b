"""Human evaluation: people vote between models' pictures without knowing whose they are."""

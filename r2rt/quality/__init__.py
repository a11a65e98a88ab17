"""How far two models agree, and how a model learns that a query is absent."""

"""The fleet's server: broker link, ingest, store, depot, rollouts, and their HTTP interface."""

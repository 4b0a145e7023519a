"""The fleet's page in a browser: sign-in, and pages that only read (docs/server.md)."""

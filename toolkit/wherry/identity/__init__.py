"""Who is who in a fleet: its certificate authority, claims, certificates, revocation."""

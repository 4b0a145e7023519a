"""The line to the fleet: MQTT, the outbox, commands."""

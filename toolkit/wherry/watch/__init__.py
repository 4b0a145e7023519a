"""Files for those who watch: Prometheus, Grafana, any reader of the messages."""

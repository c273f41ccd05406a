"""The sources of grafana/dashboards and grafana/alerting."""

"""What Grafana is given; made by `python -m grafana.generate`."""

"""Trainings and probes of loss landscapes. Knows torch; never Ray, never the orchestrator."""

"""The stages of the main job; ``ttq_energy.profiler`` runs them in order."""

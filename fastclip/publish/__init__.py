"""Results and trainings for other programs to show: experiment trackers and model cards. No torch."""

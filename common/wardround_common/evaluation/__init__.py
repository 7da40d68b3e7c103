"""What a fitted model is judged by, from sums alone: scores, calibration, subgroups, residuals."""

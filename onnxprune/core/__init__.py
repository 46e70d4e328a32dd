"""What every package shares: errors, progress, costs, scores, plans, results, execution. Imports nothing of ours."""

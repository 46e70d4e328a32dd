"""What every package uses: errors, progress, costs, scores, plans, results, execution. Imports no other package."""

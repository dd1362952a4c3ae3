"""What training and the tools cost, measured side by side: RESULTS.md."""

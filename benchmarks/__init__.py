"""Performance of the service, as ratios to yardsticks on the same machine in the same minute."""

"""How fast the service is, as ratios to what stands beside it on the same machine in the same minute."""

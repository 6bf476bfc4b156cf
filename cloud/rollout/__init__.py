"""Rollouts: the plan, what devices say, the verdict, and the controller that acts on it."""

"""The device side of Covey: pulls signed models, answers locally and sends sums back when there is a network."""

"""The cloud side of Covey: data, training, precomputed answers, signing, rollouts and the fleet's evidence."""

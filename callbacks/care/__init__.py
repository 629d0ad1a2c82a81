"""What keeps a run healthy: averaged weights, a guard against NaN and spikes, seeds, stops that lose nothing."""

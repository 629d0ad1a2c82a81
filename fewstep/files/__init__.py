"""The disk and the hub: durable writes, names, pictures, plain JSON, weights; nothing here computes a loss."""

"""What networks cost: parameters, multiply-adds, memory, speed; layer by layer, and compared."""

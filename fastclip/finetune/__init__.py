"""Fine-tuning: weights that learn the classes of one domain, to be tested on another."""

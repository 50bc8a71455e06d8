"""What stage two stands on: banks of features, their batches and statistics, and classifiers that can be scaled."""

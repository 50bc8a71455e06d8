"""A trained model for those who only want answers: predictor, exported program, client."""

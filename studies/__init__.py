"""What a study evaluates: data, scenes, episodes, encoder, recommender, learners, metrics, objective."""

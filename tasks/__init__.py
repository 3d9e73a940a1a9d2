"""The stages, a room each; data walks raw → dataset → model → evaluation → release."""

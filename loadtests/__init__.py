"""Load tests for Locust that count from the moment a call was due; README.md says how to run them."""
